"""Whatever dies or hangs, containers run again within seconds, and `recover` removes the rest."""

import os
import select
import signal
import time
from pathlib import Path

import pytest

from trinity_snap.agents import connect
from trinity_snap.quiesce import recover
from trinity_snap.quiesce.journal import journals, read_journal
from trinity_snap.quiesce.steps import STEPS
from trinity_snap.snapshot.btrfs import snapshots_by_name

pytestmark = pytest.mark.host


@pytest.fixture(scope="module", params=["btrfs", "ext4"])
def all_agents(request):
    daemon = request.getfixturevalue(f"{request.param}_session")
    for name in ("one", "two", "three"):
        daemon.run(f"agent-{name}", volumes=[f"agent-{name}-workspace:/home/developer"])
    daemon.run("agent-paused", volumes=["agent-paused-workspace:/home/developer"]).pause()
    daemon.create("agent-stopped", volumes=["agent-stopped-workspace:/home/developer"])
    yield daemon
    daemon.clean()


@pytest.fixture
def agents(all_agents, monkeypatch):
    """A daemon with three running agents, one that is paused already, and one that never ran."""
    monkeypatch.setenv("DOCKER_HOST", all_agents.host)
    yield all_agents
    for container in all_agents.client.containers.list(filters={"status": "paused"}):
        if container.name != "agent-paused":
            container.unpause()


def wait_until_resumed(daemon, seconds=10.0):
    until = time.monotonic() + seconds
    while daemon.paused() != ["agent-paused"]:
        assert time.monotonic() < until, daemon.paused()
        time.sleep(0.02)


def guardians(worker):
    """The processes that are guardians of a run of this test's state directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"trinity_snap.quiesce.guardian" in command and bytes(worker) in command:
            found.append(int(entry.name))
    return found


def kill_and_wait(pid):
    descriptor = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([descriptor], [], [], 10)
    os.close(descriptor)


def assert_nothing_is_left(daemon, state):
    assert daemon.paused() == ["agent-paused"]
    assert not [path for path in snapshots_by_name() if daemon.data_root.parent in path.parents]
    assert not list((state / "staging").glob("*"))
    assert all(read_journal(path).ended for path in journals(state))
    states = {each["Names"][0].lstrip("/"): each["State"] for each in daemon.client.api.containers(all=True)}
    assert states["agent-stopped"] == "created"


@pytest.mark.parametrize("step", STEPS)
def test_a_run_killed_at_any_step_leaves_nothing(agents, start_run, tmp_path, step):
    process = start_run(agents, TRINITY_SNAP_CRASH_AT=step)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    wait_until_resumed(agents)
    report = recover(tmp_path / "state", connect())
    assert report.problems == []
    assert_nothing_is_left(agents, tmp_path / "state")
    again = recover(tmp_path / "state", connect())
    assert (again.runs, again.removed, again.resumed) == ([], [], [])
    following = start_run(agents)
    following.communicate(timeout=60)
    assert following.returncode == 0
    assert_nothing_is_left(agents, tmp_path / "state")


@pytest.mark.parametrize("step", ["pause-noted", "first-paused", "all-paused", "first-snapshot", "first-resumed"])
def test_a_run_that_hangs_has_its_agents_resumed_at_the_deadline(agents, start_run, tmp_path, step):
    process = start_run(agents, "--budget", "1", TRINITY_SNAP_HANG_AT=step)
    os.waitpid(process.pid, os.WUNTRACED)
    wait_until_resumed(agents, 2.5)
    os.kill(process.pid, signal.SIGCONT)  # the run wakes up late, finds what happened, and goes on without a hold
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert_nothing_is_left(agents, tmp_path / "state")


@pytest.mark.parametrize("step", ["guardian-ready", "pause-noted", "first-paused", "all-paused", "first-snapshot"])
def test_a_run_that_loses_its_guardian_resumes_everything_and_fails(agents, start_run, tmp_path, step):
    process = start_run(agents, "--budget", "20", TRINITY_SNAP_HANG_AT=step)
    os.waitpid(process.pid, os.WUNTRACED)
    (guardian,) = guardians(tmp_path)
    kill_and_wait(guardian)
    os.kill(process.pid, signal.SIGCONT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert b"guardian" in output
    assert_nothing_is_left(agents, tmp_path / "state")


def test_the_guardian_survives_the_signals_of_a_process_group(agents, start_run, tmp_path):
    process = start_run(agents, "--budget", "20", TRINITY_SNAP_HANG_AT="all-paused")
    os.waitpid(process.pid, os.WUNTRACED)
    (guardian,) = guardians(tmp_path)
    assert os.getsid(guardian) == guardian
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(guardian, number)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until_resumed(agents)
    recover(tmp_path / "state", connect())
    assert guardians(tmp_path) == []


def test_when_run_and_guardian_both_die_recover_resumes(agents, start_run, tmp_path):
    process = start_run(agents, "--budget", "20", TRINITY_SNAP_HANG_AT="all-paused")
    os.waitpid(process.pid, os.WUNTRACED)
    (guardian,) = guardians(tmp_path)
    alive = recover(tmp_path / "state", connect())
    assert (len(alive.alive), alive.resumed) == (1, [])
    assert len(agents.paused()) == 4
    os.kill(guardian, signal.SIGKILL)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    report = recover(tmp_path / "state", connect())
    assert sorted(report.resumed) == ["agent-one", "agent-three", "agent-two"]
    assert_nothing_is_left(agents, tmp_path / "state")
