"""Copying files aside while their writers are held: the shortest way that the filesystem has."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from trinity_snap.durable import make_directory_durably
from trinity_snap.errors import SnapshotError
from trinity_snap.snapshot.protocol import BudgetExceeded, Deadline

_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_PIECE = 8 << 20
_SPARE_BYTES = 16 << 20
_NO_CLONE = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.EPERM, errno.ETXTBSY})
_NO_COPY_RANGE = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Staging:
    """A run's own directory for copies, numbered from 0. Made by `create`, removed with `remove_tree`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._next = 0
        self._can_clone = True

    def create(self) -> None:
        """Make the directory. Raise SnapshotError."""
        try:
            make_directory_durably(self.path)
        except OSError as error:
            raise SnapshotError(
                f"The staging directory {self.path} cannot be made: {error.strerror}.",
                untouched="No container was paused.",
                next_step="Set `snapshot: precopy: staging:` in the policy to a directory with room.",
            ) from error

    def require_room(self, needed_bytes: int, sample: Path | None) -> None:
        """Raise SnapshotError unless that many bytes fit, or `sample` can be cloned here without taking room."""
        free = os.statvfs(self.path)
        free_bytes = free.f_bavail * free.f_frsize
        if needed_bytes + needed_bytes // 4 + _SPARE_BYTES <= free_bytes:
            return
        if sample is not None and free_bytes > _SPARE_BYTES and self._clones(sample):
            return
        raise SnapshotError(
            f"The staging directory {self.path} has {free_bytes >> 20} MiB free, and about {needed_bytes >> 20} MiB that "
            "keep changing have to be copied during the pause.",
            untouched="No container was paused.",
            next_step="Set `snapshot: precopy: staging:` to a directory with more room, or free some.",
        )

    def open(self, number: int) -> int:
        """A descriptor to read copy `number`. Raise OSError."""
        return os.open(self._name(number), _OPEN_FLAGS)

    def copy(self, descriptor: int, deadline: Deadline) -> int:
        """Copy an open regular file, holes kept, and return the copy's number. Raise OSError, BudgetExceeded."""
        number = self._next
        self._next += 1
        target = os.open(self._name(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if self._can_clone and _clone(descriptor, target):
                return number
            self._can_clone = False
            size = os.fstat(descriptor).st_size
            os.ftruncate(target, size)
            for start, end in _extents(descriptor, size):
                _copy_range(descriptor, target, start, end, deadline)
            return number
        finally:
            os.close(target)

    def trim(self, number: int, size: int) -> None:
        """Make a copy exactly that long; what is missing becomes a hole."""
        os.truncate(self._name(number), size)

    def drop(self, number: int) -> None:
        """Forget a copy again."""
        os.unlink(self._name(number))

    def clear(self) -> None:
        """Forget all copies."""
        for name in os.listdir(self.path):
            os.unlink(self.path / name)

    def _name(self, number: int) -> str:
        return f"{self.path}/{number}"

    def _clones(self, sample: Path) -> bool:
        try:
            descriptor = open_live(os.fsencode(sample))
        except OSError:
            return False
        try:
            number = self.copy(descriptor, Deadline(0.5))
            self.drop(number)
        except (OSError, BudgetExceeded):  # no room, or so slow that it was no clone
            return False
        finally:
            os.close(descriptor)
        return self._can_clone


def open_live(path: bytes) -> int:
    """Open a file for reading without following a link at its end, and without touching its access time.

    Raise OSError; ESTALE if it is no regular file (any more).
    """
    try:
        descriptor = os.open(path, _OPEN_FLAGS | os.O_NOATIME)
    except PermissionError:
        descriptor = os.open(path, _OPEN_FLAGS)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ESTALE, "it is no regular file any more", path)
    return descriptor


def _clone(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _NO_CLONE:
            return False
        raise
    return True


def _extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file has data, as (start, end), by SEEK_DATA and SEEK_HOLE of lseek(2)."""
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            start, position = position, size
        else:
            position = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, min(position, size)


def _copy_range(source: int, target: int, start: int, end: int, deadline: Deadline) -> None:
    in_kernel = True
    while start < end:
        deadline.check()
        piece = min(_PIECE, end - start)
        copied = 0
        if in_kernel:
            try:
                copied = os.copy_file_range(source, target, piece, start, start)
            except OSError as error:
                if error.errno not in _NO_COPY_RANGE:
                    raise
        if not copied:
            in_kernel = False
            os.lseek(target, start, os.SEEK_SET)
            copied = os.sendfile(target, source, start, piece)
        if not copied:
            return  # the file became shorter; whoever holds its writers sees that in its size
        start += copied
