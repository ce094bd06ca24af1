"""Ending a restore that swaps data, from whatever point it has come to: forward, or back to where it began."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trinity_snap.durable import fsync_directory
from trinity_snap.errors import LeftQuiesced, RestoreError, RestoreRefused
from trinity_snap.quiesce.steps import step
from trinity_snap.restore.containers import start_again
from trinity_snap.restore.directories import keeping_time, remove_tree
from trinity_snap.restore.journal import RestoreJournal, journals, owned
from trinity_snap.restore.operations import Swap, read_operations
from trinity_snap.restore.volumes import remove_volume

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = [
    "KeptData",
    "ResumedRestore",
    "apply_all",
    "close_journal",
    "keep_previous",
    "list_kept",
    "release",
    "resume_restores",
    "undo_all",
    "undo_staging",
]


@dataclass(frozen=True)
class ResumedRestore:
    """What became of a restore that had not ended: `outcome` is `undone` or `finished`."""

    id: str
    agent: str
    outcome: str
    containers: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As `--json` shows it."""
        return {
            "restore_id": self.id,
            "agent": self.agent,
            "outcome": self.outcome,
            "containers": list(self.containers),
        }


@dataclass(frozen=True)
class KeptData:
    """The data that a restore replaced: where it is kept until it is released."""

    id: str
    agent: str
    point: str
    restored: str
    paths: tuple[Path, ...]

    def to_json(self) -> dict[str, Any]:
        """As `--json` shows it."""
        return {
            "restore_id": self.id,
            "agent": self.agent,
            "point": self.point,
            "restored": self.restored,
            "paths": [str(path) for path in self.paths],
        }


# -- forward ------------------------------------------------------------------------------------------------------------


def apply_all(journal: RestoreJournal, state_dir: Path) -> None:
    """Do every operation that is not done yet. Raise OSError."""
    for number, volume in enumerate(journal.volumes):
        if not os.path.lexists(volume.holder) and os.path.lexists(volume.previous):
            continue  # all was done, and the holder has its last name already
        operations = read_operations(journal.operations_path(state_dir, number))
        with Swap(Path(volume.live), Path(volume.holder)) as swap:
            for count, operation in enumerate(operations):
                swap.apply(operation)
                if count == 0:
                    step("restore.first-operation")
            swap.sync(operations)
        step("restore.volume-swapped")


def keep_previous(journal: RestoreJournal, state_dir: Path) -> list[Path]:
    """Give the holders, which have the previous data now, their last name; remove those that have none. Raise RestoreError.

    What is to be discarded stays until `close_journal`: the containers have waited long enough.
    """
    if journal.discard:
        return []
    kept = []
    try:
        for volume in journal.volumes:
            if os.path.lexists(volume.holder):
                if volume.created or not volume.replaces:
                    _remove(Path(volume.holder))
                    continue
                with keeping_time(Path(volume.holder).parent):
                    os.rename(volume.holder, volume.previous)
                fsync_directory(Path(volume.previous).parent)
            if os.path.lexists(volume.previous):
                volume.kept = True
                kept.append(Path(volume.previous))
    except OSError as error:
        raise RestoreError(f"The previous data could not be put aside: {error.strerror or error}.") from error
    journal.save(state_dir)
    step("restore.previous-kept")
    return kept


def close_journal(journal: RestoreJournal, state_dir: Path) -> None:
    """End a restore whose data is in place and whose containers run: discard what is not kept. Raise OSError."""
    step("restore.closing")
    if journal.discard:
        for volume in journal.volumes:
            if os.path.lexists(volume.holder):
                _remove(Path(volume.holder))
    journal.phase = "kept"
    if any(volume.kept for volume in journal.volumes):
        journal.save(state_dir)
        journal.forget_operations(state_dir)
    else:
        journal.remove(state_dir)


# -- back ---------------------------------------------------------------------------------------------------------------


def undo_all(journal: RestoreJournal, state_dir: Path) -> None:
    """Undo every operation that was done. Raise OSError."""
    for number, volume in reversed(list(enumerate(journal.volumes))):
        operations = read_operations(journal.operations_path(state_dir, number))
        with Swap(Path(volume.live), Path(volume.holder)) as swap:
            swap.undo(operations)


