"""Copying files aside while their writers are held: the shortest way that the filesystem has."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from trinity_snap.durable import make_directory_durably
from trinity_snap.errors import SnapshotError
from trinity_snap.snapshot.protocol import BudgetExceeded, Deadline

_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_PIECE = 8 << 20
_SPARE_BYTES = 16 << 20
_TRY_FROM_BYTES = 32 << 20
_TRY_SECONDS = 0.5
_BYTES_PER_SECOND = 100e6  # until something was tried
_NO_CLONE = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.EPERM, errno.ETXTBSY})
_NOT_THIS_FILE = frozenset({errno.EINVAL, errno.EPERM, errno.ETXTBSY})
_NO_COPY_RANGE = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
STAGING_FAILED = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMFILE, errno.ENFILE})
"""Errors that tell of the directory for copies, not of the file that is copied."""

_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Staging:
    """A run's own directory for copies, numbered from 0. Made by `create`, removed with `remove_tree`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._next = 0
        self._can_clone = True
        self._bytes_per_second = _BYTES_PER_SECOND
        self.clones = False

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

    def can_clone(self) -> bool:
        """Whether two files here can share blocks, by trying it. Raise OSError."""
        with tempfile.TemporaryFile(dir=self.path) as one, tempfile.TemporaryFile(dir=self.path) as other:
            one.write(b"x")
            one.flush()
            return clone(one.fileno(), other.fileno())

    def require_room(self, name: str, needed_bytes: int, reserved_bytes: int, files: Iterable[Path]) -> None:
        """Raise SnapshotError unless the copies of a source fit besides what is reserved, or take no room.

        `files` are those to be copied. The largest is copied for a trial if they are large, so that `clones` and `seconds`
        tell what is to be expected.
        """
        if needed_bytes > _TRY_FROM_BYTES:
            self._try(files)
        free = os.statvfs(self.path)
        free_bytes = free.f_bavail * free.f_frsize
        wanted = needed_bytes + needed_bytes // 4 + reserved_bytes + _SPARE_BYTES
        if wanted <= free_bytes or (self.clones and free_bytes > _SPARE_BYTES):
            return
        raise SnapshotError(
            f"The staging directory {self.path} has {free_bytes >> 20} MiB free and needs {wanted >> 20} MiB: about "
            f"{needed_bytes >> 20} MiB of “{name}” that keep changing have to be copied during the pause"
            + (f", besides {reserved_bytes >> 20} MiB of others" if reserved_bytes else "")
            + f", and {_SPARE_BYTES >> 20} MiB have to stay free.",
            untouched="The other sources are not affected.",
            next_step="Set `snapshot: precopy: staging:` to a directory with more room, or free some.",
        )

    def seconds(self, amount: int) -> float:
        """About how long it takes to copy that many bytes."""
        return 0.0 if self.clones else amount / self._bytes_per_second

    def open(self, number: int) -> int:
        """A descriptor to read copy `number`. Raise OSError."""
        return os.open(self._name(number), _OPEN_FLAGS)

    def copy(self, descriptor: int, deadline: Deadline) -> int:
        """Copy an open regular file, holes kept, and return the copy's number. Raise OSError, BudgetExceeded.

        What is not whole takes no room.
        """
        number = self._next
        self._next += 1
        target = os.open(self._name(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if self._can_clone:
                refused = _clone(descriptor, target)
                if not refused:
                    return number
                self._can_clone = refused in _NOT_THIS_FILE
            size = os.fstat(descriptor).st_size
            os.ftruncate(target, size)
            for start, end in data_extents(descriptor, size):
                copy_range(descriptor, target, start, end, deadline)
            return number
        except OSError:
            self.drop(number)
            raise
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

    def _try(self, files: Iterable[Path]) -> None:
        """Copy the largest of some live files, for a moment, and see how that goes."""
        sample = max(files, key=_size, default=None)
        if sample is None:
            return
        number = self._next
        started = time.monotonic()
        try:
            descriptor = open_live(os.fsencode(sample))
        except OSError:
            return
        try:
            self.copy(descriptor, Deadline(_TRY_SECONDS))
            self.clones = self._can_clone
        except (OSError, BudgetExceeded):
            pass  # no room, or too large: how far it got is enough
        finally:
            os.close(descriptor)
        try:
            copied = os.stat(self._name(number)).st_blocks * 512
            self.drop(number)
        except OSError:
            return
        if copied > _TRY_FROM_BYTES // 8:
            self._bytes_per_second = copied / max(0.001, time.monotonic() - started)


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


def _size(path: Path) -> int:
    try:
        status = os.lstat(path)
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def clone(source: int, target: int) -> bool:
    """Make an open, empty file share all data of another (ioctl_ficlone(2)). Say whether that can be. Raise OSError."""
    return not _clone(source, target)


def _clone(source: int, target: int) -> int:
    """Let two files share blocks. Return 0, or the error that says that these cannot. Raise OSError for any other."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _NO_CLONE:
            return error.errno or errno.EINVAL
        raise
    return 0


def data_extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
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


def copy_range(source: int, target: int, start: int, end: int, deadline: Deadline) -> None:
    """Copy a range of an open file to the same place in another. Raise OSError, BudgetExceeded."""
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
