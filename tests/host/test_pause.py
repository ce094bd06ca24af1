"""A whole run of the critical section on real daemons, on btrfs and on ext4."""

import json
import os
import signal
import time

import pytest

from tests.lab.daemon import Daemon
from tests.lab.images import PYTHON
from trinity_snap.agents import connect
from trinity_snap.quiesce import recover
from trinity_snap.quiesce.journal import Journal, Leftover, journals, read_journal

pytestmark = pytest.mark.host

# A transaction in one volume, and only then the same number in the other: a snapshot that is not of one instant shows the
# second without the first. The file of plain appends is written in two halves, to be torn if it can be.
WRITER = """
import os, sqlite3, sys
db = sqlite3.connect("/home/developer/main.db", isolation_level=None)
db.execute("pragma journal_mode=" + sys.argv[1])
db.execute("create table if not exists t (number integer primary key, junk blob)")
number = db.execute("select coalesce(max(number), 0) from t").fetchone()[0]
while True:
    number += 1
    db.execute("insert into t values (?, ?)", (number, os.urandom(3000)))
    with open("/home/developer/public/seen.new", "w") as file:
        file.write(str(number))
    os.rename("/home/developer/public/seen.new", "/home/developer/public/seen")
"""


def finish(process):
    output, _ = process.communicate(timeout=60)
    return process.returncode, json.loads(output)


def start_writers(daemon: Daemon, count: int) -> None:
    for number in range(count):
        volumes = [f"agent-a{number}-workspace:/home/developer", f"agent-a{number}-public:/home/developer/public"]
        mode = ("wal", "delete")[number % 2]
        daemon.run(f"agent-a{number}", ["python3", "-c", WRITER, mode], image=PYTHON, volumes=volumes)
    for number in range(count):
        seen = daemon.data_root / f"volumes/agent-a{number}-public/_data/seen"
        while not seen.exists():
            time.sleep(0.02)


def check_writers(out, count: int) -> None:
    import sqlite3

    for number in range(count):
        db = sqlite3.connect(out / f"agent-a{number}-workspace" / "main.db")
        assert db.execute("pragma integrity_check").fetchone() == ("ok",)
        greatest, rows = db.execute("select max(number), count(*) from t").fetchone()
        assert greatest == rows
        seen = int((out / f"agent-a{number}-public" / "seen").read_text())
        assert seen in (greatest, greatest - 1)
        db.close()


def test_databases_are_whole_and_volumes_agree_while_agents_write(daemon, start_run, tmp_path):
    start_writers(daemon, 4)
    for attempt in range(5):
        out = tmp_path / f"out-{attempt}"
        code, result = finish(start_run(daemon, "--out", str(out)))
        assert code == 0, result
        assert set(result["labels"].values()) == {"host-crash-consistent"}
        assert result["shortfalls"] == {}
        assert set(result["pauses"]) == {f"agent-a{number}" for number in range(4)}
        assert all(0 < seconds < 5 for seconds in result["pauses"].values())
        check_writers(out, 4)
        assert daemon.paused() == []
        assert result["ended"]
    assert not list((tmp_path / "state" / "staging").glob("*"))
    assert not list(daemon.data_root.parent.rglob(".trinity-snap"))


def test_containers_that_did_not_run_stay_as_they_were(daemon, start_run):
    daemon.run("agent-runs", volumes=["agent-runs-workspace:/home/developer"])
    daemon.run("agent-paused", volumes=["agent-paused-workspace:/home/developer"]).pause()
    daemon.create("agent-created", volumes=["agent-created-workspace:/home/developer"])
    daemon.run("agent-ended", ["true"], volumes=["agent-ended-workspace:/home/developer"]).wait()
    daemon.run("bystander", volumes=["other:/data"])
    daemon.run("sharer", volumes=["agent-runs-workspace:/read-write"])
    daemon.run("reader", volumes=["agent-runs-workspace:/read-only:ro"])
    code, result = finish(start_run(daemon))
    assert code == 0, result
    assert set(result["pauses"]) == {"agent-runs", "sharer"}
    states = {each["Names"][0].lstrip("/"): each["State"] for each in daemon.client.api.containers(all=True)}
    assert states == {
        "agent-runs": "running", "agent-paused": "paused", "agent-created": "created", "agent-ended": "exited",
        "bystander": "running", "sharer": "running", "reader": "running",
    }  # fmt: skip


