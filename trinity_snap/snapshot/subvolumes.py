"""Subvolumes of btrfs: finding them, asking about them, deleting snapshots."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from trinity_snap.errors import SnapshotError
from trinity_snap.snapshot.protocol import STORE

__all__ = [
    "NAME",
    "delete_snapshot",
    "facts_of",
    "is_subvolume",
    "nested_subvolumes",
    "require_btrfs_progs",
    "run_btrfs",
    "subvolume_of",
]

NAME = "btrfs"
_SUBVOLUME_INODE = 256  # BTRFS_FIRST_FREE_OBJECTID: the root directory of every subvolume


def require_btrfs_progs() -> None:
    """Raise SnapshotError if the `btrfs` command is missing."""
    if shutil.which("btrfs") is None:
        raise SnapshotError(
            "The provider “btrfs” needs the command `btrfs`, which is not installed.",
            untouched="No container was paused.",
            next_step="Install the package btrfs-progs, or set `snapshot: provider: precopy` in the policy.",
        )


def subvolume_of(path: Path) -> Path:
    """The root directory of the btrfs subvolume that a path, symbolic links resolved, is in."""
    place = path
    while os.stat(place).st_ino != _SUBVOLUME_INODE or not place.is_dir():
        if place.parent == place:
            raise SnapshotError(f"{path} is in no btrfs subvolume.")
        place = place.parent
    return place


def nested_subvolumes(root: Path) -> tuple[Path, ...]:
    """The subvolumes below a directory, not the directory itself, in the order of their paths.

    Only directories can hold one, and a btrfs directory's link count is always 1; so the subvolume list of
    the filesystem is asked, and what it says is looked up in the tree.
    """
    if not root.is_dir():
        return ()
    top = subvolume_of(root)
    listed = run_btrfs(["subvolume", "list", "-o", str(top)], f"The subvolumes of {top} could not be listed")
    top_path = _path_in_filesystem(top)
    found: list[Path] = []
    for line in listed.splitlines():
        full = Path("/" + line.partition(" path ")[2].removeprefix("<FS_TREE>/"))
        if top_path != full and top_path in full.parents:
            place = top / full.relative_to(top_path)
            if root in place.parents and place.parent.name != STORE and is_subvolume(place):
                found += [place, *nested_subvolumes(place)]
    return tuple(sorted(found))


def is_subvolume(path: Path) -> bool:
    """Whether there is a subvolume at `path` itself, no link to one."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return status.st_ino == _SUBVOLUME_INODE and not path.is_symlink() and path.is_dir()


def facts_of(subvolume: Path) -> dict[str, str]:
    """What `btrfs subvolume show` says: UUID, Flags and more, by their names. Raise SnapshotError."""
    shown = run_btrfs(["subvolume", "show", str(subvolume)], f"{subvolume} could not be looked at")
    lines = [line.strip().partition(":") for line in shown.splitlines()]
    return {name: value.strip() for name, colon, value in lines if colon}


def delete_snapshot(where: Path) -> None:
    """Delete one snapshot. Raise SnapshotError if it stays."""
    if not is_subvolume(where):
        raise SnapshotError(f"{where} is no btrfs subvolume, and is left alone.")
    run_btrfs(["subvolume", "delete", str(where)], f"The snapshot {where} could not be removed")


def _path_in_filesystem(subvolume: Path) -> Path:
    """A subvolume's path from the top of its filesystem, as `btrfs subvolume list` shows paths."""
    first = run_btrfs(["subvolume", "show", str(subvolume)], f"{subvolume} could not be looked at").splitlines()[0]
    return Path("/" + first.strip().strip("/"))


def run_btrfs(arguments: Sequence[str], failure: str) -> str:
    """What a `btrfs` command prints. Raise SnapshotError, beginning with the sentence `failure`."""
    done = subprocess.run(
        ["btrfs", *arguments], capture_output=True, text=True, check=False, errors="surrogateescape",
        stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C"}, start_new_session=True,
    )  # fmt: skip
    if done.returncode:
        reason = done.stderr.strip().removeprefix("ERROR: ") or f"exit code {done.returncode}"
        raise SnapshotError(
            f"{failure}: {reason}.", next_step="`btrfs filesystem usage` and the kernel log may show why."
        )
    return done.stdout
