"""The scratch place of a drill: noted before it is made, removed in any case, found again after a crash.

A note in the state directory says where it is, and is locked for as long as the drill is alive. So what a dead drill left
is found even if the policy names another directory by now, and nothing is removed that no drill of ours noted.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from trinity_snap.durable import fsync_directory, make_directory_durably, write_all
from trinity_snap.errors import RestoreError, RestoreRefused
from trinity_snap.quiesce.steps import step
from trinity_snap.restore.directories import OPEN_DIRECTORY, remove_tree, shown
from trinity_snap.restore.system import mounts_below

__all__ = ["Scratch", "Swept", "kept_name", "scratch", "sweep"]

_PREFIX = ".trinity-snap-drill-"
_NOTE = re.compile(r"([0-9a-f]{16})\.scratch")
_NOTE_BYTES = 8192


@dataclass(frozen=True)
class Scratch:
    """A directory of one drill. What is restored goes to `data`; `work` is for copies and output."""

    directory: Path

    @property
    def data(self) -> Path:
        """Where the recovery point is restored to."""
        return self.directory / "data"

    @property
    def work(self) -> Path:
        """For everything else."""
        return self.directory / "work"


@dataclass
class Swept:
    """What dead drills had left: removed paths, and sentences on what could not be removed."""

    removed: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def kept_name(drill_id: str) -> str:
    """What restored data is called that is kept after its drill."""
    return f"kept-{drill_id}"


def _notes(state_dir: Path) -> Path:
    return state_dir / "drills"


@contextmanager
def scratch(state_dir: Path, directory: Path, drill_id: str, *, keep: bool) -> Iterator[Scratch]:
    """Make a scratch place in `directory`, and remove it at the end, however that comes. With `keep` its data stays.

    Raise RestoreRefused if there is no place for it, RestoreError if it cannot be removed.
    """
    place = Scratch(directory / f"{_PREFIX}{drill_id}")
    try:
        make_directory_durably(_notes(state_dir))
        note, descriptor = _write_note(state_dir, drill_id, place.directory)
    except OSError as error:
        raise RestoreRefused(
            f"The state directory {state_dir} cannot be used: {error.strerror or error}.",
            untouched="Nothing was restored.",
            next_step="Run as root, and see that `state: directory:` in the policy names a directory.",
        ) from error
    try:
        step("drill.noted")
        try:
            make_directory_durably(directory)
            os.mkdir(place.directory, 0o700)
            os.mkdir(place.work, 0o700)
        except OSError as error:
            raise RestoreRefused(
                f"{directory} cannot be used for drills: {error.strerror or error}.",
                untouched="Nothing was restored.",
                next_step="Name another with `drill: directory:` in the policy.",
            ) from error
        step("drill.scratch-made")
        yield place
        if keep and place.data.is_dir():
            os.rename(place.data, directory / kept_name(drill_id))
    finally:
        step("drill.removing")
        try:
            _remove(place.directory)
        except OSError as error:
            raise RestoreError(
                f"The scratch place {place.directory} of a drill cannot be removed: {error.strerror or error}.",
                untouched="No agent and no recovery point was touched.",
                next_step="See what is mounted there or uses it; the next drill or `trinity-snap recover` tries again.",
            ) from error
        else:
            step("drill.removed")
            note.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _write_note(state_dir: Path, drill_id: str, place: Path) -> tuple[Path, int]:
    """A note that is durable and locked before anything is made. Who sweeps may take one that is not locked yet: again."""
    note = _notes(state_dir) / f"{drill_id}.scratch"
    while True:
        descriptor = os.open(note, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(note, follow_symlinks=False)):
                    write_all(descriptor, os.fsencode(place))
                    os.fsync(descriptor)
                    fsync_directory(note.parent)
                    return note, descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _remove(directory: Path) -> bool:
    """Remove a scratch place by name; links are not followed, and a mount point inside is refused. Raise OSError."""
    if mounted := mounts_below(os.fsencode(directory)):  # a bind mount of the same filesystem looks like a directory
        raise OSError(errno.EBUSY, f"{shown(mounted[0])} is mounted there")
    try:
        holder = os.open(directory.parent, OPEN_DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        return remove_tree(holder, os.fsencode(directory.name))
    finally:
        os.close(holder)


def sweep(state_dir: Path) -> Swept:
    """Remove what drills left that are dead. Those that are alive are left alone."""
    swept = Swept()
    try:
        names = sorted(os.listdir(_notes(state_dir)))
    except OSError:
        return swept
    for name in names:
        match = _NOTE.fullmatch(name)
        if match is not None:
            try:
                _sweep_one(_notes(state_dir) / name, match[1], swept)
            except OSError as error:
                swept.problems.append(
                    f"What the drill {match[1]} left, as {_notes(state_dir) / name} says, cannot be removed: "
                    f"{error.strerror or error}."
                )
    return swept


def _sweep_one(note: Path, drill_id: str, swept: Swept) -> None:
    try:
        descriptor = os.open(note, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        place = Path(os.fsdecode(os.pread(descriptor, _NOTE_BYTES, 0)))
        if place.is_absolute() and place.name == f"{_PREFIX}{drill_id}" and _remove(place):
            swept.removed.append(place)
        note.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
