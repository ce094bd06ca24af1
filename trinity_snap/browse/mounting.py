"""A recovery point as a read-only filesystem, through FUSE (mfusepy, the optional extra `mount`)."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from trinity_snap.browse.content import PointFile
from trinity_snap.browse.tree import VolumeTree
from trinity_snap.errors import IntegrityError, TrinitySnapError, UsageError
from trinity_snap.restore.planner import directory_name

if TYPE_CHECKING:
    from trinity_snap.repository.manifest import Entry
    from trinity_snap.repository.points import RecoveryPoint
    from trinity_snap.repository.repository import Repository

__all__ = ["PointFilesystem", "mount"]

_THREADS = 4
_KINDS = {
    "f": stat.S_IFREG,
    "h": stat.S_IFREG,
    "d": stat.S_IFDIR,
    "l": stat.S_IFLNK,
    "p": stat.S_IFIFO,
    "c": stat.S_IFCHR,
    "b": stat.S_IFBLK,
    "s": stat.S_IFSOCK,
}
_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")


def _as_errno(method: Callable[_Arguments, _Answer]) -> Callable[_Arguments, _Answer]:
    """What is damaged or out of reach is an error of input and output for who reads the file."""

    @wraps(method)
    def wrapped(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Answer:
        try:
            return method(*arguments, **named)
        except TrinitySnapError as error:
            raise OSError(errno.EIO, str(error)) from error

    return wrapped


class PointFilesystem:
    """The operations that mfusepy calls, with paths from the mount point: a directory for each volume, and its tree in it."""

    use_ns = True

    def __init__(self, repository: Repository, point: RecoveryPoint, ready: Callable[[], None]) -> None:
        self._reader = repository.reader(point)
        self._trees = {
            os.fsencode(directory_name(volume)): VolumeTree(self._reader, volume) for volume in point.volumes
        }
        self._created_ns = point.created_ns
        self._bytes, self._files = point.bytes, point.files
        self._ready = ready
        self._open: dict[int, PointFile] = {}
        self._handles = itertools.count(1)
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def init(self, path: str) -> None:
        """It is mounted. Threads begin here, in the process that serves."""
        self._pool = ThreadPoolExecutor(_THREADS)
        self._ready()

    @_as_errno
    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        """What `stat` shows."""
        if path == "/":
            return self._attributes(stat.S_IFDIR | 0o755, 0, 0, self._created_ns)
        tree, entry = self._find(path)
        first = self._first(tree, entry)
        mode = _KINDS[entry.type] | entry.mode
        found = self._attributes(mode, entry.uid, entry.gid, entry.mtime_ns, first.size)
        if entry.type in "cb":
            found["st_rdev"] = os.makedev(*entry.device)
        if entry.type == "l":
            found["st_size"] = len(entry.target)
        return found

    @_as_errno
    def readdir(self, path: str, fh: int) -> Iterator[str | tuple[str, int, int]]:
        """The names in a directory, with their types."""
        names: list[str | tuple[str, int, int]] = [".", ".."]
        if path == "/":
            return iter([*names, *((os.fsdecode(name), stat.S_IFDIR, 0) for name in sorted(self._trees))])
        volume, inner = self._split(path)
        names += [(os.fsdecode(name), _KINDS[entry.type], 0) for name, entry in self._trees[volume].children(inner)]
        return iter(names)

    @_as_errno
    def readlink(self, path: str) -> str:
        """Where a symbolic link goes."""
        return os.fsdecode(self._find(path)[1].target)

    @_as_errno
    def open(self, path: str, flags: int) -> int:
        """A handle of a regular file."""
        tree, entry = self._find(path)
        if entry.type not in "fh":
            raise OSError(errno.EINVAL, "no regular file")
        assert self._pool is not None
        file = PointFile(self._reader, self._first(tree, entry), self._pool)
        with self._lock:
            handle = next(self._handles)
            self._open[handle] = file
        return handle

    @_as_errno
    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """Some of an open file."""
        return self._open[fh].read(offset, size)

    def release(self, path: str, fh: int) -> int:
        """The handle is no longer used."""
        with self._lock:
            self._open.pop(fh, None)
        return 0

    @_as_errno
    def listxattr(self, path: str) -> list[str]:
        """The names of extended attributes."""
        return [] if path == "/" else [os.fsdecode(name) for name in self._find(path)[1].xattrs]

    @_as_errno
    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        """One of them."""
        value = None if path == "/" else self._find(path)[1].xattrs.get(os.fsencode(name))
        if value is None:
            raise OSError(errno.ENODATA, "no such attribute")
        return value

    def statfs(self, path: str) -> dict[str, int]:
        """It is full, as nothing can be added."""
        return {
            "f_bsize": 4096,
            "f_frsize": 4096,
            "f_blocks": -(-self._bytes // 4096),
            "f_files": self._files,
            "f_namemax": 255,
        }

    def _split(self, path: str) -> tuple[bytes, bytes]:
        volume, _, inner = os.fsencode(path)[1:].partition(b"/")
        if volume not in self._trees:
            raise OSError(errno.ENOENT, "no such volume")
        return volume, inner

    def _find(self, path: str) -> tuple[VolumeTree, Entry]:
        volume, inner = self._split(path)
        tree = self._trees[volume]
        entry = tree.entry(inner)
        if entry is None:
            raise OSError(errno.ENOENT, "no such entry")
        return tree, entry

    @staticmethod
    def _first(tree: VolumeTree, entry: Entry) -> Entry:
        """The entry that has the content: of a further name of a file, that of its first."""
        if entry.type != "h":
            return entry
        first = tree.entry(entry.target)
        if first is None or first.type != "f":
            raise IntegrityError(f"The hard link {entry.path!r} leads to no file.")
        return first

    def _attributes(self, mode: int, uid: int, gid: int, time_ns: int, size: int = 0) -> dict[str, int]:
        return {
            "st_mode": mode, "st_nlink": 1, "st_uid": uid, "st_gid": gid, "st_size": size, "st_blksize": 1 << 20,
            "st_blocks": -(-size // 512), "st_atime": time_ns, "st_mtime": time_ns, "st_ctime": time_ns,
        }  # fmt: skip


def mount(
    repository: Repository, point: RecoveryPoint, directory: Path, ready: Callable[[], None], *, everybody: bool = False
) -> None:
    """Mount a point at an empty directory, and serve it until it is unmounted, or this process is interrupted.

    `ready` is called once it is there. `everybody` may look, not only this user. Raise UsageError if it cannot be mounted
    there, or if FUSE is missing.
    """
    try:
        import mfusepy
    except (ImportError, OSError) as error:
        raise UsageError(
            "Mounting needs FUSE, and mfusepy, which drives it.",
            next_step="Install trinity-snap[mount], and the system's package `fuse3`.",
        ) from error
    if not directory.is_dir() or any(directory.iterdir()):
        raise UsageError(f"{directory} is no empty directory.", untouched="Nothing was mounted.")
    filesystem = PointFilesystem(repository, point, ready)
    options: dict[str, object] = {"allow_other": True} if everybody else {}
    try:
        mfusepy.FUSE(
            filesystem, os.fspath(directory), foreground=True, fsname=f"trinity-snap:{point.id[:8]}", subtype="trinity-snap",
            ro=True, nosuid=True, nodev=True, default_permissions=True, kernel_cache=True, attr_timeout=3600,
            entry_timeout=3600, max_read=1 << 20, **options,
        )  # fmt: skip
    except RuntimeError as error:
        raise UsageError(
            f"The system did not let it be mounted at {directory}.",
            next_step="See whether there is /dev/fuse, and fusermount3.",
        ) from error
