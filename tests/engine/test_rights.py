"""The printed policies are enough for what they are for, and for nothing else.

Two things apply them. `tests/faults/rights.py` is ours, in a proxy before moto: it looks at every request and knows the
conditions `s3:if-none-match`, `s3:prefix` and `s3:object-lock-remaining-retention-days`. moto's own IAM looks at actions,
resources and signatures with code that is not ours; it knows no conditions, so they are taken out of what it is given.
"""

from __future__ import annotations

import copy
import http.client
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_object_lock import Bucket, set_up
from tests.faults.proxy import Proxy, proxy_before
from tests.faults.rights import enforce
from tests.faults.stores import moto_server, settings_for, write_credentials
from tests.unit.test_cli_repository import make_host
from trinity_snap.errors import TargetDenied
from trinity_snap.targets.s3 import S3Target
from trinity_snap.targets.s3_lock import Retention, extend_retention
from trinity_snap.targets.s3_policy import control_policy, heal_policy, host_policy
from trinity_snap.targets.s3_versions import list_versions, put_over, read_version, remove_version

__all__ = ["make_host"]  # a fixture

Operation = Callable[[], object]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with moto_server() as endpoint, proxy_before(endpoint) as proxy:
        client = S3Target(settings_for(endpoint, write_credentials(tmp_path_factory.mktemp("credentials")))).client
        client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
        yield proxy


@pytest.fixture
def locked(make_host, store: Proxy) -> Bucket:
    bucket = set_up(make_host(), store, "locked", {"mode": "governance", "days": 10})
    bucket.host.json("init")
    return bucket


def days(number: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=number)


def refused(operations: list[Operation]) -> None:
    for operation in operations:
        with pytest.raises(TargetDenied):
            operation()


def beyond_a_host(target: S3Target) -> list[Operation]:
    """What nobody with a host's rights may do: read history, replace, delete, look at or touch anything else."""
    client, bucket = target.client, target.bucket
    point, session, pack, index = (
        next(target.list_prefix(kind)) for kind in ("points/", "sessions/", "packs/", "index/")
    )
    run, suspended = target.run, {"Status": "Suspended"}
    return [
        *(lambda name=name: target.get(name) for name in (point, session, pack)),
        lambda: target.get_range(pack, 0, 10),
        *(lambda name=name: target.stat(name) for name in (point, session, pack)),
        *(lambda name=name: target.delete(name) for name in (point, session, pack, index, "repository")),
        lambda: list_versions(target),
        lambda: run("", lambda _: client.get_object(Bucket=bucket, Key="another/host/index/x")),
        lambda: run("", lambda _: client.put_object(Bucket=bucket, Key="another/x", Body=b"", IfNoneMatch="*")),
        lambda: run("", lambda _: client.delete_bucket(Bucket=bucket)),
        lambda: run("", lambda _: client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=suspended)),
        lambda: run("", lambda _: client.get_bucket_policy(Bucket=bucket)),
        lambda: run("", lambda _: client.put_bucket_lifecycle(Bucket=bucket, LifecycleConfiguration={"Rules": []})),
    ]  # fmt: skip


