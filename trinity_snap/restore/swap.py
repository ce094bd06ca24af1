"""Restoring over what is live: put together beside it, check, stop, exchange, start, keep what was there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.durable import make_directory_durably
from trinity_snap.errors import LeftQuiesced, RestoreError, TrinitySnapError
from trinity_snap.progress import Progress
from trinity_snap.quiesce.steps import step
from trinity_snap.repository.manifest import Entry
from trinity_snap.restore.containers import create_container, start_again, stop, users_of
from trinity_snap.restore.difference import Difference, compare_trees
from trinity_snap.restore.directories import OPEN_DIRECTORY, keeping_time, list_names, lstat_or_none
from trinity_snap.restore.finish import keep_previous, undo_staging
from trinity_snap.restore.journal import HeldState, RestoreJournal, VolumeSwap, owned, timestamp
from trinity_snap.restore.names import STAGED, holder_name, is_ours, previous_name
from trinity_snap.restore.operations import Operation, Swap, directory_state, entry_state, write_operations
from trinity_snap.restore.plan import RestorePlan, VolumePlan
from trinity_snap.restore.result import RestoreResult, make_result
from trinity_snap.restore.selection import ancestors, select_paths, select_units
from trinity_snap.restore.signals import Interruption
from trinity_snap.restore.source import PointSource
from trinity_snap.restore.system import is_mount_point
from trinity_snap.restore.tree import TreeResult
from trinity_snap.restore.volumes import create_volume, volume_directory
from trinity_snap.restore.write import write_and_check

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["swap_in"]


@dataclass
class _Part:
    """One volume on its way."""

    plan: VolumePlan
    note: VolumeSwap
    how: str
    result: TreeResult
    difference: Difference | None = None

    @property
    def live(self) -> Path:
        return Path(self.note.live)

    @property
    def holder(self) -> Path:
        return Path(self.note.holder)


def swap_in(
    plan: RestorePlan,
    reader: PointSource,
    docker: DockerClient | None,
    progress: Progress,
    interruption: Interruption,
    started: float,
) -> RestoreResult:
    """Carry out a plan of any mode but `directory`; see `execute`."""
    state_dir = plan.state_dir
    journal = RestoreJournal(plan.id, plan.agent, plan.point.id, timestamp())
    # Without Docker nothing can be stopped; then only paths of the host are restored, which nothing may use.
    with owned(state_dir, plan.id):
        try:
            journal.save(state_dir)
            step("restore.journal-started")
            parts = [_prepare(plan, volume, number, journal, docker) for number, volume in enumerate(plan.volumes)]
            down_since = 0.0
            if plan.mode == "in_place":
                down_since = _stop(journal, state_dir, docker, parts)
            for part in parts:
                _write(part, plan, reader, progress)
            step("restore.staged")
            if plan.mode != "in_place":
                down_since = _stop(journal, state_dir, docker, parts)
            for number, part in enumerate(parts):
                operations = _operations(part)
                part.note.replaces = any(each.kind in ("exchange", "remove") for each in operations)
                write_operations(journal.operations_path(state_dir, number), operations)
            with interruption.deferred():
                _exchange(journal, state_dir, parts)
                previous = keep_previous(journal, state_dir)
        except BaseException as error:
            with interruption.deferred():
                _give_up(journal, state_dir, docker, error)
            raise
        with interruption.deferred():
            return _end(plan, journal, docker, parts, previous, started, down_since)


# -- before -----------------------------------------------------------------------------------------------------------


def _prepare(
    plan: RestorePlan, volume: VolumePlan, number: int, journal: RestoreJournal, docker: DockerClient | None
) -> _Part:
    """Make the volume if it is missing, and the holder in which it will be put together."""
    note = VolumeSwap(volume.name)
    journal.volumes.append(note)
    live = volume.live
    if live is None:
        assert docker is not None
        assert volume.target is not None
        note.created = volume.target.name
        journal.save(plan.state_dir)
        step("restore.before-volume")
        live = volume_directory(create_volume(docker, volume.target))
        step("restore.volume-created")
    inside = live.is_dir() and not live.is_symlink() and is_mount_point(live)
    how = "contents" if inside and volume.how == "swap" else volume.how
    place = live if inside else live.parent
    note.live = str(live)
    note.holder = str(place / holder_name(plan.id, number))
    note.previous = str(place / previous_name(plan.id, number))
    journal.save(plan.state_dir)
    step("restore.before-holder")
    try:
        if not place.is_dir():
            make_directory_durably(place, mode=0o755)
        with keeping_time(place):
            os.mkdir(note.holder, 0o700)
    except OSError as error:
        raise RestoreError(
            f"{note.holder} could not be made: {error.strerror or error}.", untouched="Nothing was changed."
        ) from error
    return _Part(volume, note, how, TreeResult())


def _write(part: _Part, plan: RestorePlan, reader: PointSource, progress: Progress) -> None:
    volume = part.plan.volume
    entries: Callable[[], Iterable[Entry]] = lambda: reader.entries(volume)  # noqa: E731
    if part.how == "paths":
        entries = lambda: select_paths(reader, volume, part.plan.paths)  # noqa: E731
    elif part.how == "in_place":
        part.difference = _compare(part, reader)
        units = frozenset((*part.difference.add, *part.difference.replace))
        entries = lambda: select_units(reader, volume, units, reader.entries(volume))  # noqa: E731
        if not units:
            return
    holder = os.open(part.holder, OPEN_DIRECTORY)
    try:
        part.result = write_and_check(
            reader, holder, STAGED, part.plan.name, entries, progress,
            devices=part.how != "paths", total=part.plan.bytes, damaged_is_fatal=True,
        )  # fmt: skip
        os.fsync(holder)
    finally:
        os.close(holder)


def _compare(part: _Part, reader: PointSource) -> Difference:
    parent = os.open(part.live.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return compare_trees(
            reader,
            lambda: reader.entries(part.plan.volume),
            parent,
            os.fsencode(part.live.name),
            content=True,
        )
    except OSError as error:
        raise RestoreError(
            f"{part.live} cannot be compared with the recovery point: {error.strerror or error}."
        ) from error
    finally:
        os.close(parent)


def _stop(journal: RestoreJournal, state_dir: Path, docker: DockerClient | None, parts: list[_Part]) -> float:
    """Stop what uses the volumes; note it first. Return since when it is stopped."""
    if docker is None:
        return 0.0
    volumes = {part.plan.name for part in parts if part.plan.volume.kind != "path"}
    held: list[HeldState] = users_of(docker, volumes, [part.live for part in parts])
    journal.containers = held
    journal.save(state_dir)
    step("restore.stop-noted")
    since = time.monotonic()
    stop(docker, held)
    step("restore.stopped")
    return since if held else 0.0


# -- the exchange -------------------------------------------------------------------------------------------------------


def _operations(part: _Part) -> list[Operation]:
    """The renames that bring what was put together to where it belongs."""
    with Swap(part.live, part.holder) as swap:
        if part.how == "swap":
            return [_exchange_or_add(swap, b"")]
        if part.how == "contents":
            return _contents_operations(swap)
        if part.how == "paths":
            return _path_operations(swap, part.plan.paths)
        assert part.difference is not None
        return _difference_operations(swap, part.difference)


def _exchange_or_add(swap: Swap, path: bytes) -> Operation:
    directory, name = swap.staged.place(path)
    inode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino
    directory, name = swap.live.place(path)
    there = lstat_or_none(name, directory) is not None
    return Operation("exchange" if there else "add", path, inode)


def _remove(swap: Swap, path: bytes) -> Operation:
    directory, name = swap.live.place(path)
    return Operation("remove", path, os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino)


def _contents_operations(swap: Swap) -> list[Operation]:
    new = set(list_names(swap.staged.get(b"")))
    old = {name for name in list_names(swap.live.get(b"")) if not is_ours(name)}
    operations = [_remove(swap, name) for name in sorted(old - new)]
    operations += [_exchange_or_add(swap, name) for name in sorted(new)]
    before, after = directory_state(swap.live.get(b"")), directory_state(swap.staged.get(b""))
    return [*operations, Operation("directory", b"", before=before, after=after)]


def _path_operations(swap: Swap, paths: Iterable[bytes]) -> list[Operation]:
    units: dict[bytes, None] = {}
    for path in paths:
        for unit in [*ancestors(path), path]:
            directory, name = swap.live.place(unit)
            if unit == path or lstat_or_none(name, directory) is None:
                units[unit] = None
                break
    operations = [_exchange_or_add(swap, unit) for unit in units]
    parents = {unit.rpartition(b"/")[0] for unit in units}
    return [*operations, *_directory_operations(swap, dict.fromkeys(parents))]


def _difference_operations(swap: Swap, difference: Difference) -> list[Operation]:
    operations = [_remove(swap, path) for path in difference.remove]
    operations += [_exchange_or_add(swap, path) for path in (*difference.replace, *difference.add)]
    return [*operations, *_directory_operations(swap, difference.directories)]


def _directory_operations(swap: Swap, directories: dict[bytes, Entry] | dict[bytes, None]) -> list[Operation]:
    """Give directories that stay their metadata, the deepest first: what the entry says, or else what it is now."""
    operations = []
    for path in sorted(directories, key=lambda path: -path.count(b"/") if path else 1):
        before = directory_state(swap.live.get(path))
        entry = directories[path]
        operations.append(
            Operation("directory", path, before=before, after=entry_state(entry) if entry is not None else before)
        )
    return operations


def _exchange(journal: RestoreJournal, state_dir: Path, parts: list[_Part]) -> None:
    """Do it, or, if the filesystem refuses in the middle, undo it all again."""
    from trinity_snap.restore.finish import apply_all, undo_all

    journal.phase = "swapping"
    journal.save(state_dir)
    step("restore.swapping")
    try:
        apply_all(journal, state_dir)
    except OSError as error:
        undo_all(journal, state_dir)
        journal.phase = "staging"
        journal.save(state_dir)
        raise RestoreError(
            f"The restored data could not be put in place: {error.strerror or error}.",
            untouched="What was moved already was moved back.",
        ) from error
    journal.phase = "starting"
    journal.save(state_dir)
    step("restore.swapped")


# -- after ------------------------------------------------------------------------------------------------------------


def _give_up(journal: RestoreJournal, state_dir: Path, docker: DockerClient | None, error: BaseException) -> None:
    """Leave the host as it was found. What cannot be undone now is left to `recover`, and the error says so."""
    if journal.phase == "swapping":
        _also(error, "Run `trinity-snap recover`: the exchange of the data was begun, and has to be ended.")
        return
    if journal.phase != "staging":
        failed = start_again(docker, journal.containers) if docker is not None else []
        _also(error, "The restored data is in place; `trinity-snap recover` does the rest.")
        if failed:
            _also(error, f"These containers did not start again: {'; '.join(failed)}.")
        return
    try:
        failed = undo_staging(journal, state_dir, docker)
    except (OSError, TrinitySnapError) as another:
        _also(error, f"Run `trinity-snap recover`: not all could be cleaned up ({another}).")
        return
    if failed:
        _also(error, f"These containers were stopped for it and did not start again: {'; '.join(failed)}.")


def _also(error: BaseException, sentence: str) -> None:
    if isinstance(error, TrinitySnapError):
        error.next_step = f"{error.next_step} {sentence}".strip()
    else:
        error.add_note(sentence)


def _end(
    plan: RestorePlan,
    journal: RestoreJournal,
    docker: DockerClient | None,
    parts: list[_Part],
    previous: list[Path],
    started: float,
    down_since: float,
) -> RestoreResult:
    failed = start_again(docker, journal.containers) if docker is not None else []
    downtime = time.monotonic() - down_since if down_since else 0.0
    if failed:
        raise LeftQuiesced(
            f"The data is restored, but containers did not start again: {'; '.join(failed)}.",
            untouched="The previous data is kept.",
            next_step="See why with `docker logs`, and start them; `trinity-snap recover` tries again.",
        )
    step("restore.started")
    journal.phase = "kept"
    if any(volume.kept for volume in journal.volumes):
        journal.save(plan.state_dir)
        journal.forget_operations(plan.state_dir)
    else:
        journal.remove(plan.state_dir)
    created = ""
    if plan.create_container and plan.point.container and docker is not None:
        create_container(docker, plan.point.container, plan.create_container)
        created = plan.create_container
    return make_result(plan, [part.result for part in parts], started, downtime, previous, created, ())
