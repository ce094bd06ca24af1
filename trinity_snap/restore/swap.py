"""Replacing what is live: put together beside it, stop, exchange, start, and keep what was there or let go of it.

What is put together, and from what, is the caller's business: a restore takes it from a recovery point, a rollback from a
local snapshot.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from trinity_snap.durable import make_directory_durably
from trinity_snap.errors import LeftQuiesced, RestoreError, TrinitySnapError
from trinity_snap.quiesce.steps import step
from trinity_snap.repository.manifest import Entry
from trinity_snap.restore.containers import start_again, stop, users_of
from trinity_snap.restore.difference import Difference
from trinity_snap.restore.directories import keeping_time, list_names, lstat_or_none
from trinity_snap.restore.finish import close_journal, keep_previous, undo_staging
from trinity_snap.restore.journal import HeldState, RestoreJournal, VolumeSwap, owned, timestamp
from trinity_snap.restore.names import holder_name, is_ours, previous_name
from trinity_snap.restore.operations import Operation, Swap, directory_state, entry_state, write_operations
from trinity_snap.restore.plan import How, Mode
from trinity_snap.restore.selection import ancestors
from trinity_snap.restore.signals import Interruption
from trinity_snap.restore.system import identity, is_mount_point, is_snapshot_store
from trinity_snap.restore.volumes import VolumeTarget, create_volume, volume_directory

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["Part", "SwapPlan", "SwapVolume", "Swapped", "swap_in"]


class SwapVolume(Protocol):
    """A volume or path that is replaced; see `trinity_snap.restore.plan.VolumePlan`."""

    @property
    def name(self) -> str:
        """The volume's name, or the path."""

    @property
    def kind(self) -> str:
        """`volume` or `path`."""

    @property
    def how(self) -> How:
        """Whole, entry by entry, only what differs, or only some paths."""

    @property
    def live(self) -> Path | None:
        """Where its data lies, None for a volume that is yet to be made."""

    @property
    def target(self) -> VolumeTarget | None:
        """What a missing volume is made with."""

    @property
    def paths(self) -> tuple[bytes, ...]:
        """The paths, if only some are replaced."""


class SwapPlan(Protocol):
    """What is replaced, and how; see `trinity_snap.restore.plan.RestorePlan`."""

    @property
    def id(self) -> str:
        """16 hexadecimal digits, never used before."""

    @property
    def agent(self) -> str:
        """Whose data."""

    @property
    def origin(self) -> str:
        """The id of what the new data is from."""

    @property
    def mode(self) -> Mode:
        """`in_place` stops first and puts together then; all others stop as late as they can."""

    @property
    def state_dir(self) -> Path:
        """Where the journal goes."""

    @property
    def discards(self) -> bool:
        """Whether the previous data is removed at the end, and not kept."""

    @property
    def volumes(self) -> Sequence[SwapVolume]:
        """What is replaced."""


@dataclass
class Part:
    """One volume on its way. Who writes in place leaves in `difference` what differs."""

    plan: SwapVolume
    note: VolumeSwap
    how: How
    difference: Difference | None = None

    @property
    def live(self) -> Path:
        """Where the data lies."""
        return Path(self.note.live)

    @property
    def holder(self) -> Path:
        """The empty directory in which the new data is put together, under the name `names.STAGED`."""
        return Path(self.note.holder)


@dataclass(frozen=True)
class Swapped:
    """What came of it: where the previous data is kept, for how long containers were stopped, and what did not work."""

    previous: tuple[Path, ...]
    downtime_seconds: float
    notes: tuple[str, ...] = ()