def test_a_host_backs_up_and_locks_with_its_rights_and_can_do_nothing_else(locked: Bucket, store: Proxy) -> None:
    target, client, bucket = locked.target, locked.target.client, locked.target.bucket
    store.rule = enforce(host_policy(target.url, lock_days=10))
    locked.host.back_up()
    locked.host.json("target", "check")
    store.rule = lambda request: None
    (point,) = locked.names("points/")
    key = target.root + point
    versions = {name: found[-1] for name, found in list_versions(target).items()}
    store.rule = enforce(host_policy(target.url, lock_days=10))
    shorter: dict[str, Any] = {
        "Bucket": bucket,
        "Key": key,
        "Retention": {"Mode": "GOVERNANCE", "RetainUntilDate": days(0.1)},
    }
    new = f"{target.root}points/{'0' * 32}"
    lock = {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": days(365)}
    refused(
        [
            *beyond_a_host(target),
            lambda: target.run("", lambda _: client.list_objects_v2(Bucket=bucket)),
            lambda: target.run("", lambda _: client.list_objects_v2(Bucket=bucket, Prefix="another/host/")),
            lambda: put_over(target, point, b"replaced"),
            lambda: remove_version(target, versions[point]),
            lambda: read_version(target, versions[point]),
            lambda: extend_retention(target, point, "", Retention("compliance", days(365))),
            lambda: target.run("", lambda _: client.put_object(Bucket=bucket, Key=new, Body=b"", IfNoneMatch="*", **lock)),
            lambda: target.run("", lambda _: client.put_object_retention(BypassGovernanceRetention=True, **shorter)),
        ]
    )  # fmt: skip
    extend_retention(target, point, "", Retention("governance", days(10)))  # no more than a put could have done


def test_the_control_node_extends_and_restores_and_only_healing_may_delete_versions(
    locked: Bucket, store: Proxy, tmp_path: Path
) -> None:
    target = locked.target
    locked.host.back_up()
    (pack, *_) = locked.names("packs/")
    store.rule = enforce(control_policy(target.url, lock=True))
    assert locked.host.json("target", "extend", "--days", "400")["missing"] == []
    assert locked.restored(tmp_path / "back") == "content"
    target.delete(pack)
    assert [one["name"] for one in locked.host.json("target", "heal", "--dry-run")["repaired"]] == [pack]
    marker = list_versions(target)[pack][0]
    refused([lambda: remove_version(target, marker)])
    store.rule = enforce(heal_policy(target.url, lock=True))
    assert locked.host.json("target", "heal")["repaired"][0]["copied"] is False
    store.rule = enforce(control_policy(target.url))
    refused([lambda: extend_retention(target, pack, "", Retention("governance", days(500)))])


# -- moto's own IAM -------------------------------------------------------------------------------------------------


def without_conditions(policy: dict[str, object]) -> str:
    bare: dict[str, Any] = copy.deepcopy(policy)
    for statement in bare["Statement"]:
        statement.pop("Condition", None)
    return json.dumps(bare)


def authorize_from(endpoint: str, first: str) -> None:
    """Tell moto from which request on it authorizes; this is kept by the process."""
    connection = http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=60)
    connection.request("POST", "/moto-api/reset-auth", first)
    assert connection.getresponse().status == 200
    connection.close()


@pytest.fixture
def as_user(locked: Bucket, store: Proxy, tmp_path: Path) -> Iterator[Callable[[dict[str, object]], S3Target]]:
    """Makes a user with that policy, without its conditions, gives the host its keys, and has moto's IAM look at everything."""
    import boto3

    iam = boto3.client(
        "iam", endpoint_url=store.address, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    users: list[str] = []

    def use(policy: dict[str, object]) -> S3Target:
        authorize_from(store.address, "inf")
        name = f"{tmp_path.name}-{len(users)}"
        users.append(name)
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="only", PolicyDocument=without_conditions(policy))
        keys = iam.create_access_key(UserName=name)["AccessKey"]
        path = locked.host.policy.parent / "s3-credentials"
        path.write_text(
            f"[default]\naws_access_key_id = {keys['AccessKeyId']}\naws_secret_access_key = {keys['SecretAccessKey']}\n"
        )
        authorize_from(store.address, "0")
        return S3Target(settings_for(store.address, path, locked.target.url))

    try:
        yield use
    finally:
        authorize_from(store.address, "inf")


def test_with_the_iam_of_another_a_host_makes_backups_and_can_do_nothing_else(
    locked: Bucket, as_user: Callable[[dict[str, object]], S3Target]
) -> None:
    target = as_user(host_policy(locked.target.url, lock_days=10))
    locked.host.back_up()
    locked.host.json("target", "check")
    refused(beyond_a_host(target))


def test_with_the_iam_of_another_the_control_node_does_its_work(
    locked: Bucket, tmp_path: Path, as_user: Callable[[dict[str, object]], S3Target]
) -> None:
    locked.host.back_up()
    (pack, *_) = locked.names("packs/")
    target = as_user(control_policy(locked.target.url, lock=True))
    assert locked.host.json("target", "extend", "--days", "400")["missing"] == []
    assert locked.restored(tmp_path / "back") == "content"
    target.delete(pack)
    refused([lambda: remove_version(target, list_versions(target)[pack][0])])
    as_user(heal_policy(locked.target.url, lock=True))
    assert locked.host.json("target", "heal")["repaired"][0]["copied"] is False
    assert locked.host.json("verify", "--read-data")["good"] is True