def test_a_host_with_nothing_to_pause_is_quiesced_all_the_same(daemon, start_run):
    daemon.create("agent-created", volumes=["agent-created-workspace:/home/developer"])
    code, result = finish(start_run(daemon))
    assert (code, result["labels"], result["pauses"]) == (0, {"created": "host-crash-consistent"}, {})


def test_two_runs_at_once_are_refused(btrfs_daemon, start_run):
    btrfs_daemon.run("agent-a", volumes=["agent-a-workspace:/home/developer"])
    first = start_run(btrfs_daemon, "--budget", "2", TRINITY_SNAP_HANG_AT="prepared")
    os.waitpid(first.pid, os.WUNTRACED)
    code, result = finish(start_run(btrfs_daemon))
    assert code == 3
    assert result["error"] == "HostBusy"
    assert str(first.pid) in result["message"]
    os.kill(first.pid, signal.SIGCONT)
    assert finish(first)[0] == 0


@pytest.mark.parametrize(("more", "code"), [((), 0), (("--fail",), 12)])
def test_a_budget_that_does_not_suffice_is_said_and_nobody_stays_held(daemon, start_run, more, code):
    for number in range(4):
        daemon.run(f"agent-{number}", volumes=[f"agent-{number}-workspace:/home/developer"])
    returned, result = finish(start_run(daemon, "--budget", "0.001", *more))
    assert returned == code, result
    assert daemon.paused() == []
    if code:
        assert "budget" in result["message"]
    else:
        assert set(result["shortfalls"]) == {f"{number}" for number in range(4)}
        assert set(result["labels"].values()) <= {"crash-consistent", "file-consistent"}
        assert "budget" in result["why"]
    assert result.get("ended", True)


def test_a_signal_in_the_critical_section_waits_until_everything_is_resumed(btrfs_daemon, start_run, tmp_path):
    btrfs_daemon.run("agent-a", volumes=["agent-a-workspace:/home/developer"])
    process = start_run(btrfs_daemon, "--budget", "20", TRINITY_SNAP_HANG_AT="all-paused")
    os.waitpid(process.pid, os.WUNTRACED)
    assert btrfs_daemon.paused() == ["agent-a"]
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert btrfs_daemon.paused() == []
    (journal,) = journals(tmp_path / "state")
    state = read_journal(journal)
    assert state.ended
    assert state.held == ()


def test_a_container_that_somebody_resumes_meanwhile_downgrades_the_promise(btrfs_daemon, start_run):
    btrfs_daemon.run("agent-a", volumes=["agent-a-workspace:/home/developer"])
    other = btrfs_daemon.run("agent-b", volumes=["agent-b-workspace:/home/developer"])
    process = start_run(btrfs_daemon, "--budget", "20", TRINITY_SNAP_HANG_AT="all-paused")
    os.waitpid(process.pid, os.WUNTRACED)
    other.unpause()
    os.kill(process.pid, signal.SIGCONT)
    code, result = finish(process)
    assert code == 0
    assert result["labels"] == {"a": "host-crash-consistent", "b": "crash-consistent"}
    assert "agent-b" in result["shortfalls"]["b"]


def test_a_container_that_is_killed_while_held_is_no_failure_for_the_others(btrfs_daemon, start_run):
    btrfs_daemon.run("agent-a", volumes=["agent-a-workspace:/home/developer"])
    other = btrfs_daemon.run("agent-b", volumes=["agent-b-workspace:/home/developer"])
    process = start_run(btrfs_daemon, "--budget", "20", TRINITY_SNAP_HANG_AT="all-paused")
    os.waitpid(process.pid, os.WUNTRACED)
    other.remove(force=True)
    os.kill(process.pid, signal.SIGCONT)
    code, result = finish(process)
    assert code == 0, result
    assert result["labels"]["a"] == "host-crash-consistent"
    assert btrfs_daemon.paused() == []


def test_recover_touches_nothing_that_no_journal_notes(btrfs_daemon, tmp_path):
    held = btrfs_daemon.run("agent-one", volumes=["agent-one-workspace:/home/developer"])
    held.pause()
    foreign = tmp_path / "precious"
    foreign.mkdir()
    state = tmp_path / "state"
    journal = Journal.start(state, "run-1")
    journal.making([Leftover("staging", foreign, "precopy"), Leftover("snapshot", foreign, "btrfs")])
    text = journal.path.read_text().replace(f'"pid": {os.getpid()}', '"pid": 999999999')
    journal.path.write_text(text)
    journal.close()
    report = recover(state, connect())
    assert len(report.problems) == 1
    assert foreign.exists()
    assert btrfs_daemon.paused() == ["agent-one"]
