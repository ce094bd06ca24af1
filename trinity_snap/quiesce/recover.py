"""Undoing what a dead run left behind: paused and stopped containers, hooks, snapshots, staging directories.

Only what a run noted in its journal is touched, and only if that run's process is dead. A container is
resumed only if it was paused in this boot of the machine; one that the run stopped is started also after a
reboot, unless it has been started since; and an after-hook that is due runs, too. Doing it twice, or two at
once, does no harm.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.errors import HostBusy, KeyFileError, LeftQuiesced, SnapshotError, TrinityError
from trinity_snap.quiesce.containers import PauseFailed, resume
from trinity_snap.quiesce.hooks import run_after_hook
from trinity_snap.quiesce.journal import (
    Journal,
    JournalState,
    Leftover,
    forget_old,
    journals,
    read_journal,
)
from trinity_snap.quiesce.lock import HostLock
from trinity_snap.quiesce.processes import boot_id
from trinity_snap.quiesce.undo import give_back

if TYPE_CHECKING:
    from docker import DockerClient

_BEGUN_SECONDS = 60.0
_GUARDIAN_SECONDS = 5.0
_BUSY_GUARDIAN_SECONDS = 60.0
_STOPPING_SECONDS = 900.0
_AGAIN_SECONDS = 0.05


@dataclass
class RecoverReport:
    """What was undone: ids of runs, names of containers, paths; and what could not be, as sentences.

    `hooks` are the agents whose after-hook was run, `autonomy` those whose autonomy in Trinity is as it was again. `waiting` are
    sentences, too: what can be done only once a container runs again.
    """

    runs: list[str] = field(default_factory=list)
    alive: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    hooks: list[str] = field(default_factory=list)
    autonomy: list[str] = field(default_factory=list)
    removed: list[Path] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    strays: list[Path] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """The report as the `--json` output shows it."""
        return {
            "runs": self.runs,
            "alive": self.alive,
            "resumed": self.resumed,
            "started": self.started,
            "hooks": self.hooks,
            "autonomy": self.autonomy,
            "removed": [str(path) for path in self.removed],
            "waiting": self.waiting,
            "problems": self.problems,
            "strays": [str(path) for path in self.strays],
        }


def recover(state_dir: Path, client: DockerClient | None) -> RecoverReport:
    """Undo what the journals of dead runs say is still to be undone.

    Without a `client` (no Docker), containers stay noted for the next time. `strays` are snapshots with our
    names that no journal here knows; they are only reported (`remove_strays`). Raise LeftQuiesced, after doing everything
    else, if a container that a dead run paused or stopped could not be resumed or started.
    """
    report = RecoverReport()
    stuck: list[str] = []
    known: set[Path] = set()
    for path in journals(state_dir):
        state = read_journal(path)
        known.update(leftover.where for leftover in state.leftovers)
        if state.ended:
            continue
        if _is_alive(state):
            report.alive.append(state.run_id)
            continue
        report.runs.append(state.run_id)
        state = _after_guardian(state)
        journal = Journal.reopen(path)
        try:
            stuck += _resume_all(state, journal, client, report)
            stuck += _start_all(state, journal, client, report)
            _run_hooks(state, journal, client, report)
            stuck += _give_back_autonomy(state, journal, report)
            # What is mounted cannot be renamed or removed.
            for leftover in sorted(state.leftovers, key=lambda each: each.kind != "mounts"):
                if leftover.kind != "mounts":
                    _settle(state_dir, state.run_id, report)
                _remove(leftover, state.run_id, journal, report)
        finally:
            journal.end()
        _wait_for_guardian(state)
    known.update(_local(state_dir, report))
    report.strays = [path for path in _strays(report) if path not in known]
    forget_old(state_dir)
    if stuck:
        raise LeftQuiesced(
            f"These, held by a run that died, could not be resumed, started or given back: {', '.join(stuck)}.",
            untouched=" ".join(report.problems) or "Everything else was recovered.",
            next_step=(
                "See that Docker is well, then run `trinity-snap recover` again, or `docker unpause` or "
                "`docker start` them."
            ),
        )
    return report


def remove_strays(report: RecoverReport, lock: HostLock) -> None:
    """Remove the strays of a report, as far as all about them is as a run of ours makes it; what is kept stays.

    The caller holds the host by `lock`. Raise HostBusy if a run of another policy is alive, whose they might be.
    """
    from trinity_snap.snapshot.leftovers import remove_stray

    doomed = [path for path in report.strays if "keep-" not in path.name]
    if not doomed:
        return
    with lock.alone() as alone:
        if not alone:
            raise HostBusy(
                "A run of another policy is alive on this host, and these may be its snapshots: "
                f"{', '.join(map(str, doomed))}.",
                untouched="They were left alone; everything else was recovered.",
                next_step="Wait until it has ended, then run `trinity-snap recover --strays` again.",
            )
        for path in doomed:
            try:
                remove_stray(path)
            except (OSError, SnapshotError) as error:
                report.problems.append(f"{path} could not be removed: {error}")
                continue
            report.strays.remove(path)
            report.removed.append(path)


def _is_alive(state: JournalState) -> bool:
    if state.process is None:
        # Its first line is not there yet, or was cut off by a crash.
        return time.time() - state.path.stat().st_mtime < _BEGUN_SECONDS
    return state.process.is_alive()


def _after_guardian(state: JournalState) -> JournalState:
    """The state once the dead run's guardian, if it lives, has started what was stopped and run the hooks."""
    until = time.monotonic() + _BUSY_GUARDIAN_SECONDS
    while (
        (state.stopped or state.hooks)
        and state.guardian is not None
        and state.guardian.is_alive()
        and time.monotonic() < until
    ):
        time.sleep(_AGAIN_SECONDS)
        state = read_journal(state.path)
    return state


