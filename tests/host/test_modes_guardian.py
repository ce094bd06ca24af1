"""Whatever dies in modes `stop` and `hooks`: containers run again, after-hooks run, and `recover` finds the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.host.test_guardian import guardians, kill_and_wait
from tests.host.test_main_job import wait_until
from tests.host.test_modes import finish, give_hooks, start_quiet, states
from tests.lab.daemon import Daemon
from tests.lab.product import volume
from trinity_snap.agents import connect
from trinity_snap.quiesce import recover
from trinity_snap.quiesce.journal import journals, read_journal
from trinity_snap.quiesce.steps import HOOK_STEPS, STOP_STEPS
from trinity_snap.snapshot.btrfs import snapshots_by_name

pytestmark = pytest.mark.host

Start = Callable[..., subprocess.Popen[bytes]]

MODES = ("--mode-of", "stopped=stop", "--mode-of", "hooked=hooks", "--stop-seconds", "2", "--hook-timeout", "10")
BEFORE_RESTS = ("hook-noted", "hooks-run", "stop-noted", "first-stopped", "all-stopped")
HELD = ("pause-noted", "all-paused", "snapshots-made", "all-resumed")


@pytest.fixture(scope="module")
def all_agents(btrfs_session: Daemon) -> object:
    for name in ("stopped", "hooked", "paused"):
        start_quiet(btrfs_session, name)
    start_quiet(btrfs_session, "ended").stop()
    yield btrfs_session
    btrfs_session.clean()


@pytest.fixture
def agents(all_agents: Daemon, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """One agent in each mode, all running, and one that was shut down before."""
    monkeypatch.setenv("DOCKER_HOST", all_agents.host)
    home = give_hooks(all_agents, "hooked", before="#!/bin/sh\necho begun >> ~/before\n", after=AFTER)
    (home / "after").unlink(missing_ok=True)
    return all_agents


AFTER = '#!/bin/sh\necho "$TRINITY_SNAP_OUTCOME" >> ~/after\n'
HOOKED = "agent-hooked-workspace"
ALL_RUN = {"agent-stopped": "running", "agent-hooked": "running", "agent-paused": "running", "agent-ended": "exited"}


def told(daemon: Daemon) -> list[str]:
    """What the after-hook was told, each time."""
    after = volume(daemon, HOOKED) / "after"
    return after.read_text().split() if after.exists() else []


def hang(start_run: Start, daemon: Daemon, step: str, *more: str) -> subprocess.Popen[bytes]:
    process = start_run(daemon, "--budget", "15", *MODES, *more, TRINITY_SNAP_HANG_AT=step)
    os.waitpid(process.pid, os.WUNTRACED)
    return process


def kill_both(start_run: Start, daemon: Daemon, home: Path, step: str) -> None:
    """A run comes to that step, and then it and its guardian die."""
    process = hang(start_run, daemon, step)
    (guardian,) = guardians(home)
    kill_and_wait(guardian)
    process.kill()
    process.communicate()


def assert_nothing_is_left(daemon: Daemon, state: Path) -> None:
    assert states(daemon) == ALL_RUN
    assert all(read_journal(path).ended for path in journals(state))
    assert not [path for path in snapshots_by_name() if daemon.data_root.parent in path.parents]


@pytest.mark.parametrize("step", [*HOOK_STEPS, *STOP_STEPS, *HELD])
def test_a_run_killed_at_any_step_has_everything_running_again(
    agents: Daemon, start_run: Start, tmp_path: Path, step: str
) -> None:
    process = start_run(agents, "--budget", "15", *MODES, TRINITY_SNAP_CRASH_AT=step)
    answer, _ = process.communicate(timeout=60)
    killed = time.monotonic()
    assert process.returncode == -signal.SIGKILL, answer
    wait_until(lambda: states(agents) == ALL_RUN, 10)
    assert time.monotonic() - killed < 10
    wait_until(lambda: bool(told(agents)))  # a busy Docker may take its time to start a process
    report = recover(tmp_path / "state", connect())
    assert report.problems == []
    assert_nothing_is_left(agents, tmp_path / "state")
    assert set(told(agents)) <= (
        {"done", "aborted"} if step == "after-hooks-run" else {"aborted"} | set(told(agents)[:1])
    )
    again = recover(tmp_path / "state", connect())
    assert (again.runs, again.started, again.hooks) == ([], [], [])


@pytest.mark.parametrize("step", ["hooks-run", "first-stopped", "all-stopped", "all-paused", "first-started"])
def test_when_run_and_guardian_both_die_recover_starts_and_runs_the_hooks(
    agents: Daemon, start_run: Start, tmp_path: Path, step: str
) -> None:
    kill_both(start_run, agents, tmp_path, step)
    assert told(agents) == []
    report = recover(tmp_path / "state", connect())
    assert report.problems == []
    assert report.hooks == ["hooked"]
    assert told(agents) == ["aborted"]
    assert_nothing_is_left(agents, tmp_path / "state")


@pytest.mark.parametrize("step", ["hooks-run", "all-stopped", "all-paused"])
def test_a_run_that_loses_its_guardian_undoes_everything_and_fails(
    agents: Daemon, start_run: Start, tmp_path: Path, step: str
) -> None:
    process = hang(start_run, agents, step)
    (guardian,) = guardians(tmp_path)
    kill_and_wait(guardian)
    os.kill(process.pid, signal.SIGCONT)
    answer = finish(process)
    assert (answer["code"], answer["error"]) == (1, "SnapshotError")
    assert "guardian" in answer["message"]
    assert told(agents) == ["failed"]
    assert_nothing_is_left(agents, tmp_path / "state")


def test_a_run_that_hangs_loses_its_hold_when_the_time_is_over(
    agents: Daemon, start_run: Start, tmp_path: Path
) -> None:
    process = start_run(agents, "--budget", "1", *MODES, TRINITY_SNAP_HANG_AT="all-paused")
    os.waitpid(process.pid, os.WUNTRACED)
    wait_until(lambda: states(agents) == ALL_RUN and told(agents) == ["aborted"], 10)
    os.kill(process.pid, signal.SIGCONT)
    answer = finish(process)
    assert answer["code"] == 0
    assert set(answer["shortfalls"]) == {"stopped", "hooked", "paused", "ended"}
    assert told(agents) == ["aborted"]
    assert_nothing_is_left(agents, tmp_path / "state")


def test_a_signal_ends_a_run_before_it_holds_anybody_and_the_after_hook_is_told(
    agents: Daemon, start_run: Start, tmp_path: Path
) -> None:
    process = hang(start_run, agents, "hooks-run")
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert told(agents) == ["aborted"]
    assert_nothing_is_left(agents, tmp_path / "state")


def test_a_container_that_a_run_stopped_is_started_also_after_a_reboot(
    agents: Daemon, start_run: Start, tmp_path: Path
) -> None:
    kill_both(start_run, agents, tmp_path, "all-stopped")
    (path,) = journals(tmp_path / "state")
    boot = read_journal(path).process.boot_id  # type: ignore[union-attr]
    path.write_text(path.read_text().replace(boot, "an earlier boot"))
    assert recover(tmp_path / "state", connect()).started == ["agent-stopped"]
    assert_nothing_is_left(agents, tmp_path / "state")


def test_a_container_that_somebody_else_started_and_stopped_since_is_left_to_them(
    agents: Daemon, start_run: Start, tmp_path: Path
) -> None:
    kill_both(start_run, agents, tmp_path, "all-stopped")
    container = agents.client.containers.get("agent-stopped")
    container.start()
    container.stop()
    try:
        assert recover(tmp_path / "state", connect()).started == []
        assert states(agents) == ALL_RUN | {"agent-stopped": "exited"}
        assert all(read_journal(path).ended for path in journals(tmp_path / "state"))
    finally:
        container.start()


def test_a_before_hook_that_a_dead_run_left_behind_is_ended_before_the_after_hook(
    agents: Daemon, start_run: Start, tmp_path: Path
) -> None:
    process = start_run(agents, *MODES, "--before", "touch ~/begun; exec sleep 1000")
    begun = volume(agents, HOOKED) / "begun"
    wait_until(begun.exists)
    process.kill()
    process.communicate()
    wait_until(lambda: told(agents) == ["aborted"], 10)
    processes = agents.client.containers.get("agent-hooked").top()["Processes"]
    assert not [process for process in processes if process[-1] == "sleep 1000"]
    recover(tmp_path / "state", connect())
    assert_nothing_is_left(agents, tmp_path / "state")


def test_an_after_hook_waits_for_its_container_and_is_not_forgotten(
    agents: Daemon, start_run: Start, tmp_path: Path
) -> None:
    kill_both(start_run, agents, tmp_path, "hooks-run")
    container = agents.client.containers.get("agent-hooked")
    container.stop()
    report = recover(tmp_path / "state", connect())
    assert "after-hook of hooked" in report.waiting[0]
    container.start()
    assert recover(tmp_path / "state", connect()).hooks == ["hooked"]
    assert told(agents) == ["aborted"]
    assert_nothing_is_left(agents, tmp_path / "state")