def swap_in(
    plan: SwapPlan,
    docker: DockerClient | None,
    interruption: Interruption,
    write: Callable[[Part], None],
    stopped: Callable[[], None] | None = None,
) -> Swapped:
    """Replace the data of all volumes of a plan.

    `write` puts the new data of one together in its holder, and returns when it is complete and on disk. `stopped` is
    called when the containers are, before anything live is changed; if it raises, nothing is.
    """
    state_dir = plan.state_dir
    journal = RestoreJournal(plan.id, plan.agent, plan.origin, timestamp(), discard=plan.discards)
    # Without Docker nothing can be stopped; then only paths of the host are replaced, which nothing may use.
    with owned(state_dir, plan.id):
        try:
            journal.save(state_dir)
            step("restore.journal-started")
            parts = [_prepare(plan, volume, number, journal, docker) for number, volume in enumerate(plan.volumes)]
            down_since = 0.0
            if plan.mode == "in_place":
                down_since = _stop(journal, state_dir, docker, parts, stopped)
            for part in parts:
                write(part)
            step("restore.staged")
            if plan.mode != "in_place":
                down_since = _stop(journal, state_dir, docker, parts, stopped)
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
            return _end(journal, state_dir, docker, previous, down_since)


# -- before -----------------------------------------------------------------------------------------------------------


def _prepare(
    plan: SwapPlan, volume: SwapVolume, number: int, journal: RestoreJournal, docker: DockerClient | None
) -> Part:
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
    how: How = "contents" if inside and volume.how == "swap" else volume.how
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
    return Part(volume, note, how)


def _stop(
    journal: RestoreJournal,
    state_dir: Path,
    docker: DockerClient | None,
    parts: list[Part],
    stopped: Callable[[], None] | None,
) -> float:
    """Stop what uses the volumes; note it first. Return since when it is stopped."""
    since = 0.0 if docker is None else _stop_users(journal, state_dir, docker, parts)
    if stopped is not None:
        stopped()
    return since


def _stop_users(journal: RestoreJournal, state_dir: Path, docker: DockerClient, parts: list[Part]) -> float:
    volumes = {part.plan.name for part in parts if part.plan.kind != "path"}
    held: list[HeldState] = users_of(docker, volumes, [part.live for part in parts])
    journal.containers = held
    journal.save(state_dir)
    step("restore.stop-noted")
    since = time.monotonic()
    stop(docker, held)
    step("restore.stopped")
    return since if held else 0.0


# -- the exchange -------------------------------------------------------------------------------------------------------


def _operations(part: Part) -> list[Operation]:
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
    inode, after = identity(name, directory) or 0, _time_of_directory(name, directory)
    directory, name = swap.live.place(path)
    if lstat_or_none(name, directory) is None:
        return Operation("add", path, inode)
    return Operation("exchange", path, inode, _time_of_directory(name, directory), after)


def _time_of_directory(name: bytes, directory: int) -> dict[str, int] | None:
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    return {"mtime_ns": found.st_mtime_ns} if stat.S_ISDIR(found.st_mode) else None


def _remove(swap: Swap, path: bytes) -> Operation:
    directory, name = swap.live.place(path)
    return Operation("remove", path, identity(name, directory) or 0)


def _contents_operations(swap: Swap) -> list[Operation]:
    live = swap.live.get(b"")
    ours = {name for name in list_names(live) if is_ours(name) or is_snapshot_store(name, live)}
    new = set(list_names(swap.staged.get(b""))) - ours
    old = set(list_names(live)) - ours
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


def _exchange(journal: RestoreJournal, state_dir: Path, parts: list[Part]) -> None:
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
            f"The data could not be put in place: {error.strerror or error}.",
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
        _also(error, "The new data is in place; `trinity-snap recover` does the rest.")
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
    journal: RestoreJournal, state_dir: Path, docker: DockerClient | None, previous: list[Path], down_since: float
) -> Swapped:
    failed = start_again(docker, journal.containers) if docker is not None else []
    downtime = time.monotonic() - down_since if down_since else 0.0
    if failed:
        raise LeftQuiesced(
            f"The data is in place, but containers did not start again: {'; '.join(failed)}.",
            untouched="The previous data is kept.",
            next_step="See why with `docker logs`, and start them; `trinity-snap recover` tries again.",
        )
    step("restore.started")
    try:
        close_journal(journal, state_dir)
    except OSError as error:
        note = (
            f"The previous data could not be removed ({error.strerror or error}); `trinity-snap recover` tries again."
        )
        return Swapped((), downtime, (note,))
    return Swapped(tuple(previous), downtime)
