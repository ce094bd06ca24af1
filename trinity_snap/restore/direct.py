"""Large files past the page cache: copying into fresh pages costs more than all else, and pushes out what agents use.

Only on filesystems that are known to lose nothing by it: btrfs, for one, does not compress what is written so.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import sys
import threading
from collections.abc import Callable

__all__ = ["DIRECT_BYTES", "DirectFiles", "read_exactly"]

DIRECT_BYTES = 128 * 1024
"""Less than this at a time is not worth it."""

_BLOCK = 4096
_PIECE_BYTES = 1024 * 1024
_FILESYSTEMS = frozenset((0xEF53, 0x58465342))  # linux/magic.h: ext2 to ext4, xfs
_libc = ctypes.CDLL(None, use_errno=True)
_Buffer = Callable[[int], mmap.mmap]


def _filesystem(descriptor: int) -> int:
    """What kind of filesystem an open file is on, as statfs(2) numbers them; 0 if that cannot be known."""
    status = ctypes.create_string_buffer(512)
    if _libc.fstatfs(descriptor, status) != 0:
        return 0
    return int.from_bytes(status.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder) & 0xFFFFFFFF


def read_exactly(descriptor: int, offset: int, length: int) -> bytes:
    """`length` bytes from `offset`, or fewer where the file ends. Raise OSError."""
    data = os.pread(descriptor, length, offset)
    while len(data) < length and (more := os.pread(descriptor, length - len(data), offset + len(data))):
        data += more
    return data


class DirectFiles:
    """Reads and writes large parts of files below the open directory `directory` directly, as far as its filesystem does it.

    Safe to use from several threads. Each of them keeps a buffer as long as the longest part that it read, or 1 MiB.
    """

    def __init__(self, directory: int) -> None:
        self.usable = _filesystem(directory) in _FILESYSTEMS
        self._own = threading.local()

    def _buffer(self, length: int) -> mmap.mmap:
        buffer: mmap.mmap | None = getattr(self._own, "buffer", None)
        if buffer is None or len(buffer) < length:
            buffer = self._own.buffer = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return buffer

    def _refused(self, error: OSError) -> None:
        """Give up direct access for good if that is what failed. Raise the error else."""
        if error.errno != errno.EINVAL:
            raise error
        self.usable = False

    def write(self, descriptor: int, data: memoryview, offset: int) -> None:
        """Write all of `data` at `offset`. Raise OSError."""
        start = -offset % _BLOCK
        end = len(data) - (offset + len(data)) % _BLOCK
        _set_direct(descriptor, False)  # a write before may have left it on
        if not self.usable or end - start < DIRECT_BYTES:
            _write(descriptor, data, offset)
            return
        _write(descriptor, data[:start], offset)
        _write(descriptor, data[end:], offset + end)
        try:
            _set_direct(descriptor, True)
            while start < end:
                piece = min(_PIECE_BYTES, end - start)
                buffer = self._buffer(_PIECE_BYTES)
                buffer[:piece] = data[start : start + piece]
                with memoryview(buffer) as view, view[:piece] as aligned:
                    _write(descriptor, aligned, offset + start)
                start += piece
        except OSError as error:
            self._refused(error)
            _set_direct(descriptor, False)
            _write(descriptor, data[start:end], offset + start)

    def read(self, descriptor: int, offset: int, length: int) -> bytes | memoryview:
        """`length` bytes from `offset`, or fewer where the file ends. What it gives lasts until this thread reads again."""
        if not self.usable or length < DIRECT_BYTES:
            _set_direct(descriptor, False)
            return read_exactly(descriptor, offset, length)
        skip = offset % _BLOCK
        wanted = -(-(skip + length) // _BLOCK) * _BLOCK
        view = memoryview(self._buffer(max(wanted, _PIECE_BYTES)))
        got = 0
        try:
            _set_direct(descriptor, True)
            while got < wanted:
                piece = os.preadv(descriptor, [view[got:wanted]], offset - skip + got)
                got += piece
                if not piece or piece % _BLOCK:  # the end of the file
                    break
        except OSError as error:
            self._refused(error)
            return self.read(descriptor, offset, length)
        return view[skip : min(got, skip + length)]


def _set_direct(descriptor: int, direct: bool) -> None:
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    if bool(flags & os.O_DIRECT) != direct:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags ^ os.O_DIRECT)


def _write(descriptor: int, data: memoryview, offset: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(descriptor, data[written:], offset + written)
