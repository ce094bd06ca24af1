"""Points that do not count are shown as such everywhere, and are nowhere taken for the latest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.test_independent_reader import READER
from tests.unit.test_cli_repository import Host, host, make_host, repository
from trinity_snap.repository.copies import put_copy_note
from trinity_snap.targets import open_target

__all__ = ["host", "make_host", "repository"]  # fixtures

HOURS = 3600 * 10**9


def make_older(repository: str, hours: int, *names: str) -> None:
    for name in names:
        path = Path(repository, name)
        older = path.stat().st_mtime_ns - hours * HOURS
        os.utime(path, ns=(older, older))


def back_up_late(host: Host, repository: str) -> str:
    """A point that was stored thirty hours after its run began. Return its id."""
    sessions = set(Path(repository).glob("sessions/*"))
    late = host.back_up()
    (session,) = set(Path(repository, "sessions").iterdir()) - sessions
    make_older(repository, 30, f"sessions/{session.name}")
    return late


def read(host: Host, repository: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    key = host.policy.parent / "identity.key"
    command = [sys.executable, "-I", str(READER), repository, "--identity", str(key), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="restores are root's")
def test_a_void_point_is_marked_and_the_one_before_it_is_the_latest(
    host: Host, repository: str, tmp_path: Path
) -> None:
    good = host.back_up()
    late = back_up_late(host, repository)
    listed = {point["id"]: point["void"] for point in host.json("list")["points"]}
    assert listed[good] is None
    assert "30.0 h after its run began" in listed[late]
    text = host.text("list")
    assert "VOID" in text and f"{late[:8]}: It was stored" in text
    assert "VOID" in host.text("show", late) and host.json("show", late)["void"] == listed[late]
    assert "VOID" not in host.text("show", good)
    (agent,) = host.json("status")["agents"]
    assert (agent["point"], agent["points"], agent["void"]) == (good, 1, 1)
    assert late[:8] in agent["warnings"][0]
    plan = host.json("restore", "web", "--to", str(tmp_path / "out"), "--dry-run")
    assert plan["point"] == good
    assert any(late[:8] in warning and "does not count" in warning for warning in plan["warnings"])
    assert host.json("restore", "web", "--point", late, "--to", str(tmp_path / "out"), "--dry-run")["point"] == late
    assert [one["point"] for one in host.json("drill", "--dry-run")["drills"]] == [good]
    assert [one["point"] for one in host.json("drill", "web", "--dry-run")["drills"]] == [good]

    shown = {line.split()[0]: line for line in read(host, repository, "list").stdout.splitlines()}
    assert "VOID" in shown[late] and "VOID" not in shown[good]
    done = read(host, repository, "restore", "latest", str(tmp_path / "read"))
    assert (done.returncode, late in done.stderr) == (0, True)
    assert read(host, repository, "show", "latest").stdout.count(good) == 1


def test_when_none_counts_none_is_offered_and_each_can_be_named(host: Host, repository: str, tmp_path: Path) -> None:
    late = back_up_late(host, repository)
    refused = host.json("restore", "web", "--to", str(tmp_path / "out"), "--dry-run", code=2)
    assert refused["error"] == "PointMissing"
    assert "None of the 1 recovery points" in refused["message"] and "by its id" in refused["next_step"]
    assert host.json("restore", "web", "--point", late, "--to", str(tmp_path / "out"), "--dry-run")["point"] == late
    assert "no recovery point that counts" in str(host.json("status")["agents"][0]["warnings"])
    assert read(host, repository, "show", "latest").returncode == 1
    assert read(host, repository, "show", late[:8]).returncode == 0


def test_a_receipt_or_a_copy_note_makes_a_late_point_count(host: Host, repository: str) -> None:
    host.back_up()
    late = back_up_late(host, repository)
    number = str(host.json("key", "list")["repository"])
    note = put_copy_note(open_target(repository), bytes.fromhex(number), [late])
    assert all(point["void"] is None for point in host.json("list")["points"])
    assert "VOID" not in read(host, repository, "list").stdout
    host.json("prune")  # which says so for ever
    Path(repository, note).unlink()
    assert all(point["void"] is None for point in host.json("list")["points"])
    assert "VOID" not in read(host, repository, "list").stdout


def test_a_point_whose_packs_are_gone_is_not_the_latest(host: Host, repository: str) -> None:
    good = host.back_up()
    packs = set(Path(repository).glob("packs/*/*"))
    (host.home / "tree-web" / "new").write_bytes(os.urandom(100_000))
    bad = host.back_up()
    for pack in set(Path(repository).glob("packs/*/*")) - packs:
        pack.unlink()
    listed = {point["id"]: point["void"] for point in host.json("list")["points"]}
    assert "missing" in listed[bad] and listed[good] is None
    assert host.json("status")["agents"][0]["point"] == good
    assert f"{bad}  " in read(host, repository, "list").stdout
    assert "packs are missing" in read(host, repository, "list").stdout
