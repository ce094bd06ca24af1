"""Replicas through the command line: set up, kept up to date, told about, read from, and promoted."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.proxy import proxy_before
from tests.faults.rights import enforce
from tests.faults.stores import rclone_server, settings_for, write_credentials
from tests.unit.test_cli_repository import Host, make_host
from trinity_snap.errors import TargetError
from trinity_snap.policy import load_policy
from trinity_snap.replication import replicate
from trinity_snap.targets import open_target

__all__ = ["make_host"]  # a fixture


def write_policy(host: Host, *replicas: dict[str, Any], target: str | None = None, **further: Any) -> None:
    document = {
        "target": target or str(host.home / "first"),
        "replicas": list(replicas),
        "state": {"directory": str(host.home / "state")},
        **further,
    }
    host.policy.parent.mkdir(exist_ok=True)
    host.policy.write_text(json.dumps(document))
    host.policy.chmod(0o600)


def local(host: Host, name: str, *, make: bool = True, **further: Any) -> dict[str, Any]:
    directory = host.home / name
    if make:
        directory.mkdir(mode=0o700)
    return {"name": name, "url": str(directory), **further}


@pytest.fixture
def host(make_host: Any) -> Host:
    made: Host = make_host()
    return made


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("rclone")
    (directory / "bucket").mkdir()
    with rclone_server(directory) as endpoint:
        yield endpoint


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and never says anything."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def in_bucket(host: Host, endpoint: str, name: str = "bucket") -> dict[str, Any]:
    write_credentials(host.policy.parent)
    return {
        "name": name,
        "url": f"s3://bucket/{host.home.parent.name}/{host.home.name}",
        "endpoint": endpoint,
        "region": "us-east-1",
        "credentials_file": "s3-credentials",
    }


def outcomes(answer: dict[str, Any]) -> dict[str, str]:
    return {replica["name"]: replica["outcome"] for replica in answer["replicas"]}


def test_a_disk_and_a_bucket_have_all_and_either_restores_when_the_first_target_is_lost(
    host: Host, store: str, tmp_path: Path
) -> None:
    write_policy(host)
    write_policy(host, local(host, "disk"), in_bucket(host, store))
    made = host.json("init")
    assert [(one["usable"], one["holds"]) for one in made["replicas"]] == [(True, "nothing")] * 2
    assert not list((host.home / "disk").iterdir()), "init makes nothing at a replica"
    point = host.back_up()
    answer = host.json("replicate")
    assert outcomes(answer) == {"disk": "done", "bucket": "done"}
    assert all(one["points"] == 1 and one["points_behind"] == 0 for one in answer["replicas"])
    assert [one["holds"] for one in host.json("target", "check")["replicas"]] == ["repository"] * 2
    shutil.rmtree(host.home / "first")
    for name in ("disk", "bucket"):
        assert [one["id"] for one in host.json("list", "--target", name)["points"]] == [point]
        assert host.json("show", point, "--target", name)["id"] == point
        assert host.json("verify", "--read-data", "--target", name)["good"] is True
        host.text("restore", "web", "--target", name, "--to", str(tmp_path / f"back-{name}"))
        (restored,) = (tmp_path / f"back-{name}").rglob("sub/file")
        assert restored.read_text() == "content"
    assert "no replica 'elsewhere'" in host.text("list", "--target", "elsewhere", code=2)


def test_nothing_is_restored_into_a_repository_however_it_is_named(host: Host, tmp_path: Path) -> None:
    write_policy(host)
    host.json("init")
    host.back_up()
    root = host.home / "first"
    before = sorted(root.rglob("*"))
    (tmp_path / "link").symlink_to(root)
    for place in (root / "to", root / "packs" / "00" / "new", tmp_path / "link" / "to"):
        assert "is in the repository" in host.text("restore", "web", "--to", str(place), code=2)
    assert sorted(root.rglob("*")) == before


def test_a_replica_that_is_down_delays_only_itself_and_catches_up(host: Host) -> None:
    write_policy(host, local(host, "up"), local(host, "down", make=False))
    said = host.text("init")
    assert "Replica down cannot be used" in said
    host.back_up()
    answer = host.json("replicate", code=10)
    assert outcomes(answer) == {"up": "done", "down": "failed"}
    assert "mkdir" in answer["replicas"][1]["error"]
    assert not (host.home / "down").exists(), "a disk that is not mounted must not be mistaken for an empty one"
    assert "Replica down cannot be used" in host.text("target", "check", code=10)
    up, down = host.json("status", "--list-replicas")["replicas"]
    assert (up["reachable"], up["points_behind"], up["stale"], up["warnings"]) == (True, 0, False, [])
    assert (down["reachable"], down["last_success"]) == (False, None)
    assert any("cannot be reached" in warning for warning in down["warnings"])
    (host.home / "down").mkdir()
    host.back_up("ledger")
    for replica in host.json("status", "--list-replicas")["replicas"]:
        assert replica["listed"]
        assert replica["points_behind"] == (1 if replica["name"] == "up" else 2)
        assert replica["bytes_behind"] > 0
    assert outcomes(host.json("replicate", "down")) == {"down": "done"}
    assert len(host.json("list", "--target", "down")["points"]) == 2
    assert len(host.json("list", "--target", "up")["points"]) == 1
    assert host.json("status")["replicas"][1]["points_behind"] == 0


def test_a_replica_that_hangs_is_given_up_and_the_others_are_done(host: Host, silent: str) -> None:
    write_policy(host)
    write_policy(host, in_bucket(host, silent, "hangs"), local(host, "disk"))
    host.text("policy", "check")
    write_policy(host, local(host, "disk", make=False))
    host.text("init")
    host.back_up()
    write_policy(host, in_bucket(host, silent, "hangs"), local(host, "disk", make=False))
    hangs, disk = replicate(load_policy(host.policy), stall_seconds=2)
    assert disk.outcome == "done"
    assert disk.duration_seconds < 30
    assert (hangs.outcome, hangs.error) == ("failed", f"{hangs.url} does not answer; it was left alone.")
    found = host.json("status")["replicas"][0]
    assert (found["reachable"], found["outcome"]) == (False, "failed")


def test_a_replica_with_a_time_limit_goes_on_the_next_time(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    write_policy(host, local(host, "disk", time_limit="1s"))
    host.text("init")
    host.back_up()
    policy = load_policy(host.policy)
    monkeypatch.setattr("trinity_snap.policy.schema.ReplicaSection.time_limit_seconds", 0.0)
    slow = open_target(str(host.home / "disk"))

    def put_slowly(self: Any, name: str, data: bytes) -> bool:
        import time

        time.sleep(0.3)
        return original(self, name, data)

    original = type(slow).put_if_absent
    with monkeypatch.context() as patch:
        patch.setattr(type(slow), "put_if_absent", put_slowly)
        (result,) = replicate(policy, limited=True)
    assert (result.outcome, result.points, result.points_behind) == ("behind", 0, 1)
    assert result.good
    (result,) = replicate(policy)
    assert (result.outcome, result.points) == ("done", 1)


def test_a_full_replica_is_named_and_catches_up_when_there_is_room(host: Host, tmp_path: Path) -> None:
    image, mount = tmp_path / "image", tmp_path / "mount"
    mount.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image, "4M"], check=True)
    subprocess.run(["mount", "-o", "loop", image, mount], check=True)
    try:
        filler = mount / "filler"
        filler.write_bytes(bytes(2 << 20))
        (mount / "replica").mkdir()
        write_policy(host, {"name": "small", "url": str(mount / "replica")}, local(host, "large"))
        host.text("init")
        tree = host.home / "tree-web"
        tree.mkdir()
        import random

        (tree / "media").write_bytes(random.Random(5).randbytes(1_500_000))
        host.back_up()
        answer = host.json("replicate", code=10)
        assert outcomes(answer) == {"small": "failed", "large": "done"}
        assert "No space left" in answer["replicas"][0]["error"]
        assert answer["replicas"][0]["points_behind"] == 1
        assert host.json("list", "--target", "small")["points"] == []
        filler.unlink()
        assert outcomes(host.json("replicate")) == {"small": "done", "large": "done"}
        assert host.json("verify", "--read-data", "--target", "small")["good"] is True
    finally:
        subprocess.run(["umount", mount], check=True)


def test_a_disk_that_is_no_longer_mounted_is_not_filled_anew(host: Host) -> None:
    write_policy(host, local(host, "disk"))
    host.text("init")
    host.back_up()
    host.json("replicate")
    shutil.rmtree(host.home / "disk")
    (host.home / "disk").mkdir()
    (replica,) = host.json("replicate", code=10)["replicas"]
    assert "replicated to before" in replica["error"]
    assert not list((host.home / "disk").iterdir())
    assert "is its disk mounted" in host.text("status")
    host.json("replicate", "--anew")
    assert len(host.json("list", "--target", "disk")["points"]) == 1


def test_another_hosts_repository_is_no_replica(host: Host, make_host: Any) -> None:
    other = make_host("other")
    write_policy(other)
    other.text("init")
    other.back_up()
    write_policy(host, {"name": "theirs", "url": str(other.home / "first")})
    assert "holds another repository" in host.text("init")
    host.back_up()
    before = sorted((other.home / "first").rglob("*"))
    assert "holds another repository" in host.text("replicate", code=10)
    assert sorted((other.home / "first").rglob("*")) == before
    host.policy.write_text(host.policy.read_text().replace(str(other.home / "first"), str(host.home / "link")))
    (host.home / "link").symlink_to(host.home / "first")
    assert "is the first target itself" in host.text("replicate", code=10)


def test_status_warns_of_a_replica_that_has_been_behind_for_too_long(host: Host) -> None:
    write_policy(host, local(host, "disk", max_age="1h"))
    host.text("init")
    host.back_up()
    assert host.json("status")["replicas"][0]["stale"] is True
    host.text("status", "--max-age", "1d", code=1)
    host.json("replicate")
    assert host.json("status", "--max-age", "1d")["replicas"][0]["stale"] is False
    state = host.home / "state" / "replicas" / "disk.json"
    known = json.loads(state.read_text())
    known["last_success"] = "2026-01-01T00:00:00Z"
    state.write_text(json.dumps(known))
    late = host.json("status", "--max-age", "1d", code=1)["replicas"][0]
    assert late["stale"] is True
    assert any("longer than 1h" in warning for warning in late["warnings"])


def test_the_control_node_replicates_without_any_key(host: Host, make_host: Any) -> None:
    write_policy(host, local(host, "disk"))
    host.text("init")
    point = host.back_up()
    control = make_host("control")
    write_policy(control, {"name": "disk", "url": str(host.home / "disk")}, target=str(host.home / "first"))
    assert outcomes(control.json("replicate")) == {"disk": "done"}
    assert [path.name for path in control.policy.parent.iterdir()] == ["policy.yml"], "there is no key here"
    assert [one["id"] for one in host.json("list", "--target", "disk")["points"]] == [point]


def test_damage_at_the_first_target_is_reported_and_costs_only_what_it_touches(host: Host) -> None:
    write_policy(host, local(host, "disk"))
    host.text("init")
    good = host.back_up()
    before = set((host.home / "first").glob("packs/*/*"))
    tree = host.home / "tree-ledger"
    tree.mkdir()
    (tree / "media").write_bytes(bytes(range(256)) * 3000)
    host.back_up("ledger")
    pack = max(set((host.home / "first").glob("packs/*/*")) - before)
    pack.chmod(0o600)
    pack.write_bytes(b"\0" + pack.read_bytes()[1:])
    answer = host.json("replicate", code=90)
    (replica,) = answer["replicas"]
    assert (replica["outcome"], replica["points"], replica["points_waiting"]) == ("incomplete", 1, 1)
    assert replica["damaged"][0]["name"].endswith(pack.name)
    assert [one["id"] for one in host.json("list", "--target", "disk")["points"]] == [good]
    assert host.json("verify", "--read-data", "--target", "disk")["good"] is True


def test_a_replica_is_promoted_and_later_runs_go_on_there(host: Host, tmp_path: Path) -> None:
    disk, old = local(host, "disk"), {"name": "old", "url": str(host.home / "first")}
    write_policy(host, disk)
    host.text("init")
    first = host.back_up()
    host.json("replicate")
    lost = host.back_up("never-replicated")
    (host.home / "first").rename(host.home / "gone")
    write_policy(host, old, target=disk["url"])
    assert [one["id"] for one in host.json("list")["points"]] == [first]
    second = host.back_up()
    assert {one["id"] for one in host.json("list")["points"]} == {first, second}
    assert host.json("verify", "--read-data")["good"] is True
    (host.home / "gone").rename(host.home / "first")
    assert outcomes(host.json("replicate")) == {"old": "done"}
    assert {one["id"] for one in host.json("list", "--target", "old")["points"]} == {first, second, lost}
    assert host.json("verify", "--read-data", "--target", "old")["good"] is True
    write_policy(host, {**disk, "name": "new"}, target=old["url"])
    assert outcomes(host.json("replicate")) == {"new": "done"}
    write_policy(host, old, target=disk["url"])
    assert {one["id"] for one in host.json("list")["points"]} == {first, second, lost}


def test_replicating_without_replicas_is_wrong_usage(host: Host) -> None:
    write_policy(host)
    host.text("init")
    assert "no replicas" in host.text("replicate", code=2)


@pytest.mark.parametrize(
    ("replicas", "mistake"),
    [
        ([{"name": "a", "url": "/x"}, {"name": "a", "url": "/y"}], "two replicas have the name 'a'"),
        (
            [{"name": "a", "url": "/x"}, {"name": "b", "url": "file:///x/"}],
            "'b' is in the same place as the replica 'a'",
        ),
        ([{"name": "a", "url": "s3://bucket/c"}, {"name": "b", "url": "s3://bucket/c/"}], "in the same place"),
        ([{"name": "a", "url": "{first}"}], "'a' is in the same place as `target`"),
        ([{"url": "/x"}], "replicas[0].name: it is missing"),
        ([{"name": "../a", "url": "/x"}], "other characters"),
        ([{"name": "a", "url": "/x", "max_age": "soon"}], "no length of time"),
    ],
)
def test_replicas_that_make_no_sense_are_refused(host: Host, replicas: list[dict[str, str]], mistake: str) -> None:
    first = str(host.home / "first")
    write_policy(host, *[{key: value.replace("{first}", first) for key, value in one.items()} for one in replicas])
    assert mistake in host.text("policy", "check", code=2)


def test_the_least_rights_are_enough_at_a_replica(host: Host, store: str) -> None:
    write_policy(host)
    with proxy_before(store) as proxy:
        write_policy(host, in_bucket(host, proxy.address))
        host.text("init")
        host.back_up()
        proxy.rule = enforce(host.json("target", "policy", "--target", "bucket"))
        assert outcomes(host.json("replicate")) == {"bucket": "done"}
        host.back_up()
        assert outcomes(host.json("replicate")) == {"bucket": "done"}
        assert host.json("status", "--list-replicas")["replicas"][0]["points_behind"] == 0
        proxy.rule = lambda request: None
    assert len(host.json("list")["points"]) == 2


def test_a_target_by_name_takes_its_settings_from_the_policy(host: Host, store: str) -> None:
    write_policy(host)
    write_policy(host, in_bucket(host, store))
    host.text("init")
    host.back_up()
    host.json("replicate")
    names = list(
        open_target(
            settings_for(store, host.policy.parent / "s3-credentials", load_policy(host.policy).replicas[0].url)
        ).list_prefix("")
    )
    assert {name.partition("/")[0] for name in names} == {
        "repository",
        "sessions",
        "packs",
        "index",
        "points",
        "copies",
    }
    with pytest.raises(TargetError):
        open_target(str(host.home / "missing"))
