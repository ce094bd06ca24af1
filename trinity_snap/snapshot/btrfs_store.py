"""Where btrfs snapshots lie, and what their names say.

While a run needs it, a snapshot is called `.trinity-snap/<run id>-<number>`; one that is kept is called
`.trinity-snap/keep-<run id>-<number>`. It gets that name by one rename. The functions for kept snapshots are the
`trinity_snap.snapshot.protocol.Keeper` of btrfs.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trinity_snap.durable import fsync_directory
from trinity_snap.errors import SnapshotError
from trinity_snap.snapshot.mounts import find_mount, read_mounts, real_path
from trinity_snap.snapshot.protocol import STORE, Kept
from trinity_snap.snapshot.subvolumes import NAME, delete_snapshot, facts_of, is_subvolume, subvolume_of
from trinity_snap.snapshot.syncfs import syncfs

__all__ = [
    "SHARES_DATA",
    "close_all",
    "find",
    "identity_of",
    "is_there",
    "lasting_path",
    "open",
    "remove",
    "remove_found",
    "remove_leftover",
    "remove_stray",
    "settle",
    "snapshots_by_name",
]

SHARES_DATA = True
_LASTING = re.compile(r"keep-(?P<run>.+)-\d+")
_PASSING = re.compile(r"[0-9a-f]{32}-[0-9]+")


def snapshots_by_name(places: Iterable[Path] = ()) -> tuple[Path, ...]:
    """Every snapshot of ours, of whatever run, on mounted btrfs filesystems and in the subvolumes of `places`."""
    tops = {mount.path for mount in read_mounts() if mount.filesystem == NAME}
    for place in places:
        if place.exists() and find_mount(place).filesystem == NAME:
            tops.add(subvolume_of(real_path(place)))
    found: set[Path] = set()
    for top in tops:
        try:
            found.update(entry for entry in (top / STORE).iterdir() if is_subvolume(entry))
        except OSError:
            continue
    return tuple(sorted(found))


def remove_leftover(where: Path) -> None:
    """Delete the snapshot at `where`, and the directory it lies in if that is empty then; no error if it is not there.

    It stays deleted when the power fails after that, as nothing may have a note of it any more. Raise SnapshotError if it
    stays, or if `where` is not a place where this provider puts snapshots.
    """
    if where.parent.name != STORE:
        raise SnapshotError(f"{where} is no snapshot of this program's, and is left alone.")
    was_there = os.path.lexists(where)
    if was_there:
        delete_snapshot(where)
    try:
        where.parent.rmdir()
    except OSError:
        pass  # other snapshots are in it, or it is gone
    if was_there:
        syncfs([where.parent.parent])


def remove_stray(where: Path) -> None:
    """Delete a snapshot that no journal notes, if all of it is as a run makes it. Raise SnapshotError, OSError."""
    store = os.lstat(where.parent)
    facts = facts_of(where)
    is_ours = _PASSING.fullmatch(where.name) and facts.get("Flags") == "readonly" and facts.get("Parent UUID") != "-"
    if not is_ours or store.st_uid != 0 or stat.S_IMODE(store.st_mode) != 0o700:
        raise SnapshotError(f"{where} is not as a run of this program makes its snapshots, and is left alone.")
    remove_leftover(where)


# -- kept snapshots ---------------------------------------------------------------------------------------------------


def lasting_path(made: Path) -> Path:
    """Where a run's snapshot goes if it is kept."""
    return made.with_name(f"keep-{made.name}")


def identity_of(snapshot: Path) -> str:
    """What no other subvolume has: its UUID. Raise SnapshotError."""
    return facts_of(snapshot).get("UUID", "")


def settle(kept: Kept) -> None:
    """Rename the run's snapshot, unless that is done. Raise SnapshotError."""
    made, where = Path(kept.made), Path(kept.where)
    if not is_subvolume(made) or os.path.lexists(where):
        return
    try:
        os.rename(made, where)
        fsync_directory(where.parent)
    except OSError as error:
        raise SnapshotError(f"The snapshot {made} could not be renamed to be kept: {error.strerror}.") from error


def is_there(kept: Kept) -> bool:
    """Whether the snapshot is there, is the one that was noted, and was read-only ever since."""
    return _is(kept, Path(kept.where))


def remove(kept: Kept) -> None:
    """Delete the snapshot that was noted; what is not that one is left alone. Raise SnapshotError."""
    for where in (Path(kept.where), Path(kept.made)):
        if _is(kept, where):
            remove_leftover(where)


@contextmanager
def open(kept: Kept) -> Iterator[Path]:
    """The snapshot itself, which is always mounted. Raise SnapshotError if it is not there."""
    if not is_there(kept):
        raise SnapshotError(f"The local snapshot {kept.where} is not there any more, or is another one.")
    yield Path(kept.where)


def close_all() -> None:
    """Nothing: nothing has to be mounted."""


def find() -> Sequence[tuple[str, str]]:
    """Snapshots with the name of kept ones on all mounted filesystems: (run id, path)."""
    found = []
    for path in snapshots_by_name():
        match = _LASTING.fullmatch(path.name)
        if match is not None:
            found.append((match["run"], str(path)))
    return found


def remove_found(where: str) -> None:
    """Delete a snapshot that nothing has a note of, if its name is that of a kept one. Raise SnapshotError."""
    path = Path(where)
    if _LASTING.fullmatch(path.name) is None or facts_of(path).get("Flags") != "readonly":
        raise SnapshotError(f"{where} is no snapshot that this program kept, and is left alone.")
    remove_leftover(path)


def _is(kept: Kept, where: Path) -> bool:
    if not is_subvolume(where):
        return False
    try:
        facts = facts_of(where)
    except SnapshotError:
        return False
    return facts.get("UUID") == kept.identity and facts.get("Flags") == "readonly"
