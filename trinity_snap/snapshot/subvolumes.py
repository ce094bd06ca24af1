"""Subvolumes of btrfs: finding them, asking about them, deleting snapshots."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
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
_GET_REFERENCES, _LOOK_UP = 0xD000943D, 0xD000943E  # BTRFS_IOC_GET_SUBVOL_ROOTREF, BTRFS_IOC_INO_LOOKUP_USER
_MOST_REFERENCES = 255
_REFERENCES = struct.Struct(f"=Q{_MOST_REFERENCES * 16}sB7x")  # the least id; ids and directories; how many
_LOOKUP = struct.Struct(
    "=QQ256s3824s"
)  # directory, id; its name, and the path of the directory with a slash at its end


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
    """The subvolumes below a directory, not the directory itself, in the order of their paths. Raise SnapshotError.

    Only directories can hold one, and a btrfs directory's link count is always 1; so the filesystem is asked, and what it says
    is looked up in the tree.
    """
    if not root.is_dir():
        return ()
    found: list[Path] = []
    for place in _subvolumes_in(subvolume_of(root)):
        if root in place.parents and place.parent.name != STORE and is_subvolume(place):
            found += [place, *nested_subvolumes(place)]
    return tuple(sorted(found))


def _subvolumes_in(top: Path) -> list[Path]:
    """The subvolumes whose place is in this one, whatever their names are; not those in them (linux/btrfs.h, Linux 4.18)."""
    found = []
    try:
        descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for tree, directory in _references(descriptor):
                named = bytearray(_LOOKUP.pack(directory, tree, b"", b""))
                try:
                    fcntl.ioctl(descriptor, _LOOK_UP, named)
                except FileNotFoundError:
                    continue  # deleted meanwhile
                _, _, name, above = _LOOKUP.unpack(named)
                found.append(top / os.fsdecode(above.partition(b"\0")[0] + name.partition(b"\0")[0]))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise SnapshotError(
            f"The subvolumes of {top} could not be listed: {error.strerror or error}.",
            next_step="`btrfs subvolume list -o` and the kernel log may show why.",
        ) from error
    return found


def _references(descriptor: int) -> Iterator[tuple[int, int]]:
    """The id of each subvolume in this one, and the inode of the directory that it is in."""
    least = 0
    while True:
        answer = bytearray(_REFERENCES.size)
        _REFERENCES.pack_into(answer, 0, least, bytes(_MOST_REFERENCES * 16), 0)
        more = False
        try:
            fcntl.ioctl(descriptor, _GET_REFERENCES, answer)
        except OSError as error:
            if error.errno != errno.EOVERFLOW:
                raise
            more = True  # the answer is full, and says where to go on
        least, references, number = _REFERENCES.unpack(answer)
        for at in range(number):
            yield struct.unpack_from("=QQ", references, at * 16)
        if not more:
            return


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