def undo_staging(journal: RestoreJournal, state_dir: Path, docker: DockerClient | None) -> list[str]:
    """Remove what was put together, and volumes made for it; start what was stopped. Live data was never touched.

    Return a sentence for each container that did not start; the journal stays then. Raise OSError.
    """
    # Containers first: they have waited long enough, and need nothing of what is removed.
    failed = start_again(docker, journal.containers) if docker is not None else []
    step("restore.undo-started")
    for volume in journal.volumes:
        if volume.holder and os.path.lexists(volume.holder):
            _remove(Path(volume.holder))
        if volume.created and docker is not None:
            remove_volume(docker, volume.created)
    if not failed:
        journal.remove(state_dir)
    return failed


def _remove(path: Path) -> None:
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with keeping_time(path.parent):
            remove_tree(parent, os.fsencode(path.name))
        os.fsync(parent)
    finally:
        os.close(parent)


# -- later ------------------------------------------------------------------------------------------------------------


def resume_restores(state_dir: Path, docker: DockerClient | None) -> list[ResumedRestore]:
    """End every restore whose process died: undo it if live data was not touched yet, else finish it. The caller holds the host.

    Either way the data is whole and the containers are as they were before. Idempotent. Raise LeftQuiesced if a container
    does not start, RestoreError if something cannot be ended; the others are ended all the same.
    """
    ended = []
    problems: list[str] = []
    left: list[str] = []
    for journal in journals(state_dir):
        if journal.phase == "kept":
            continue
        with owned(state_dir, journal.id) as ours:
            if not ours:
                continue
            try:
                outcome, failed = _resume(journal, state_dir, docker)
            except (OSError, RestoreError) as error:
                problems.append(f"restore {journal.id} of {journal.agent}: {error}")
                continue
        left += failed
        ended.append(
            ResumedRestore(journal.id, journal.agent, outcome, tuple(held.name for held in journal.containers))
        )
    if problems:
        raise RestoreError(
            f"Restores could not be ended: {'; '.join(problems)}.",
            next_step="Put right what they name, and run `trinity-snap recover` again.",
        )
    if left:
        raise LeftQuiesced(
            f"Containers that a restore stopped did not start again: {'; '.join(left)}.",
            next_step="See why with `docker logs`, start them, and run `trinity-snap recover` again.",
        )
    return ended


def _resume(journal: RestoreJournal, state_dir: Path, docker: DockerClient | None) -> tuple[str, list[str]]:
    if journal.phase == "staging":
        return "undone", undo_staging(journal, state_dir, docker)
    if journal.phase == "swapping":
        apply_all(journal, state_dir)
        journal.phase = "starting"
        journal.save(state_dir)
    try:
        keep_previous(journal, state_dir)
    finally:  # the data is whole, wherever the previous one lies
        failed = start_again(docker, journal.containers) if docker is not None else []
    if not failed:
        close_journal(journal, state_dir)
    return "finished", failed


def list_kept(state_dir: Path, agent: str | None = None) -> list[KeptData]:
    """The previous data that is kept, the oldest first."""
    return [
        KeptData(
            journal.id,
            journal.agent,
            journal.point,
            journal.started,
            tuple(Path(volume.previous) for volume in journal.volumes if volume.kept),
        )
        for journal in journals(state_dir)
        if journal.phase == "kept" and agent in (None, journal.agent)
    ]


def release(state_dir: Path, selector: str) -> list[KeptData]:
    """Remove the previous data of one restore (by its id), or of all restores of an agent. Return what was removed.

    Raise RestoreRefused if nothing is kept under that name, RestoreError if it cannot be removed.
    """
    chosen = [kept for kept in list_kept(state_dir) if selector in (kept.id, kept.agent)]
    if not chosen:
        raise RestoreRefused(
            f"No previous data is kept for “{selector}”.",
            untouched="Nothing was changed.",
            next_step="`trinity-snap restore --release` takes an agent or the id of a restore.",
        )
    by_id = {journal.id: journal for journal in journals(state_dir)}
    for kept in chosen:
        for path in kept.paths:
            try:
                if os.path.lexists(path):
                    _remove(path)
            except OSError as error:
                raise RestoreError(
                    f"The previous data in {path} could not be removed: {error.strerror or error}.",
                    next_step="Remove it by hand, and release again.",
                ) from error
        by_id[kept.id].remove(state_dir)
    return chosen
