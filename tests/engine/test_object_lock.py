"""Object lock and versions in a bucket: what is stored is locked, what is needed stays so, and harm can be undone.

moto knows locks and versions; rclone's server knows neither.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.faults.proxy import Proxy, proxy_before, refusal
from tests.faults.stores import moto_server, rclone_server, settings_for, write_credentials
from tests.unit.test_cli_repository import Host, make_host
from trinity_snap import __main__ as entry
from trinity_snap.errors import TargetDenied, TargetError
from trinity_snap.targets import TargetSettings
from trinity_snap.targets.probe import probe
from trinity_snap.targets.s3 import S3Target
from trinity_snap.targets.s3_lock import Retention, extend_retention, retention_of
from trinity_snap.targets.s3_versions import Version, list_versions, remove_version
from trinity_snap.trusted import heal as heal_module
from trinity_snap.trusted.extend import lock_end

__all__ = ["make_host"]  # a fixture


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with moto_server() as endpoint, proxy_before(endpoint) as proxy:
        client = S3Target(settings_for(endpoint, write_credentials(tmp_path_factory.mktemp("credentials")))).client
        client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
        client.create_bucket(Bucket="versioned")
        client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
        yield proxy


def set_up(host: Host, store: Proxy, bucket: str, lock: dict[str, object] | None) -> Bucket:
    host.policy.parent.mkdir(exist_ok=True)
    credentials = write_credentials(host.policy.parent)
    store.rule = lambda request: None
    url = f"s3://{bucket}/{host.home.parent.name}/{host.home.name}"
    target: dict[str, object] = {"url": url, "endpoint": store.address, "credentials_file": "s3-credentials"}
    if lock is not None:
        target["lock"] = lock
    document = {"target": target, "state": {"directory": str(host.home / "state")}}
    host.policy.write_text(json.dumps(document))
    host.policy.chmod(0o600)
    return Bucket(host, S3Target(settings_for(store.address, credentials, url)))


class Bucket:
    """A host with its repository in a bucket, and somebody with every right there."""

    def __init__(self, host: Host, target: S3Target) -> None:
        self.host, self.target = host, target

    def names(self, prefix: str = "") -> list[str]:
        return sorted(self.target.list_prefix(prefix))

    def overwrite(self, name: str, data: bytes = b"garbage", **options: Any) -> None:
        self.target.client.put_object(
            Bucket=self.target.bucket, Key=self.target.root + name, Body=data, ContentMD5=md5(data), **options
        )

    def delete(self, name: str, version: str | None = None, **options: Any) -> None:
        which = {} if version is None else {"VersionId": version}
        self.target.run(
            "",
            lambda _: self.target.client.delete_object(
                Bucket=self.target.bucket, Key=self.target.root + name, **which, **options
            ),
        )

    def locks(self) -> dict[str, Retention | None]:
        return {
            name: retention_of(self.target, name, versions[-1].id)
            for name, versions in list_versions(self.target).items()
        }

    def restored(self, directory: Path) -> str:
        self.host.text("restore", "web", "--to", str(directory))
        (file,) = directory.rglob("sub/file")
        return file.read_text()


def md5(data: bytes) -> str:
    import base64
    import hashlib

    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


@pytest.fixture
def locked(make_host, store: Proxy) -> Bucket:
    bucket = set_up(make_host(), store, "locked", {"mode": "governance", "days": 10})
    bucket.host.json("init")
    bucket.host.back_up()
    return bucket


@pytest.fixture
def versioned(make_host, store: Proxy) -> Bucket:
    bucket = set_up(make_host(), store, "versioned", None)
    bucket.host.json("init")
    bucket.host.back_up()
    return bucket


def test_every_object_is_locked_for_as_long_as_the_policy_says(locked: Bucket) -> None:
    identity = locked.host.home / "second"
    locked.host.json("key", "new", str(identity), "--label", "second")
    locked.host.json("key", "add", f"{identity}.recipient")
    locks = locked.locks()
    assert {name.partition("/")[0] for name in locks} == {
        "repository", "recipients", "sessions", "packs", "index", "points",
    }  # fmt: skip
    for name, lock in locks.items():
        assert lock is not None and lock.mode == "governance", name
        assert timedelta(days=9, hours=23) < lock.until - datetime.now(UTC) <= timedelta(days=10), name


def test_what_is_locked_cannot_be_deleted_by_anybody(locked: Bucket, tmp_path: Path) -> None:
    for name, (version,) in list_versions(locked.target).items():
        with pytest.raises(TargetDenied):
            locked.delete(name, version.id)
        locked.overwrite(name)
        locked.delete(name)
    assert locked.names() == []
    for versions in list_versions(locked.target).values():
        assert len(versions) == 3
        with pytest.raises(TargetDenied):
            locked.delete(versions[1].name, versions[-1].id if not versions[-1].marker else versions[-2].id)
    since = ("--deleted-since", "1h ago")
    locked.host.json("target", "heal", *since)
    assert locked.restored(tmp_path / "back") == "content"
    assert locked.host.json("verify", "--read-data")["good"] is True


def test_a_bucket_without_object_lock_is_refused_before_anything_is_stored(make_host, store: Proxy) -> None:
    bucket = set_up(make_host(), store, "versioned", {"mode": "compliance", "days": 7})
    before = bucket.host.files()
    for arguments in (("init",), ("target", "check")):
        answer = bucket.host.json(*arguments, code=1)
        assert "does not lock objects" in answer["message"]
        assert answer["next_step"]
    assert bucket.host.files() == before
    found = bucket.target.client.list_object_versions(Bucket="versioned", Prefix=bucket.target.root)
    assert not found.get("Versions") and not found.get("DeleteMarkers")


def test_a_run_says_so_when_a_bucket_cannot_lock_and_stores_nothing(make_host, store: Proxy) -> None:
    """The policy was changed after `init`; the put itself is refused, not only a question before it."""
    bucket = set_up(make_host(), store, "versioned", None)
    bucket.host.json("init")
    set_up(bucket.host, store, "versioned", {"mode": "governance"})
    before = bucket.names()
    with pytest.raises(TargetError, match="does not lock objects"):
        bucket.host.back_up()
    assert bucket.names() == before


def test_a_store_that_knows_no_locks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bucket").mkdir()
    credentials = write_credentials(tmp_path)
    with rclone_server(tmp_path) as endpoint:
        settings = settings_for(endpoint, credentials)
        wanted = TargetSettings(**{**vars(settings), "lock_mode": "governance"})
        with pytest.raises(TargetError, match="does not lock objects"):
            probe(S3Target(wanted))
        assert probe(S3Target(settings)).object_lock is False
    assert list((tmp_path / "bucket").rglob("*")) == []


def test_check_shows_what_the_policy_asks_for_and_what_the_bucket_does_by_default(locked: Bucket, store: Proxy) -> None:
    protection = locked.host.json("target", "check")["protection"]
    assert protection["object_lock"] is True
    assert protection["lock"] == {"mode": "governance", "days": 10}
    assert (protection["object_lock_days"], protection["object_lock_mode"]) == (0, None)
    assert "for 10 days nobody" in protection["consequences"][-1]
    assert "Default of the bucket: none" in protection["consequences"][-1]
    client = locked.target.client
    client.create_bucket(Bucket="by-default", ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Years": 1}}
    client.put_object_lock_configuration(
        Bucket="by-default", ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    set_up(locked.host, store, "by-default", None)
    protection = locked.host.json("target", "check")["protection"]
    assert protection["lock"] is None
    assert (protection["object_lock_days"], protection["object_lock_mode"]) == (365, "compliance")


def test_locks_of_what_is_needed_are_extended_and_those_of_nothing_else(locked: Bucket, store: Proxy) -> None:
    first = locked.names()
    stray = f"packs/ab/ab{'0' * 62}"
    locked.overwrite(stray)
    forged = f"index/{'1' * 32}"
    locked.overwrite(forged)
    before = locked.locks()
    tried = locked.host.json("target", "extend", "--days", "40", "--dry-run")
    assert (tried["extended"], tried["long_enough"], tried["missing"]) == (len(first), 0, [])
    assert locked.locks() == before
    done = locked.host.json("target", "extend", "--days", "40")
    assert done == {**tried, "dry_run": False}
    after = locked.locks()
    for name in first:
        lock = after[name]
        assert lock is not None and lock.mode == "governance"
        assert lock.until == lock_end(40) and timedelta(days=40) <= lock.until - datetime.now(UTC)
    assert after[stray] is None and after[forged] is None
    store.forget()
    again = locked.host.json("target", "extend", "--days", "40")
    assert (again["extended"], again["long_enough"]) == (0, len(first))
    assert store.count("PUT") == 0
    assert store.count("HEAD") <= len(first)
    shorter = locked.host.json("target", "extend", "--days", "5")
    assert shorter["extended"] == 0
    assert locked.locks() == after


def test_an_extension_that_breaks_off_goes_on_where_it_was(locked: Bucket, store: Proxy) -> None:
    names = locked.names()
    (session,) = locked.names("sessions/")
    store.rule = lambda request: (
        refusal(403, "AccessDenied") if "retention" in request.path and session in request.path else None
    )
    assert locked.host.json("target", "extend", code=1)["error"] == "TargetDenied"
    done = sum(lock is not None and lock.until == lock_end(10) for lock in locked.locks().values())
    assert 0 < done < len(names)
    store.rule = lambda request: None
    rest = locked.host.json("target", "extend")
    assert (rest["extended"], rest["long_enough"]) == (len(names) - done, done)


def test_an_object_locked_in_another_mode_keeps_it(locked: Bucket) -> None:
    (point,) = locked.names("points/")
    extend_retention(locked.target, point, "", Retention("compliance", lock_end(11)))
    locked.host.json("target", "extend", "--days", "20")
    assert locked.locks()[point] == Retention("compliance", lock_end(20))


def test_the_original_is_extended_and_not_what_was_put_over_it(locked: Bucket) -> None:
    (pack, *_) = locked.names("packs/")
    (session,) = locked.names("sessions/")
    locked.overwrite(pack)
    locked.delete(session)
    assert locked.host.json("verify", code=90)["overwritten"] == [pack]
    answer = locked.host.json("target", "extend", "--days", "40")
    assert answer["hidden"] == [pack, session]
    versions = list_versions(locked.target)
    for name, version in ((pack, versions[pack][-1]), (session, next(v for v in versions[session] if not v.marker))):
        lock = retention_of(locked.target, name, version.id)
        assert lock is not None and lock.until == lock_end(40)
    assert retention_of(locked.target, pack, versions[pack][0].id) is None


@pytest.mark.parametrize("harm", ["overwritten", "deleted", "overwritten and deleted"])
def test_whatever_was_overwritten_or_deleted_comes_back_as_it_was(versioned: Bucket, tmp_path: Path, harm: str) -> None:
    identity = versioned.host.home / "second"
    versioned.host.json("key", "new", str(identity), "--label", "second")
    versioned.host.json("key", "add", f"{identity}.recipient")
    names = versioned.names()
    assert len(names) >= 6
    before = {name: (versioned.target.get(name), versioned.target.stat(name)) for name in names}
    for name in names:
        if harm != "deleted":
            versioned.overwrite(name)
        if harm != "overwritten":
            versioned.delete(name)
    arguments = ["target", "heal", "--deleted-since", "1h ago"]
    tried = versioned.host.json(*arguments, "--dry-run")
    assert sorted(one["name"] for one in tried["repaired"]) == names
    assert {one["harm"] for one in tried["repaired"]} == {"overwritten" if harm == "overwritten" else "deleted"}
    done = versioned.host.json(*arguments)
    assert not any(one["copied"] for one in done["repaired"])
    assert {name: (versioned.target.get(name), versioned.target.stat(name)) for name in names} == before
    assert versioned.restored(tmp_path / "back") == "content"
    assert versioned.host.json("target", "heal", "--deleted-since", "1h ago")["repaired"] == []


def test_a_deleted_point_comes_back_only_when_asked_for(versioned: Bucket) -> None:
    """Retention deletes points too, and nothing tells the one from the other."""
    (point,) = versioned.names("points/")
    (pack, *_) = versioned.names("packs/")
    versioned.delete(point)
    answer = versioned.host.json("target", "heal")
    assert (answer["repaired"], answer["deleted_points"]) == ([], [point.removeprefix("points/")])
    assert versioned.host.json("verify")["deleted_points"] == [point.removeprefix("points/")]
    versioned.delete(pack)
    assert versioned.host.json("target", "heal")["repaired"] == []
    answer = versioned.host.json("target", "heal", "--deleted-since", "1h ago")
    assert [one["name"] for one in answer["repaired"]] == [pack, point]
    assert versioned.host.json("verify", "--read-data")["good"] is True


def test_bytes_come_back_on_top_of_what_is_locked_itself(locked: Bucket, tmp_path: Path) -> None:
    (pack, *_) = locked.names("packs/")
    until = datetime.now(UTC) + timedelta(days=3)
    locked.overwrite(pack, ObjectLockMode="GOVERNANCE", ObjectLockRetainUntilDate=until)
    answer = locked.host.json("target", "heal")
    assert [(one["name"], one["copied"]) for one in answer["repaired"]] == [(pack, True)]
    assert locked.restored(tmp_path / "back") == "content"
    assert locked.host.json("target", "heal")["repaired"] == []


def test_healing_that_is_killed_anywhere_is_done_again_and_shows_no_point_before_what_it_needs(
    versioned: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = versioned.names()
    for name in names:
        versioned.overwrite(name)
        versioned.delete(name)
    calls = [0]

    def dies_at_the_third(target: S3Target, version: Version) -> None:
        calls[0] += 1
        if calls[0] % 3 == 0:
            raise KeyboardInterrupt
        remove_version(target, version)

    monkeypatch.setattr(heal_module, "remove_version", dies_at_the_third)
    arguments = ("target", "heal", "--deleted-since", "1h ago")
    for _ in range(2 * len(names)):
        code = entry.run([*arguments, "--policy", str(versioned.host.policy)])
        there = {name for name in versioned.names() if versioned.target.stat(name).size > len(b"garbage")}
        assert not any(name.startswith("points/") for name in there) or there == set(names)
        if not code:
            break
    assert there == set(names)
    monkeypatch.undo()
    assert versioned.host.json("verify", "--read-data")["good"] is True


def test_healing_without_the_right_to_delete_versions_says_so_and_copies_nothing(
    versioned: Bucket, store: Proxy
) -> None:
    (pack, *_) = versioned.names("packs/")
    versioned.delete(pack)
    before = list_versions(versioned.target)
    store.rule = lambda request: refusal(403, "AccessDenied") if request.method == "DELETE" else None
    answer = versioned.host.json("target", "heal", code=1)
    assert "--heal" in answer["next_step"]
    assert list_versions(versioned.target) == before


def test_what_has_no_good_version_is_named(versioned: Bucket) -> None:
    (pack, *_) = versioned.names("packs/")
    (version,) = list_versions(versioned.target)[pack]
    versioned.overwrite(pack)
    versioned.overwrite(pack, b"more garbage")
    versioned.delete(pack, version.id)
    (session,) = versioned.names("sessions/")
    answer = versioned.host.json("target", "heal", code=90)
    assert [one["name"] for one in answer["lost"]] == [pack]
    assert session not in json.dumps(answer)


def test_who_has_only_the_identity_heals_a_repository_object_that_was_forged(versioned: Bucket) -> None:
    """The control node has no host key, and finds the real repository behind an invented one."""
    from trinity_snap.repository.identity import load_identity
    from trinity_snap.repository.keys import generate_host_secret
    from trinity_snap.repository.repository import Repository
    from trinity_snap.targets import open_target

    host = versioned.host
    identity = load_identity(host.policy.parent / "identity.key")
    invented = open_target(str(host.home / "invented"), create=True)
    Repository.create(invented, generate_host_secret(), [identity.recipient])
    versioned.overwrite("repository", invented.get("repository"))
    (host.policy.parent / "host.key").rename(host.home / "host.key")
    repaired = host.json("target", "heal")["repaired"]
    assert [one["name"] for one in repaired] == ["repository"]
    (host.home / "host.key").rename(host.policy.parent / "host.key")
    assert host.json("verify")["good"] is True


def test_a_directory_has_no_versions_and_says_so(make_host) -> None:
    host = make_host("local")
    host.policy.parent.mkdir()
    host.policy.write_text(f"target: {host.home / 'repository'}\n")
    host.policy.chmod(0o600)
    host.json("init")
    for command in ("extend", "heal"):
        assert "keeps no versions" in host.text("target", command, code=2)
