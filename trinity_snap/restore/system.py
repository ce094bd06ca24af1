"""System calls that Python does not offer: exchanging two names, syncing one filesystem, subvolumes of btrfs."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "begin_writeback",
    "destroy_subvolume",
    "exchange",
    "identity",
    "is_mount_point",
    "is_mounted",
    "is_snapshot_store",
    "mounts_below",
    "rename_new",
    "snapshot_subvolume",
    "sync_filesystem",
]

_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_SYNC_FILE_RANGE_WRITE = 2
_UNSUPPORTED = frozenset((errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP))
_SUBVOLUME_INODE = 256  # of the root of every btrfs subvolume
_INO_LOOKUP = 0xD0009412  # linux/btrfs.h: _IOWR(0x94, 18, 4096 bytes)
_SNAP_DESTROY = 0x5000940F  # linux/btrfs.h: _IOW(0x94, 15, 4096 bytes)
_SNAP_CREATE_V2 = 0x50009417  # linux/btrfs.h: _IOW(0x94, 23, 4096 bytes)
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


def identity(name: bytes, directory: int) -> int | None:
    """What tells the entry called `name` from every other of its filesystem, also after a reboot; None if there is none.

    That is the inode; but the roots of all btrfs subvolumes have the same one, so for these it is the subvolume's id, negative.
    """
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if found.st_ino != _SUBVOLUME_INODE or not stat.S_ISDIR(found.st_mode):
        return found.st_ino
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        arguments = bytearray(struct.pack("=QQ4080x", 0, _SUBVOLUME_INODE))
        fcntl.ioctl(descriptor, _INO_LOOKUP, arguments)
        return -int(struct.unpack_from("=Q", arguments)[0])
    except OSError as error:
        if error.errno == errno.ENOTTY:  # no btrfs: an inode like any other
            return found.st_ino
        raise
    finally:
        os.close(descriptor)


def destroy_subvolume(name: bytes, directory: int) -> None:
    """Remove a btrfs subvolume with all that is in it. Raise OSError: ENOTEMPTY if others are nested in it."""
    fcntl.ioctl(directory, _SNAP_DESTROY, bytearray(struct.pack("=q4088s", 0, name)))


def snapshot_subvolume(source: int, name: bytes, directory: int) -> None:
    """Make a writable snapshot, called `name`, of the subvolume whose root `source` is. Raise OSError; EXDEV elsewhere."""
    fcntl.ioctl(directory, _SNAP_CREATE_V2, bytearray(struct.pack("=qQQ32x4040s", source, 0, 0, name)))


def is_snapshot_store(name: bytes, directory: int) -> bool:
    """Whether `name` is the directory of snapshots at the top of a btrfs filesystem (`trinity_snap.snapshot.btrfs_store`)."""
    if name != b".trinity-snap" or os.fstat(directory).st_ino != _SUBVOLUME_INODE:
        return False
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == 0 and stat.S_IMODE(found.st_mode) == 0o700


def is_mount_point(path: Path) -> bool:
    """Whether `path` is a mount point or the top of a btrfs subvolume, and so cannot be renamed with what is beside it."""
    if os.lstat(path).st_dev != os.lstat(path.parent).st_dev:
        return True
    return is_mounted(os.fsencode(os.path.realpath(path)))


def is_mounted(wanted: bytes) -> bool:
    """Whether a filesystem is mounted at this path, which has no symbolic links in it."""
    return wanted in _mount_points()


def mounts_below(directory: bytes) -> list[bytes]:
    """Where something is mounted at or below a directory, an absolute path."""
    top = os.path.realpath(directory)
    return [one for one in _mount_points() if one == top or one.startswith(top + b"/")]


def _mount_points() -> Iterator[bytes]:
    with open("/proc/self/mountinfo", "rb") as mounts:
        for line in mounts:
            mounted = line.split(b" ", 5)[4]
            if b"\\" in mounted:
                mounted = mounted.decode("unicode_escape").encode("latin-1")
            yield mounted
