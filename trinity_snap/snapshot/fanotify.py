"""What is touched on a whole filesystem from a moment on, by fanotify(7) of Linux 5.9 or newer.

A mark on the filesystem itself sees what happens through every mount of it and in every container. The kernel
queues an event before the system call that caused it returns, so that nothing a frozen process has done is
still under way. Events name objects by file handles, which hold the inode's number; nothing is ever opened
by them.

No event comes for stores through shared mappings, and none for asynchronous writes of older kernels:
`trinity_snap.snapshot.writers` finds the files that these can concern.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["MOST_EVENTS", "Touched", "Unwatchable", "Watch"]

MOST_EVENTS = 200_000
"""With more different events than this in one window, a walk is no dearer."""

_FILESYSTEMS = frozenset({"ext2", "ext3", "ext4", "xfs"})  # those whose file handles and events are known here

# linux/fanotify.h
_INIT = 0x1 | 0x2 | 0x10 | 0x200 | 0xC00  # CLOEXEC, NONBLOCK, UNLIMITED_QUEUE, REPORT_FID, REPORT_DFID_NAME
_ADD_TO_FILESYSTEM = 0x1 | 0x100  # MARK_ADD, MARK_FILESYSTEM
# MODIFY, ATTRIB, CLOSE_WRITE, MOVED_FROM, MOVED_TO, CREATE, DELETE, MOVE_SELF, ONDIR
_MASK = 0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x800 | 0x40000000
_OVERFLOW = 0x4000
_FID, _DFID_NAME, _DFID = 1, 2, 3
_EVENT = struct.Struct("=IBBHQii")
_INFO = struct.Struct("=BBH8sIi")  # header, fsid, and the head of the file handle: its length and type
_HANDLE = struct.Struct("=Ii")

_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_READ_BYTES = 1 << 18


class Unwatchable(Exception):
    """Why nothing can be said of what happens, or happened, on a filesystem. Operators see it in a note at most."""


class Touched(NamedTuple):
    """Where to look again: entries, as their directory's inode number and their name, and inode numbers of anything."""

    entries: set[tuple[int, bytes]]
    inodes: set[int]


class Watch:
    """Collects what is touched on the filesystem of `place` until `close`.

    Raise Unwatchable if kernel, filesystem or permissions do not allow it.
    """

    def __init__(self, place: Path, filesystem: str) -> None:
        if filesystem not in _FILESYSTEMS:
            raise Unwatchable(f"it is not known how {filesystem} tells of changes")
        _require_known_handles(place)
        self._lost = ""
        self._seen: set[bytes] = set()
        self._lock = threading.Lock()
        self._group = _open_group()
        try:
            _mark(self._group, place)
        except BaseException:
            os.close(self._group)
            raise
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="fanotify", daemon=True)
        self._thread.start()

    def take(self) -> Touched:
        """What was touched since the last call, all that has happened till now. Raise Unwatchable if events were lost."""
        with self._lock:
            # Only what is there now: who writes all the time would keep the queue from ever being empty.
            waiting = _waiting(self._group)
            while waiting > 0 and (count := self._read()):
                waiting -= count
            if self._lost:
                raise Unwatchable(self._lost)
            seen, self._seen = self._seen, set()
        touched = Touched(set(), set())
        for information in seen:
            _decode(information, touched)
        return touched

    def close(self) -> None:
        """Stop watching; more than once does no harm."""
        if self._group < 0:
            return
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        os.close(self._group)
        os.close(self._stop)
        self._group = -1

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._group, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        while True:
            if any(descriptor == self._stop for descriptor, _ in poll.poll()):
                return
            with self._lock:
                self._read()
                if self._lost:
                    return  # nobody will ask for the rest

    def _read(self) -> int:
        """Take a piece off the queue. Return how many events it had."""
        if self._lost:
            return 0
        try:
            data = os.read(self._group, _READ_BYTES)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._lost = f"its events could not be read: {error.strerror}"
            return 0
        count = 0
        for mask, information in _events(data):
            count += 1
            if mask & _OVERFLOW:
                self._lost = "the kernel's queue of events overflowed"
            self._seen.add(information)
        if len(self._seen) > MOST_EVENTS:
            self._lost = f"there were more than {MOST_EVENTS} events"
            self._seen.clear()
        return count


def _open_group() -> int:
    group = int(_libc().fanotify_init(_INIT, os.O_RDONLY | os.O_CLOEXEC))
    if group < 0:
        raise Unwatchable(f"fanotify_init: {os.strerror(ctypes.get_errno())}")
    return group


def _waiting(group: int) -> int:
    """How many events are in the queue: FIONREAD gives the length of their heads alone."""
    answer = fcntl.ioctl(group, termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder) // _EVENT.size


def _mark(group: int, place: Path) -> None:
    marked = _libc().fanotify_mark(
        ctypes.c_int(group),
        ctypes.c_uint(_ADD_TO_FILESYSTEM),
        ctypes.c_uint64(_MASK),
        ctypes.c_int(_AT_FDCWD),
        ctypes.c_char_p(os.fsencode(place)),
    )
    if marked < 0:
        raise Unwatchable(f"fanotify_mark: {os.strerror(ctypes.get_errno())}")


def _events(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Each event's mask, and what it says of objects."""
    at = 0
    while at < len(data):
        length, _, _, head, mask, _, _ = _EVENT.unpack_from(data, at)
        yield mask, data[at + head : at + length]
        at += length


def _decode(information: bytes, touched: Touched) -> None:
    """Add what one event names. Raise Unwatchable if it cannot be told."""
    at = 0
    while at < len(information):
        kind, _, length, _, handle_bytes, handle_type = _INFO.unpack_from(information, at)
        start = at + _INFO.size
        if kind in (_FID, _DFID, _DFID_NAME):
            inode = _inode(information[start : start + handle_bytes], handle_type)
            touched.inodes.add(inode)
            if kind == _DFID_NAME:
                name = information[start + handle_bytes : at + length].split(b"\0", 1)[0]
                if name != b".":
                    touched.entries.add((inode, name))
        at += length


def _inode(handle: bytes, kind: int) -> int:
    """The inode's number in a file handle (linux/exportfs.h, FILEID_INO32_GEN; XFS sets 0x80 for 64 bits)."""
    if kind == 1 and len(handle) >= 8:
        return int(struct.unpack_from("=I", handle)[0])
    if kind == 0x81 and len(handle) >= 12:
        return int(struct.unpack_from("=Q", handle)[0])
    raise Unwatchable(f"an event names something by an unknown kind of file handle ({kind:#x})")


def _require_known_handles(place: Path) -> None:
    """Raise Unwatchable unless the handle of `place` holds its inode number."""
    buffer = ctypes.create_string_buffer(_HANDLE.size + 128)
    _HANDLE.pack_into(buffer, 0, 128, 0)
    mount = ctypes.c_int()
    try:
        descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise Unwatchable(f"{place} cannot be opened: {error.strerror}") from error
    try:
        done = _libc().name_to_handle_at(descriptor, b"", buffer, ctypes.byref(mount), _AT_EMPTY_PATH)
        if done < 0:
            raise Unwatchable(f"name_to_handle_at: {os.strerror(ctypes.get_errno())}")
        handle_bytes, kind = _HANDLE.unpack_from(buffer.raw)
        if _inode(buffer.raw[_HANDLE.size : _HANDLE.size + handle_bytes], kind) != os.fstat(descriptor).st_ino:
            raise Unwatchable("file handles do not hold inode numbers here")
    finally:
        os.close(descriptor)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
