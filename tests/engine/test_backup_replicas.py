"""Whole runs with replicas: what a replica does to a run's result, to the host, and to the next run."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_cli_replicas import local, write_policy
from tests.faults.proxy import proxy_before
from tests.faults.rights import enforce
from tests.faults.stores import rclone_server, write_credentials
from tests.unit.test_cli_repository import Host, make_host
from trinity_snap.targets.s3_policy import control_policy, host_policy

__all__ = ["make_host"]  # a fixture

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def host(make_host: Callable[[], Host], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    """A host without Docker, on which a directory is backed up."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-docker.sock")
    made = make_host()
    (made.home / "data").mkdir()
    (made.home / "data" / "file").write_bytes(random.Random(1).randbytes(100_000))
    return made


def protect(host: Host, *replicas: dict[str, Any], **further: Any) -> None:
    write_policy(
        host,
        *replicas,
        platform={"paths": [str(host.home / "data")]},
        agents={"discover": {"trinity": False}},
        snapshot={"provider": "precopy"},
        **further,
    )


def change(host: Host) -> None:
    (host.home / "data" / f"{time.time_ns()}").write_bytes(random.randbytes(50_000))


def test_a_run_brings_its_replicas_up_to_date_and_one_that_is_down_is_exit_code_10(host: Host) -> None:
    protect(host, local(host, "up"), local(host, "down"))
    host.text("init")
    result = host.json("backup")
    assert {one["name"]: (one["outcome"], one["points"]) for one in result["replicas"]} == {
        "up": ("done", 1),
        "down": ("done", 1),
    }
    (host.home / "down").rename(host.home / "away")
    change(host)
    result = host.json("backup", code=10)
    assert result["outcome"] == "done", "a replica changes nothing about what became of the agents"
    assert [agent["outcome"] for agent in result["agents"]] == ["done"]
    assert [one["outcome"] for one in result["replicas"]] == ["done", "failed"]
    change(host)
    said = host.text("backup", code=10)
    assert "Replica up is up to date." in said
    assert "Replica down is not up to date: There is no directory" in said
    _, down = host.json("status")["replicas"]
    assert (down["points_behind"], down["reachable"], down["listed"]) == (2, False, False)
    assert down["bytes_behind"] >= 100_000
    kept = [json.loads(path.read_text()) for path in (host.home / "state" / "runs").iterdir()]
    assert all(len(run["replicas"]) == 2 for run in kept)
    (host.home / "away").rename(host.home / "down")
    change(host)
    assert [one["points"] for one in host.json("backup")["replicas"]] == [1, 3]
    for name in ("up", "down"):
        assert len(host.json("list", "--target", name)["points"]) == 4
        assert host.json("verify", "--read-data", "--target", name)["good"] is True


def test_a_replica_that_is_not_for_every_run_is_left_alone_by_runs(host: Host) -> None:
    protect(host, local(host, "later", after_backup=False, max_age="1h"))
    host.text("init")
    assert host.json("backup")["replicas"] == []
    assert not list((host.home / "later").iterdir())
    assert host.json("status")["replicas"][0]["stale"] is True
    host.json("replicate")
    assert len(host.json("list", "--target", "later")["points"]) == 1


def start(host: Host, *arguments: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trinity_snap", *arguments, "--policy", str(host.policy), "--json"],
        cwd=CHECKOUT,
        env={**os.environ, **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_while_replicas_are_served_the_host_is_free_and_a_death_there_costs_nothing(host: Host) -> None:
    protect(host, local(host, "disk"))
    host.text("init")
    stopped = start(host, "backup", TRINITY_SNAP_HANG_AT="before-replication")
    try:
        deadline = time.monotonic() + 60
        while Path(f"/proc/{stopped.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            assert stopped.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        assert not list((host.home / "disk").iterdir())
        assert len(host.json("list")["points"]) == 1
        change(host)
        assert host.json("backup")["replicas"][0]["points"] == 2, (
            "another run begins, ends, and brings everything along"
        )
    finally:
        stopped.kill()
        stopped.wait()
    assert len(host.json("list", "--target", "disk")["points"]) == 2
    assert host.json("verify", "--read-data", "--target", "disk")["good"] is True


def test_two_processes_do_not_send_the_same_twice(host: Host) -> None:
    protect(host, local(host, "disk"))
    host.text("init")
    import fcntl

    (host.home / "state" / "replicas").mkdir(parents=True)
    with (host.home / "state" / "replicas" / "disk.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert [one["outcome"] for one in host.json("backup")["replicas"]] == ["busy"]
        assert not list((host.home / "disk").iterdir())
    assert host.json("replicate")["replicas"][0]["points"] == 1


def test_a_host_with_the_least_rights_leaves_replication_to_the_control_node(
    host: Host, make_host: Callable[[str], Host], tmp_path: Path
) -> None:
    (tmp_path / "store" / "bucket").mkdir(parents=True)
    with rclone_server(tmp_path / "store") as endpoint, proxy_before(endpoint) as proxy:
        target = {"url": "s3://bucket/host1", "endpoint": proxy.address, "credentials_file": "s3-credentials"}

        def policy(one: Host, **replica: Any) -> None:
            protect(one, {"name": "disk", "url": str(host.home / "disk"), **replica})
            write_credentials(one.policy.parent)
            one.policy.write_text(json.dumps(json.loads(one.policy.read_text()) | {"target": target}))

        (host.home / "disk").mkdir()
        policy(host)
        host.text("init")
        proxy.rule = enforce(host_policy("s3://bucket/host1"))
        result = host.json("backup", code=10)
        assert result["outcome"] == "done"
        assert "cannot be replicated from here" in result["replicas"][0]["error"]
        assert "control node" in result["replicas"][0]["error"]
        assert not list((host.home / "disk").glob("points/*"))
        policy(host, after_backup=False)
        host.json("backup")
        proxy.rule = enforce(control_policy("s3://bucket/host1"))
        control = make_host("control")
        policy(control)
        assert control.json("replicate")["replicas"][0]["points"] == 2
        proxy.rule = enforce(host_policy("s3://bucket/host1"))
        whole = host.policy.read_text()
        host.policy.write_text(json.dumps(json.loads(whole) | {"keys": {"identity": None}}))
        assert host.json("status")["replicas"][0]["points_behind"] == 1, "this host has heard nothing of it"
        (found,) = host.json("status", "--list-replicas")["replicas"]
        assert (found["points_behind"], found["stale"], found["warnings"]) == (0, False, [])
        host.policy.write_text(whole)
        proxy.rule = enforce(control_policy("s3://bucket/host1"))
        assert len(host.json("list", "--target", "disk")["points"]) == 2
        assert host.json("verify", "--read-data", "--target", "disk")["good"] is True
