"""A directory as a target.

An object is written to a temporary file in `.tmp/`, made durable there, and then linked to its name in one
step, so that what has a name is whole. Whoever writes a temporary file holds a lock (flock) on it; one
without a lock was left by a process that died, and the next writer removes it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from trinity_snap.durable import fsync_directory, make_directory_durably, write_all
from trinity_snap.errors import ObjectMissing, TargetDenied, TargetError, TargetFull
from trinity_snap.targets.names import FLAT_KINDS, check_name, check_prefix, is_object_name
from trinity_snap.targets.protocol import MAX_OBJECT_BYTES, ObjectStat

_TEMPORARY = ".tmp"
_UNLOCKABLE_TEMPORARY_SECONDS = 24 * 3600
_ATTEMPTS = 3
_DIRECT_BYTES = 1024 * 1024
_DIRECT_MULTIPLE = 4096
_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_TRANSIENT = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.EINTR,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
}
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1


class LocalTarget:
    """A target in a directory of this host: a disk, or whatever is mounted there."""

    def __init__(self, root: str | os.PathLike[str], *, create: bool = False) -> None:
        self.root = Path(os.path.abspath(root))
        self._durable_directories: set[Path] = set()
        self._swept = False
        try:
            if create:
                make_directory_durably(self.root)
            self._root_inode = self._directory_inode()
        except FileNotFoundError as error:
            raise TargetError(
                f"The target directory {self.root} does not exist.",
                next_step="Mount the disk that holds it, or make a repository with `trinity-snap init`.",
            ) from error
        except OSError as error:
            raise _target_error(error, f"{self.root} cannot be used as a target") from error

    def __repr__(self) -> str:
        return f"LocalTarget({str(self.root)!r})"

    @property
    def url(self) -> str:
        """The absolute path of the directory."""
        return str(self.root)

    @property
    def parallel_puts(self) -> int:
        """One: a second writer would only move the disk's head."""
        return 1

    @property
    def parallel_gets(self) -> int:
        """Two: one reads while the other decodes."""
        return 2

    @property
    def read_ahead_bytes(self) -> int:
        """Nothing: the kernel reads ahead."""
        return 0

    def put_if_absent(self, name: str, data: bytes | bytearray | memoryview) -> bool:
        """Store an object durably; False if there is one already.

        Raise TargetFull, TargetDenied, TargetError.
        """
        final = self.root / check_name(name)
        doing = f"{name} cannot be stored in {self.root}"
        try:
            if self._directory_inode() != self._root_inode:
                raise TargetError(
                    f"{doing}: another filesystem was mounted or unmounted there since this run began.",
                    next_step="Mount the disk that holds it, and try again.",
                )
            if _exists(final):
                self._make_durable(final.parent)
                fsync_directory(final.parent)
                return False
            for _ in range(_ATTEMPTS):
                try:
                    return self._put(final, data)
                except FileNotFoundError:  # swept before it was locked, or a directory was removed
                    self._durable_directories.clear()
        except OSError as error:
            raise _target_error(error, doing) from error
        raise TargetError(f"{doing}: its temporary file is removed by somebody each time.", transient=True)

    def get(self, name: str) -> bytes:
        """The whole object. Raise ObjectMissing, TargetDenied, TargetError."""
        descriptor, size = self._open(name)
        try:
            return self._read(name, descriptor, 0, size)
        finally:
            os.close(descriptor)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes of the object from `offset`.

        Raise ObjectMissing, TargetDenied, TargetError.
        """
        descriptor, size = self._open(name)
        try:
            if offset < 0 or length < 0 or offset + length > size:
                raise TargetError(f"{name} in {self.root} has {size} bytes, and {length} from {offset} were asked for.")
            return self._read(name, descriptor, offset, length)
        finally:
            os.close(descriptor)

    def list_prefix(self, prefix: str) -> Iterator[str]:
        """The names of all objects that begin with `prefix`; whatever else lies there is passed over."""
        check_prefix(prefix)
        return self._list(prefix)

    def stat(self, name: str) -> ObjectStat:
        """An object's length, and the time of its last byte by the filesystem's clock.

        Raise ObjectMissing, TargetError.
        """
        descriptor, size = self._open(name)
        try:
            return ObjectStat(size=size, time_ns=os.fstat(descriptor).st_mtime_ns)
        finally:
            os.close(descriptor)

    def delete(self, name: str) -> None:
        """Remove an object durably; one that is not there is no error. Raise TargetDenied, TargetError."""
        path = self.root / check_name(name)
        try:
            with suppress(FileNotFoundError):
                os.unlink(path)
                fsync_directory(path.parent)
        except OSError as error:
            raise _target_error(error, f"{name} cannot be removed from {self.root}") from error

    def _open(self, name: str) -> tuple[int, int]:
        """A descriptor to read an object with, and the object's length."""
        path = self.root / check_name(name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise ObjectMissing(f"There is no {name} in {self.root}.") from error
        except OSError as error:
            raise _target_error(error, f"{name} cannot be read from {self.root}") from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise TargetError(f"{self.root / name} is not a regular file, so it is no object of a repository.")
        return descriptor, status.st_size

    def _read(self, name: str, descriptor: int, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`, in one piece if the filesystem gives them so."""
        if length > MAX_OBJECT_BYTES:
            raise TargetError(f"{length} bytes of {name} are more than any object of a repository has.")
        parts: list[bytes] = []
        try:
            while length:
                part = os.pread(descriptor, length, offset)
                if not part:
                    raise TargetError(f"{name} in {self.root} became shorter while it was read.")
                parts.append(part)
                offset += len(part)
                length -= len(part)
        except OSError as error:
            raise _target_error(error, f"{name} cannot be read from {self.root}") from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _list(self, prefix: str) -> Iterator[str]:
        if "repository".startswith(prefix):
            with suppress(ObjectMissing):
                self.stat("repository")
                yield "repository"
        kind = prefix.split("/")[0] if prefix else ""
        for directory in FLAT_KINDS:
            if not prefix or kind == directory:
                yield from self._list_directory(directory, prefix)
        if not prefix or kind == "packs":
            for entry in self._scan("packs"):
                name = f"packs/{entry.name}"
                if len(entry.name) == 2 and (name.startswith(prefix) or prefix.startswith(f"{name}/")):
                    yield from self._list_directory(name, prefix)

    def _list_directory(self, directory: str, prefix: str) -> Iterator[str]:
        for entry in self._scan(directory):
            name = f"{directory}/{entry.name}"
            if name.startswith(prefix) and is_object_name(name) and entry.is_file(follow_symlinks=False):
                yield name

    def _scan(self, directory: str) -> Iterator[os.DirEntry[str]]:
        """The entries of a directory below the root, none if it is not there."""
        try:
            with os.scandir(self.root / directory) as entries:
                yield from entries
        except (FileNotFoundError, NotADirectoryError) as error:
            if not self.root.is_dir():
                raise _target_error(error, f"{self.root} cannot be listed") from error
        except OSError as error:
            raise _target_error(error, f"{self.root / directory} cannot be listed") from error

    def _make_durable(self, directory: Path) -> None:
        """Make a directory below the root if it is not there, and be sure that its name outlives a power cut.

        Another process may have made it a moment ago and died before its fsync, so that each process sees to
        it once.
        """
        if directory == self.root or directory in self._durable_directories:
            return
        self._make_durable(directory.parent)
        with suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        fsync_directory(directory.parent)
        self._durable_directories.add(directory)

    def _directory_inode(self) -> tuple[int, int]:
        """What tells the root from any other directory that could be in its place. Raise OSError."""
        status = os.stat(self.root)
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return status.st_dev, status.st_ino

    def try_out(self) -> None:
        """Store a small file that is no object, and remove it again. Raise TargetFull, TargetDenied, TargetError."""
        final = self.root / f"probe-{secrets.token_hex(16)}"
        try:
            self._put(final, b"trinity-snap probe\n")
            os.unlink(final)
        except OSError as error:
            raise _target_error(error, f"Nothing can be stored in {self.root}") from error

    def _put(self, final: Path, data: bytes | bytearray | memoryview) -> bool:
        """Store `data` under its final name, durably.

        Raise FileNotFoundError if a directory or file went away meanwhile.
        """
        self._make_durable(final.parent)
        self._make_durable(self.root / _TEMPORARY)
        if not self._swept:
            self._sweep()
            self._swept = True
        stored = self._put_temporary(final, data)
        fsync_directory(final.parent)
        return stored

    def _put_temporary(self, final: Path, data: bytes | bytearray | memoryview) -> bool:
        """Write `data` to a temporary file and give it its name. False if the name was taken meanwhile."""
        temporary = self.root / _TEMPORARY / secrets.token_hex(16)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o400)
        try:
            with suppress(OSError):  # without locks, leftovers are found by their age
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write(descriptor, data)
            os.fsync(descriptor)
            os.utime(descriptor)  # an object's time is when it appears, however long writing it took
            return _link_or_rename(temporary, final)
        finally:
            with suppress(OSError):
                os.unlink(temporary)
            os.close(descriptor)

    def _sweep(self) -> None:
        """Remove the temporary files of processes that died."""
        with os.scandir(self.root / _TEMPORARY) as entries:
            paths = [entry.path for entry in entries if entry.is_file(follow_symlinks=False)]
        for path in paths:
            with suppress(OSError):
                if _is_abandoned(path):
                    os.unlink(path)


def _write(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data`: past the page cache where the filesystem and the data's place in memory allow it.

    Copying a pack into the page cache costs more than all that was done to it before, and pushes out what agents use.
    """
    if len(data) < _DIRECT_BYTES or len(data) % _DIRECT_MULTIPLE or not _set_direct(descriptor, True):
        write_all(descriptor, data)
        return
    with memoryview(data) as view:
        written = 0
        while written < len(view):
            try:
                written += os.write(descriptor, view[written:])
            except OSError as error:
                if error.errno != errno.EINVAL or not _set_direct(descriptor, False):
                    raise
                write_all(descriptor, view[written:])
                return


def _set_direct(descriptor: int, direct: bool) -> bool:
    """Turn O_DIRECT on or off; False if the filesystem will not have it."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if direct else flags & ~os.O_DIRECT)
    except OSError:
        return False
    return True


def _exists(path: Path) -> bool:
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def _is_abandoned(path: str) -> bool:
    """Whether nobody writes a temporary file any more: nobody has it locked, or, without locks, it is old."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - os.fstat(descriptor).st_mtime > _UNLOCKABLE_TEMPORARY_SECONDS
    finally:
        os.close(descriptor)


def _link_or_rename(temporary: Path, final: Path) -> bool:
    """Give a file its final name unless that is taken; then False. Raise OSError."""
    try:
        os.link(temporary, final)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
    return _rename_no_replace(temporary, final)


def _rename_no_replace(temporary: Path, final: Path) -> bool:
    """renameat2(2) with RENAME_NOREPLACE, for filesystems without hard links. False if the name is taken."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(temporary), _AT_FDCWD, os.fsencode(final), _RENAME_NOREPLACE) == 0:
        return True
    code = ctypes.get_errno()
    if code == errno.EEXIST:
        return False
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        raise OSError(code, "its filesystem can neither make hard links nor rename without replacing")
    raise OSError(code, os.strerror(code))


def _target_error(error: OSError, doing: str) -> TargetError:
    """The error of this package for what the filesystem said."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return TargetFull(
            f"{doing}: {reason}.",
            untouched="Nothing of it is left there.",
            next_step="Make room on that filesystem, or raise the quota.",
        )
    if error.errno in _DENIED:
        return TargetDenied(
            f"{doing}: {reason}.",
            next_step="See who owns the directory, and whether it is mounted read-only.",
        )
    return TargetError(f"{doing}: {reason}.", transient=error.errno in _TRANSIENT)
