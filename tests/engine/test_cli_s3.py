"""The command line with a repository in a bucket: what it prints, and what it never does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.proxy import Proxy, proxy_before, refusal
from tests.faults.stores import ACCESS, SECRET, moto_server, settings_for, write_credentials
from tests.unit.test_cli_repository import Host, make_host, run_record
from trinity_snap.targets.retries import Retries
from trinity_snap.targets.s3 import S3Target

__all__ = ["make_host"]  # a fixture


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with moto_server() as endpoint, proxy_before(endpoint) as proxy:
        credentials = write_credentials(tmp_path_factory.mktemp("credentials"))
        client = S3Target(settings_for(endpoint, credentials)).client
        client.create_bucket(Bucket="bucket")
        client.put_bucket_versioning(Bucket="bucket", VersioningConfiguration={"Status": "Enabled"})
        yield proxy


@pytest.fixture
def host(make_host, store: Proxy, tmp_path: Path) -> Host:
    store.rule = lambda request: None
    host: Host = make_host()
    host.policy.parent.mkdir()
    write_credentials(host.policy.parent)
    write_policy(host, f"s3://bucket/{tmp_path.name}/host1", store.address)
    return host


def write_policy(host: Host, url: str, endpoint: str) -> None:
    target = {"url": url, "endpoint": endpoint, "region": "us-east-1", "credentials_file": "s3-credentials"}
    document = {"target": target, "state": {"directory": str(host.home / "state")}}
    host.policy.write_text(json.dumps(document))
    host.policy.chmod(0o600)


def test_a_repository_in_a_bucket_from_init_to_restore(host: Host, store: Proxy, tmp_path: Path) -> None:
    made = host.json("init")
    assert made["target"].startswith("s3://bucket/")
    assert made["same_disk"] is False
    assert made["protection"]["refuses_overwriting"] is True
    assert made["protection"]["versioning"] is True
    assert made["protection"]["object_lock_days"] == 0
    assert "Versions are kept" in made["protection"]["consequences"][0]
    again = host.json("init", "--target", made["target"] + "/")
    assert (again["changed"], again["protection"]) == (False, None)
    assert "says s3://bucket/other" in host.text("init", "--target", "s3://bucket/other", code=2)
    point = host.back_up()
    assert [one["id"] for one in host.json("list")["points"]] == [point]
    host.text("restore", "web", "--to", str(tmp_path / "back"))
    (restored,) = (tmp_path / "back").rglob("sub/file")
    assert restored.read_text() == "content"
    checked = host.json("target", "check")
    assert (checked["repository"], checked["protection"]["versioning"]) == (True, True)
    everything = json.dumps([made, again, checked]) + host.text("policy", "show") + host.text("target", "check")
    kept = b"".join(path.read_bytes() for path in (host.home / "state").rglob("*") if path.is_file())
    for secret in (ACCESS, SECRET):
        assert secret not in everything and secret.encode() not in kept


@pytest.mark.parametrize(
    ("status", "code"), [(403, "InvalidAccessKeyId"), (404, "NoSuchBucket"), (301, "PermanentRedirect")]
)
def test_init_at_a_store_that_refuses_makes_nothing(host: Host, store: Proxy, status: int, code: str) -> None:
    store.rule = lambda request: refusal(status, code) if request.method != "HEAD" else None
    before = host.files()
    answer = host.json("init", code=1)
    assert answer["error"] in ("TargetDenied", "TargetError")
    assert "bucket" in answer["message"]
    assert answer["next_step"]
    assert host.files() == before


def test_status_says_what_the_host_remembers_when_the_store_is_away(
    host: Host, store: Proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host.text("init")
    point = host.back_up()
    run_record(host, 1, point=point, consistency="crash-consistent")
    assert host.json("status")["target_error"] is None
    store.rule = lambda request: refusal(503, "SlowDown")
    monkeypatch.setattr("trinity_snap.targets.s3.Retries", lambda: Retries(attempts=5, sleep=lambda _: None))
    answer = host.json("status", "--max-age", "1h", code=1)
    (web,) = answer["agents"]
    assert (answer["source"], answer["stale"], web["point"], web["points"]) == ("runs", ["web"], point, 1)
    assert "503" in answer["target_error"] or "SlowDown" in answer["target_error"]
    assert [one.name for one in caplog.records if "is tried again" in one.message] == ["trinity_snap.targets.retries"]
    shown = host.text("status", code=1)
    assert "The target could not be asked" in shown and point[:8] in shown
    store.rule = lambda request: None
    assert host.json("status")["target_error"] is None


def test_the_rights_are_printed_for_this_bucket_and_not_for_a_directory(host: Host, make_host, tmp_path: Path) -> None:
    printed = host.json("target", "policy")
    assert printed["Statement"][0]["Resource"] == [f"arn:aws:s3:::bucket/{tmp_path.name}/host1/*"]
    assert "s3:DeleteObject" not in json.dumps(printed)
    assert "s3:DeleteObject" in host.text("target", "policy", "--control")
    local = make_host("local")
    local.policy.parent.mkdir()
    local.policy.write_text("target: /x\n")
    assert "no bucket" in local.text("target", "policy", code=2)


def test_a_local_repository_needs_no_boto3(tmp_path: Path) -> None:
    code = (
        "import sys; from trinity_snap.targets import open_target; from trinity_snap.targets.probe import probe; "
        "probe(open_target(sys.argv[1], create=True)); print({'boto3', 'botocore', 'urllib3'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