def _wait_for_guardian(state: JournalState) -> None:
    """Wait until the dead run's guardian is gone: it would resume what the next run pauses."""
    until = time.monotonic() + _GUARDIAN_SECONDS
    while state.guardian is not None and state.guardian.is_alive() and time.monotonic() < until:
        time.sleep(0.02)


def _resume_all(state: JournalState, journal: Journal, client: DockerClient | None, report: RecoverReport) -> list[str]:
    """Resume what the dead run held; the names of those that could not be."""
    same_boot = state.process is not None and state.process.boot_id == boot_id()
    if state.held and same_boot and client is None:
        report.problems.append(f"Run {state.run_id} may have left containers paused; there is no Docker to ask.")
        return []
    stuck = []
    for container in state.held:
        if same_boot and client is not None:
            try:
                answer = resume(client, container)
            except PauseFailed as error:
                stuck.append(f"{container[:12]} ({error})")
                continue
            if answer == "resumed":
                report.resumed.append(_name(client, container))
        journal.resumed(container, "recover")
    return stuck


def _start_all(state: JournalState, journal: Journal, client: DockerClient | None, report: RecoverReport) -> list[str]:
    """Start what the dead run stopped; the names of those that could not be."""
    if state.stopped and client is None:
        report.problems.append(f"Run {state.run_id} may have left containers stopped; there is no Docker to ask.")
        return []
    same_boot = state.process is not None and state.process.boot_id == boot_id()
    stuck = []
    for stopped in state.stopped:
        assert client is not None
        patience = time.monotonic() + _STOPPING_SECONDS  # whatever becomes of the clock on the wall
        try:
            while (
                answer := give_back(
                    client, journal, stopped, "recover", same_boot=same_boot and time.monotonic() < patience
                )
            ) == "waiting":
                time.sleep(_AGAIN_SECONDS)
        except PauseFailed as error:
            stuck.append(f"{stopped.id[:12]} ({error})")
            continue
        if answer == "started":
            report.started.append(_name(client, stopped.id))
    return stuck


def _run_hooks(state: JournalState, journal: Journal, client: DockerClient | None, report: RecoverReport) -> None:
    for hook in state.hooks:
        problem = None if client is None else run_after_hook(client, journal, hook, "aborted", "recover")
        if problem is None:
            report.waiting.append(
                f"The after-hook of {hook.agent}, due since run {state.run_id}, waits until its container runs."
            )
        elif problem:
            report.problems.append(problem)
        else:
            report.hooks.append(hook.agent)


def _give_back_autonomy(state: JournalState, journal: Journal, report: RecoverReport) -> list[str]:
    """Switch on in Trinity what the dead run switched off; what could not be."""
    if not state.autonomy:
        return []
    from trinity_snap.trinity.autonomy import give_back

    stuck = []
    for held in state.autonomy:
        try:
            problem = give_back(journal, held, "recover", may_be_late=True)
        except (TrinityError, KeyFileError) as error:
            stuck.append(f"the autonomy of {held.agent} ({error.message})")
            continue
        report.autonomy.append(held.agent)
        if problem:
            report.problems.append(problem)
    return stuck


def _remove(leftover: Leftover, run_id: str, journal: Journal, report: RecoverReport) -> None:
    from trinity_snap.snapshot.leftovers import remove_leftover

    try:
        existed = remove_leftover(leftover, run_id)
    except (OSError, SnapshotError) as error:
        report.problems.append(f"Run {run_id} left {leftover.where} behind, and it could not be removed: {error}")
        return
    if existed:
        report.removed.append(leftover.where)
    journal.removed(leftover.where)


def _settle(state_dir: Path, run_id: str, report: RecoverReport) -> None:
    """Keep what the dead run had decided to keep; then its journal's note of the snapshot is about nothing any more."""
    from trinity_snap.snapshot.local import settle_run

    try:
        settle_run(state_dir, run_id)
    except SnapshotError as error:
        report.problems.append(f"What run {run_id} wanted to keep could not be kept: {error}")


def _local(state_dir: Path, report: RecoverReport) -> list[Path]:
    """End removals of local snapshots that were begun; where those are that stay."""
    from trinity_snap.snapshot.local import close_all, finish_removals, local_snapshots

    try:
        close_all()
        report.problems += finish_removals(state_dir)
    except SnapshotError as error:
        report.problems.append(str(error))
    try:
        return [Path(kept.where) for snapshot in local_snapshots(state_dir) for kept in snapshot.kept]
    except SnapshotError as error:
        report.problems.append(str(error))
        return []


def _strays(report: RecoverReport) -> tuple[Path, ...]:
    from trinity_snap.snapshot.leftovers import strays

    try:
        return strays()
    except SnapshotError as error:
        report.problems.append(f"Whether snapshots of unknown runs are left could not be seen: {error}")
        return ()


def _name(client: DockerClient, container: str) -> str:
    from docker.errors import DockerException

    try:
        return str(client.api.inspect_container(container)["Name"]).removeprefix("/")
    except (DockerException, OSError):
        return container[:12]
