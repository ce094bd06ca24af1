"""`forget`, `hold` and `prune` on the command line, with a real repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.test_cli_json import assert_same_shape, documented
from tests.unit.test_cli_repository import Host, host, make_host, repository

__all__ = ["host", "make_host", "repository"]  # fixtures


@pytest.fixture
def keeping(host: Host) -> Host:
    """A host whose policy keeps the newest point of every agent, and all of `archive`."""
    rules = "retention:\n  last: 1\n  minimum: 1\noverrides:\n  archive:\n    retention:\n      last: 100\n"
    lines = host.policy.read_text().splitlines()
    kept, skipping = [], False
    for line in lines:
        if not line.startswith((" ", "#")) and line.strip():
            skipping = line.startswith(("retention:", "overrides:"))
        if not skipping:
            kept.append(line)
    host.policy.write_text("\n".join(kept) + "\n" + rules)
    return host


def grow_old(repository: str, hours: int) -> None:
    for path in Path(repository).rglob("*"):
        if path.is_file():
            older = path.stat().st_mtime_ns - hours * 3600 * 10**9
            os.utime(path, ns=(older, older))


def test_without_rules_nothing_is_forgotten(host: Host, repository: str) -> None:
    point = host.back_up()
    answer = host.json("forget", code=2)
    assert answer["error"] == "PolicyError"
    assert "retention" in answer["next_step"]
    assert [one["id"] for one in host.json("list")["points"]] == [point]


def test_old_points_go_and_a_day_later_what_they_needed(keeping: Host, repository: str) -> None:
    archived = keeping.back_up("archive")
    (keeping.home / "tree-web").mkdir()
    (keeping.home / "tree-web" / "other").write_bytes(os.urandom(100_000))
    old = keeping.back_up()
    grow_old(repository, 30)
    (keeping.home / "tree-web" / "other").write_bytes(os.urandom(100_000))
    new = keeping.back_up()
    keeping.back_up("archive")
    told = keeping.text("forget", "--dry-run")
    assert f"{old[:8]}" in told
    assert "no rule keeps it" in told
    answer = keeping.json("forget")
    assert_same_shape(answer, documented("forget"))
    assert answer["forgotten"] == [old]
    kept = {one["id"] for one in keeping.json("list")["points"]}
    assert {new, archived} <= kept
    first = keeping.json("prune")
    assert_same_shape(first, documented("prune"))
    assert (first["deleted_packs"], first["fenced_packs"] > 0) == (0, True)
    assert "can be deleted by a prune after" in keeping.text("prune")
    grow_old(repository, 26)
    assert keeping.json("prune", "--dry-run")["deleted_packs"] == first["fenced_packs"]
    assert keeping.json("prune")["deleted_packs"] == first["fenced_packs"]
    assert keeping.json("verify", "--read-data")["good"]


def test_what_is_mostly_dead_is_repacked_and_the_point_is_found_by_its_first_id(keeping: Host, repository: str) -> None:
    tree = keeping.home / "tree-web"
    tree.mkdir()
    for number in range(12):
        (tree / str(number)).write_bytes(os.urandom(100_000))
    keeping.back_up()
    grow_old(repository, 30)
    # Threads that take files in turn have packs of their own, and each has to hold some that go and some that stay.
    for number in (0, 1, 4, 7, 8, 11):
        (tree / str(number)).write_bytes(os.urandom(100_000))
    point = keeping.back_up()
    keeping.json("forget")
    grow_old(repository, 30)
    assert "would be repacked" in keeping.text("prune", "--dry-run", "--repack", "--repack-unused", "0%")
    answer = keeping.json("prune", "--repack", "--repack-unused", "0%", "--repack-budget", "10MiB")
    assert_same_shape(answer, documented("prune"))
    (moved,) = [one for one in answer["repack"]["moved_points"] if one["from"] == point]
    assert moved["to"] in {one["id"] for one in keeping.json("list")["points"]}
    assert keeping.json("show", point)["id"] == moved["to"]
    assert keeping.json("verify", "--read-data")["good"]
    keeping.json("prune", "--repack", "--repack-budget", "much", code=2)
    keeping.json("prune", "--repack", "--repack-unused", "200%", code=2)


def test_the_policy_says_whether_and_how_much_a_prune_repacks(keeping: Host, repository: str) -> None:
    for _ in range(10):
        keeping.back_up()
    grow_old(repository, 30)
    assert keeping.json("prune")["repack"] is None
    keeping.json("policy", "set", "repack.with_prune=true", "repack.small_packs=5", "repack.share_percent=100")
    assert keeping.json("prune", "--no-repack")["repack"] is None
    answer = keeping.json("prune", "--dry-run")
    assert answer["repack"]["packs"] == answer["packs"] >= 10
    assert not keeping.json("prune", "--repack-budget", "0")["repack"]["packs"], "an option counts for more"
    assert keeping.json("prune")["repack"]["packs"] >= 10
    assert keeping.json("verify", "--read-data")["good"]


def test_held_points_are_kept_listed_and_released(keeping: Host, repository: str) -> None:
    old = keeping.back_up()
    grow_old(repository, 30)
    keeping.back_up()
    assert_same_shape(keeping.json("hold", old[:8]), documented("hold"))
    assert old in keeping.text("hold", "--list")
    assert keeping.json("forget")["forgotten"] == []
    assert keeping.json("forget", old, code=10)["agents"][0]["refused"]
    assert keeping.json("hold", "--release", old)["held"] == []
    assert keeping.json("forget")["forgotten"] == [old]
    assert keeping.json("hold", "ffff0000", code=2)["error"] == "PointMissing"
    assert keeping.json("hold", code=2)["error"] == "UsageError"


def test_what_is_named_is_removed_unless_the_agent_would_be_empty(keeping: Host, repository: str) -> None:
    first = keeping.back_up()
    assert keeping.json("forget", first, code=10)["forgotten"] == []
    second = keeping.back_up()
    assert keeping.json("forget", first[:8])["forgotten"] == [first]
    assert [one["id"] for one in keeping.json("list")["points"]] == [second]
    assert keeping.json("forget", "nobody", code=2)["error"] == "AgentMissing"
