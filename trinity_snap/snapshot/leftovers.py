"""Which provider undoes what a dead run left: one entry for each, looked up by the name that the journal has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trinity_snap.errors import SnapshotError
from trinity_snap.quiesce.journal import Leftover
from trinity_snap.snapshot import btrfs, logicalvolumes, lvm, precopy, zfs
from trinity_snap.snapshot.protocol import remove_tree

__all__ = ["Sweeper", "remove_leftover", "remove_stray", "strays"]


@dataclass(frozen=True)
class Sweeper:
    """What a provider knows about its leftovers.

    `remove(leftover, run id)` says whether there was anything, and raises SnapshotError or OSError if it stays. `find` gives
    everything with our names, of whatever run. `remove_stray` removes one of those that no journal notes, and raises
    SnapshotError if it stays, or if anything about it is not as a run of ours makes it.
    """

    remove: Callable[[Leftover, str], bool]
    find: Callable[[], tuple[Path, ...]] = tuple
    remove_stray: Callable[[Path], None] | None = None


def remove_leftover(leftover: Leftover, run_id: str) -> bool:
    """Remove one thing that a dead run noted in its journal; whether it was there. Raise SnapshotError, OSError."""
    sweeper = _SWEEPERS.get(leftover.provider)
    if sweeper is None:
        raise SnapshotError(f"{leftover.where} was made by a provider that this version does not know.")
    return sweeper.remove(leftover, run_id)


def strays() -> tuple[Path, ...]:
    """Every snapshot on this host that has our name, of whatever run and provider. Raise SnapshotError."""
    return tuple(path for sweeper in _SWEEPERS.values() for path in sweeper.find())


def remove_stray(path: Path) -> None:
    """Remove one of `strays`. The caller knows that no run is alive that could have made it. Raise SnapshotError, OSError."""
    for sweeper in _SWEEPERS.values():
        if sweeper.remove_stray is not None and path in sweeper.find():
            sweeper.remove_stray(path)
            return
    raise SnapshotError(f"{path} is not there any more.")


def _remove_btrfs(leftover: Leftover, run_id: str) -> bool:
    _require_named(leftover, run_id)
    existed = leftover.where.exists()
    btrfs.remove_leftover(leftover.where)
    return existed


def _remove_staging(leftover: Leftover, run_id: str) -> bool:
    _require_named(leftover, run_id)
    existed = leftover.where.exists()
    if existed:
        remove_tree(leftover.where, run_id)
    return existed


def _require_named(leftover: Leftover, run_id: str) -> None:
    if not leftover.where.name.startswith(run_id):
        raise SnapshotError(f"{leftover.where} is not named after run {run_id}, and is left alone.")


_SWEEPERS = {
    btrfs.NAME: Sweeper(_remove_btrfs, btrfs.snapshots_by_name, btrfs.remove_stray),
    precopy.NAME: Sweeper(_remove_staging),
    lvm.THICK: Sweeper(lvm.remove_leftover, logicalvolumes.our_snapshots, lvm.remove_stray),
    lvm.THIN: Sweeper(lvm.remove_leftover),
    zfs.NAME: Sweeper(zfs.remove_leftover, zfs.our_snapshots, zfs.remove_stray),
}
