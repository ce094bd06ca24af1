"""Undoing what a dead run left behind: paused containers, snapshots, staging directories.

Only what a run noted in its journal is touched, only if that run's process is dead, and a container only if
it was paused in this boot of the machine. Doing it twice, or two at once, does no harm.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.errors import LeftQuiesced, SnapshotError
from trinity_snap.quiesce.containers import PauseFailed, resume
from trinity_snap.quiesce.journal import (
    Journal,
    JournalState,
    Leftover,
    forget_old,
    journals,
    read_journal,
)
from trinity_snap.quiesce.processes import boot_id

if TYPE_CHECKING:
    from docker import DockerClient

_BEGUN_SECONDS = 60.0
_GUARDIAN_SECONDS = 5.0


@dataclass
class RecoverReport:
    """What was undone: ids of runs, names of containers, paths; and what could not be, as sentences."""

    runs: list[str] = field(default_factory=list)
    alive: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    removed: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    strays: list[Path] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """The report as the `--json` output shows it."""
        return {
            "runs": self.runs,
            "alive": self.alive,
            "resumed": self.resumed,
            "removed": [str(path) for path in self.removed],
            "problems": self.problems,
            "strays": [str(path) for path in self.strays],
        }


def recover(state_dir: Path, client: DockerClient | None) -> RecoverReport:
    """Undo what the journals of dead runs say is still to be undone.

    Without a `client` (no Docker), containers stay noted for the next time. `strays` are snapshots with our
    names that no journal here knows; they are only reported. Raise LeftQuiesced, after doing everything
    else, if a container that a dead run paused could not be resumed.
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
        journal = Journal.reopen(path)
        try:
            stuck += _resume_all(state, journal, client, report)
            for leftover in state.leftovers:
                _remove(leftover, state.run_id, journal, report)
        finally:
            journal.end()
        _wait_for_guardian(state)
    report.strays = [path for path in _strays() if path not in known]
    forget_old(state_dir)
    if stuck:
        raise LeftQuiesced(
            f"These containers, paused by a run that died, could not be resumed: {', '.join(stuck)}.",
            untouched="Everything else was recovered.",
            next_step="See that Docker is well, then run `trinity-snap recover` again, or `docker unpause` them.",
        )
    return report


def _is_alive(state: JournalState) -> bool:
    if state.process is None:
        # Its first line is not there yet, or was cut off by a crash.
        return time.time() - state.path.stat().st_mtime < _BEGUN_SECONDS
    return state.process.is_alive()


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


def _remove(leftover: Leftover, run_id: str, journal: Journal, report: RecoverReport) -> None:
    from trinity_snap.snapshot import btrfs
    from trinity_snap.snapshot.protocol import remove_tree

    existed = leftover.where.exists()
    try:
        if not leftover.where.name.startswith(run_id):
            raise SnapshotError(f"{leftover.where} is not named after run {run_id}, and is left alone.")
        if leftover.kind == "snapshot" and leftover.provider == btrfs.NAME:
            btrfs.remove_leftover(leftover.where)
        elif leftover.kind == "staging":
            if existed:
                remove_tree(leftover.where, run_id)
        else:
            raise SnapshotError(f"{leftover.where} was made by a provider that this version does not know.")
    except (OSError, SnapshotError) as error:
        report.problems.append(f"Run {run_id} left {leftover.where} behind, and it could not be removed: {error}")
        return
    if existed:
        report.removed.append(leftover.where)
    journal.removed(leftover.where)


def _strays() -> tuple[Path, ...]:
    from trinity_snap.snapshot import btrfs

    return btrfs.snapshots_by_name()


def _name(client: DockerClient, container: str) -> str:
    from docker.errors import DockerException

    try:
        return str(client.api.inspect_container(container)["Name"]).removeprefix("/")
    except (DockerException, OSError):
        return container[:12]
