"""System calls that Python does not offer: exchanging two names, and syncing one filesystem."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

__all__ = ["begin_writeback", "exchange", "is_mount_point", "rename_new", "sync_filesystem"]

_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_SYNC_FILE_RANGE_WRITE = 2
_UNSUPPORTED = frozenset((errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP))
_libc = ctypes.CDLL(None, use_errno=True)


def _renameat2(source_directory: int, source: bytes, directory: int, name: bytes, flags: int) -> None:
    call = getattr(_libc, "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if call(source_directory, source, directory, name, ctypes.c_uint(flags)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fsdecode(source), None, os.fsdecode(name))


def exchange(source_directory: int, source: bytes, directory: int, name: bytes) -> bool:
    """Exchange two names at one instant (renameat2(2), RENAME_EXCHANGE).

    Return False if the kernel or the filesystem cannot; then nothing changed. Raise OSError for everything else.
    """
    try:
        _renameat2(source_directory, source, directory, name, _RENAME_EXCHANGE)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return False
        raise
    return True


def rename_new(source_directory: int, source: bytes, directory: int, name: bytes) -> None:
    """Rename to a name that must not exist yet. Raise FileExistsError if it does, OSError for everything else."""
    try:
        _renameat2(source_directory, source, directory, name, _RENAME_NOREPLACE)
        return
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(source, name, src_dir_fd=source_directory, dst_dir_fd=directory)
        return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fsdecode(name))


def begin_writeback(descriptor: int) -> None:
    """Have the kernel begin to write a file's dirty pages to disk (sync_file_range(2)), and wait for nothing.

    A filesystem that cannot is none the worse: `sync_filesystem` writes everything in the end.
    """
    _libc.sync_file_range(descriptor, ctypes.c_int64(0), ctypes.c_int64(0), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE))


def sync_filesystem(descriptor: int) -> None:
    """Write everything of the filesystem on which `descriptor` is to its disk (syncfs(2)). Raise OSError."""
    if _libc.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def is_mount_point(path: Path) -> bool:
    """Whether `path` is a mount point or the top of a btrfs subvolume, and so cannot be renamed with what is beside it."""
    if os.lstat(path).st_dev != os.lstat(path.parent).st_dev:
        return True
    wanted = os.fsencode(os.path.realpath(path))
    with open("/proc/self/mountinfo", "rb") as mounts:
        for line in mounts:
            mounted = line.split(b" ", 5)[4]
            if b"\\" in mounted:
                mounted = mounted.decode("unicode_escape").encode("latin-1")
            if mounted == wanted:
                return True
    return False
