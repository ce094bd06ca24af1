"""Files that are there, whole, after a power cut: keys, journals and state are written here."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE, linux/falloc.h


def fsync_directory(path: str | os.PathLike[str]) -> None:
    """Make the names in a directory durable. Raise OSError as `open` and `fsync` do."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory_durably(path: str | os.PathLike[str], *, mode: int = 0o700) -> None:
    """Make a directory and the missing ones above it, each with `mode`, and make their names durable.

    A directory that is there keeps its mode. Raise OSError, FileExistsError if the path is something else.
    """
    directory = Path(path)
    missing: list[Path] = []
    step = directory
    while not step.is_dir():
        missing.append(step)
        if step == step.parent:
            break
        step = step.parent
    for step in reversed(missing):
        try:
            os.mkdir(step, mode)
        except FileExistsError:
            if not step.is_dir():
                raise
        fsync_directory(step.parent)


def write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Write every byte of `data` to a descriptor, without copying it. Raise OSError."""
    view = memoryview(data).cast("B")
    done = 0
    while done < len(view):
        done += os.write(descriptor, view[done:])


def reserve_room(descriptor: int, length: int) -> None:
    """Have room on the disk for `length` more bytes at the end of a file, whose size stays as it is (fallocate(2)).

    Where there is no such thing, nothing is done. Raise OSError if there is no room.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    place = ctypes.c_int64(os.fstat(descriptor).st_size)
    if libc.fallocate64(descriptor, _KEEP_SIZE, place, ctypes.c_int64(length)) != 0:
        number = ctypes.get_errno()
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(number, os.strerror(number))


def write_file_durably(
    path: str | os.PathLike[str],
    data: bytes | bytearray | memoryview,
    *,
    mode: int = 0o600,
    replace: bool = True,
) -> None:
    """Write a file so that at any moment there is either the file as it was before, or the new one, whole.

    The file gets exactly the permissions `mode`, and belongs to this process's user. When this returns, it
    survives a power cut. With `replace=False` raise FileExistsError if there is anything of that name, and
    leave it as it is. Raise OSError for everything else; then nothing of the new file is left.
    """
    final = Path(path)
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_all(descriptor, data)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if replace:
            os.rename(temporary, final)
        else:
            os.link(temporary, final)
            os.unlink(temporary)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    fsync_directory(final.parent)
