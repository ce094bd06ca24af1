"""docs/json.md says of every command what its JSON holds, and it holds that."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_cli import LEAVES
from tests.unit.test_cli_repository import Host, host, make_host, repository, run_record

__all__ = ["host", "make_host", "repository"]  # fixtures

TEXT = (Path(__file__).parents[2] / "docs" / "json.md").read_text()
SECTIONS = {
    title: [json.loads(block) for block in re.findall(r"```json\n(.*?)```", body, re.DOTALL)]
    for title, body in re.findall(r"(?ms)^## `?([^`\n]*)`?\n(.*?)(?=^## |\Z)", TEXT)
}


@pytest.mark.parametrize("leaf", LEAVES, ids=" ".join)
def test_every_command_is_described(leaf):
    assert SECTIONS[" ".join(leaf)] or leaf == ["policy", "schema"]


def assert_same_shape(real: Any, documented: Any, where: str = "") -> None:
    """Objects have the same keys; lists that have elements have elements of the same shape. Free maps are left alone."""
    if where.endswith(".value"):  # of a setting: whatever the setting is
        return
    if isinstance(documented, dict) and isinstance(real, dict):
        if where.rpartition(".")[2] in ("labels", "options", "container"):
            return
        assert list(real) == list(documented), where
        for key, value in documented.items():
            assert_same_shape(real[key], value, f"{where}.{key}")
    elif isinstance(documented, list) and isinstance(real, list):
        for element in real:
            for example in documented[:1]:
                assert_same_shape(element, example, f"{where}[]")
    elif real is not None and documented is not None:
        numbers = (int, float)
        same = type(real) is type(documented) or (isinstance(real, numbers) and isinstance(documented, numbers))
        assert same, (where, real, documented)


def documented(command: str, number: int = 0) -> Any:
    return SECTIONS[command][number]


def test_answers_have_the_documented_shape(host: Host, make_host: Any, repository: str, tmp_path: Path) -> None:
    point = host.back_up()
    run_record(host, 1, point=point, duration_seconds=1.0)
    key = str(tmp_path / "boss")
    assert_same_shape(host.json("list"), documented("list"))
    assert_same_shape(host.json("show", point), documented("show"))
    assert_same_shape(host.json("show", point, "--path", "sub"), documented("show", 1))
    assert_same_shape(host.json("verify"), documented("verify"))
    assert_same_shape(host.json("status"), documented("status"))
    assert_same_shape(host.json("policy", "show"), documented("policy show"))
    assert_same_shape(host.json("policy", "check"), documented("policy check"))
    assert_same_shape(host.json("key", "list"), documented("key list"))
    assert_same_shape(host.json("key", "new", key, "--label", "boss"), documented("key new"))
    added = host.json("key", "add", f"{key}.recipient")
    assert_same_shape(added, documented("key add"))
    assert_same_shape(host.json("key", "retire", added["added"]), documented("key retire"))
    assert_same_shape(host.json("key", "rotate"), documented("key rotate"))
    assert_same_shape(host.json("key", "rotate", "--recovery"), documented("key rotate"))
    assert_same_shape(host.json("key", "words"), documented("key words"))
    assert_same_shape(host.json("key", "unwrap"), documented("key unwrap"))
    assert_same_shape(host.json("key", "accept"), documented("key accept"))
    assert_same_shape(host.json("key", "host-key", str(tmp_path / "host.key")), documented("key host-key"))
    pinned = host.json("key", "pin", f"{key}.recipient", "--single-recipient", "--dry-run")
    assert_same_shape(pinned, documented("key pin"))
    assert_same_shape(host.json("verify", "--hashes"), documented("verify"))
    assert_same_shape(host.json("restore", "--kept"), documented("restore", 1))
    assert_same_shape(host.json("target", "check"), documented("target check"))
    assert_same_shape(host.json("version"), documented("version"))
    assert_same_shape(make_host("new").json("init", "--target", f"{repository}2"), documented("init"))
    assert_same_shape(host.json("show", "ffffffff", code=2), documented("Errors"))


def test_results_of_runs_and_restores_have_the_documented_shape() -> None:
    from trinity_snap.backup.result import AgentResult, RunResult
    from trinity_snap.fleet import FleetResult, HostResult
    from trinity_snap.quiesce import RecoverReport
    from trinity_snap.restore import KeptData, ResumedRestore, VolumePlan
    from trinity_snap.restore.journal import HeldState
    from trinity_snap.rollback import LocalListing, RollbackPlan, RollbackResult, RollbackVolume
    from trinity_snap.rollback.copy import Copied
    from trinity_snap.snapshot.local import LocalAgent, LocalSnapshot, LocalSource, Unregistered
    from trinity_snap.snapshot.protocol import Kept, KeptTree

    run = RunResult("00" * 16, "host", "2026-01-01T00:00:00+00:00", agents=[AgentResult("web")])
    assert_same_shape(run.to_json(), documented("backup"))
    fleet = FleetResult("backup", "00" * 16, "2026-01-01T00:00:00+00:00", [HostResult("host1", answer=run.to_json())])
    assert_same_shape(
        {**fleet.to_json(), "hosts": [{**fleet.hosts[0].to_json(), "answer": {}}]}, documented("fleet backup")
    )
    resumed = ResumedRestore("1", "web", "undone", ()).to_json()
    report = {**RecoverReport().to_json(), "restores": [resumed], "left_to": None}
    assert_same_shape(report, documented("recover"))
    agent = LocalAgent("web", "crash-consistent", (LocalSource("w", "volume", "/v"),), "2")
    local = LocalSnapshot(
        "11" * 16, 1, (agent,), (Kept("btrfs", "11" * 16, "/k", "/m", "uuid", (KeptTree("volume", "w"),)),)
    )
    listing = LocalListing((local,), (Unregistered("22", "/k", "btrfs"),))
    assert_same_shape(listing.to_json(), documented("rollback", 1))
    held = HeldState("1", "web", "running")
    plan = RollbackPlan(
        "1", "web", local, agent, Path("/"), (RollbackVolume(agent.sources[0], None, None, ()),), (held,)
    )
    result = RollbackResult(plan, local, Copied(), 1.0, 1.0)
    assert_same_shape({**result.to_json(), "lines": plan.lines()}, documented("rollback"))
    assert_same_shape(KeptData("1", "web", "2", "3", ()).to_json(), documented("restore", 1)["kept"][0])
    assert VolumePlan.__dataclass_fields__


@pytest.mark.skipif("__import__('os').geteuid() != 0")
def test_a_restore_has_the_documented_shape(host: Host, tmp_path: Path) -> None:
    host.back_up()
    done = host.json("restore", "web", "--to", str(tmp_path / "out"))
    assert_same_shape(done, documented("restore"))
    plan = host.json("restore", "web", "--to", str(tmp_path / "out2"), "--dry-run")
    expected = documented("restore")
    assert set(plan) == set(list(expected)[: list(expected).index("outcome") + 1]) | {"lines"}
    assert host.json("restore", "web", "--release", "--dry-run") == {"outcome": "planned", "released": []}
