"""Thin snapshots that are kept: `trinity-snap-keep-<run id>-t<number>`, tagged `trinity-snap`, inactive until they are read.

The functions are the `trinity_snap.snapshot.protocol.Keeper` of `lvm-thin`. Thick snapshots are not kept: each makes every write
to its volume slower, and overflows one day.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trinity_snap.errors import SnapshotError
from trinity_snap.snapshot import logicalvolumes
from trinity_snap.snapshot.logicalvolumes import PREFIX, LogicalVolume
from trinity_snap.snapshot.mounting import STORE, mount_snapshot, remove_mounts
from trinity_snap.snapshot.protocol import Kept

__all__ = [
    "FILESYSTEMS",
    "SHARES_DATA",
    "close_all",
    "find",
    "is_there",
    "lasting_name",
    "open",
    "remove",
    "remove_found",
    "settle",
]

SHARES_DATA = False
_EXT = "errors=continue"  # a snapshot that overflows makes errors, and the filesystem may be set to panic on them
FILESYSTEMS = {"ext2": _EXT, "ext3": _EXT, "ext4": _EXT, "xfs": "nouuid"}
"""The filesystems that LVM's freeze brings to a consistent state, and the options for mounting a second copy of one."""
_MOUNTS = Path("/run/trinity-snap") / STORE
_LASTING = re.compile(re.escape(PREFIX) + r"keep-(?P<run>.+)-t\d+")


def lasting_name(name: str) -> str:
    """What a run's snapshot is called if it is kept."""
    return f"{PREFIX}keep-{name.removeprefix(PREFIX)}"


def settle(kept: Kept) -> None:
    """Rename the run's snapshot, unless that is done. Raise SnapshotError."""
    made, where = Path(kept.made), Path(kept.where)
    found = {volume.name: volume for volume in _find_all(made, where)}
    if where.name not in found and made.name in found and found[made.name].uuid == kept.identity:
        volume = found[made.name]
        if volume.number[0] >= 0:  # it has a device
            logicalvolumes.deactivate(volume.full_name)
        logicalvolumes.rename(volume.group, volume.name, where.name)


def is_there(kept: Kept) -> bool:
    """Whether the volume that was noted is there under its lasting name."""
    return any(volume.uuid == kept.identity for volume in _find_all(Path(kept.where)))


def remove(kept: Kept) -> None:
    """Remove the volume that was noted; what is not that one is left alone. Raise SnapshotError."""
    for volume in _find_all(Path(kept.where), Path(kept.made)):
        if volume.uuid == kept.identity:
            _unmount(volume.name)
            logicalvolumes.remove_snapshot(volume.path)


@contextmanager
def open(kept: Kept) -> Iterator[Path]:
    """Activate it and mount it read-only; both are undone in the end. Raise SnapshotError."""
    if not is_there(kept):
        raise SnapshotError(f"The local snapshot {kept.where} is not there any more, or is another one.")
    where = Path(kept.where)
    full_name = f"{where.parent.name}/{where.name}"
    place = _MOUNTS / where.name / "1"
    try:
        # The directory says that it may be active: `close_all` goes by that.
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        logicalvolumes.activate(full_name)
        (volume,) = logicalvolumes.read_volumes(full_name)
        mount_snapshot(volume.device, place, kept.filesystem, FILESYSTEMS[kept.filesystem])
        yield place
    finally:
        _unmount(where.name)
        logicalvolumes.deactivate(full_name)


def close_all() -> None:
    """Unmount and deactivate what a dead process had open. Raise SnapshotError."""
    names = {place.name for place in _MOUNTS.glob(f"{PREFIX}*")}
    for name in names:
        remove_mounts(_MOUNTS / name)
    for volume in _kept() if names else ():
        if volume.name in names and volume.number[0] >= 0:  # it has a device
            logicalvolumes.deactivate(volume.full_name)


def find() -> Sequence[tuple[str, str]]:
    """Every volume of ours with the name of a kept one: (run id, path of the device)."""
    found = []
    for volume in _kept():
        match = _LASTING.fullmatch(volume.name)
        if match is not None:
            found.append((match["run"], str(volume.path)))
    return found


def remove_found(where: str) -> None:
    """Remove a volume that nothing has a note of, if it has the name and the tag of a kept one. Raise SnapshotError."""
    if _LASTING.fullmatch(Path(where).name) is None:
        raise SnapshotError(f"{where} is no snapshot that this program kept, and is left alone.")
    logicalvolumes.remove_snapshot(Path(where))


def _kept() -> list[LogicalVolume]:
    if not logicalvolumes.lvm_is_in_use() or logicalvolumes.missing_tools():
        return []
    volumes = logicalvolumes.read_volumes()
    return [volume for volume in volumes if volume.is_ours and _LASTING.fullmatch(volume.name)]


def _find_all(*paths: Path) -> list[LogicalVolume]:
    """The volumes of ours that these device paths stand for."""
    if not logicalvolumes.lvm_is_in_use() or logicalvolumes.missing_tools():
        return []
    # Asked for by name, one that is not there would make an error of the answer.
    return [volume for volume in logicalvolumes.read_volumes() if volume.is_ours and volume.path in paths]


def _unmount(name: str) -> None:
    place = _MOUNTS / name
    if place.exists():
        remove_mounts(place)
