"""A tree's entries and their `lstat`, kept small: about 65 bytes and the path for each, however long the tree."""

from __future__ import annotations

import os
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping

from trinity_snap.snapshot.protocol import Signature
from trinity_snap.snapshot.view import WalkItem

_ENTRY = struct.Struct("<IIIIQqqqQ")
"""mode, uid, gid, nlink, ino, mtime_ns, ctime_ns, size, blocks."""
_COMPARED = _ENTRY.size - 8  # without blocks, which delayed allocation changes
_NOTHING = bytes(_ENTRY.size)
_SIGNATURE = struct.Struct("<Qqqq")


class Records:
    """Records of one size, each with a path: appended in manifest order, looked up in about that order afterwards.

    Looking up the record after the one looked up last costs O(1), any other O(log n). Not for several
    threads.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._data = bytearray()
        self._starts = array("Q")
        self._cursor = 0

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return (self._record(number) for number in range(len(self._starts)))

    def append(self, path: bytes, record: bytes) -> None:
        """Add the next record."""
        self._starts.append(len(self._data))
        self._data += record
        self._data += path

    def find(self, path: bytes) -> bytes | None:
        """The first record of that path."""
        if self._cursor < len(self._starts):
            found, record = self._record(self._cursor)
            if found == path:
                self._cursor += 1
                return record
        key = _order(path)
        numbers = range(len(self._starts))
        self._cursor = bisect_left(numbers, key, key=lambda number: _order(self._record(number)[0]))
        if self._cursor < len(self._starts):
            found, record = self._record(self._cursor)
            if found == path:
                self._cursor += 1
                return record
        return None

    def _record(self, number: int) -> tuple[bytes, bytes]:
        start = self._starts[number]
        end = self._starts[number + 1] if number + 1 < len(self._starts) else len(self._data)
        middle = start + self._size
        return bytes(self._data[middle:end]), bytes(self._data[start:middle])


class Listing:
    """All entries of one tree, in manifest order."""

    def __init__(self) -> None:
        self._records = Records(_ENTRY.size)
        self._errors: dict[bytes, OSError] = {}
        self._device = 0
        self._devices: dict[bytes, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._records)

    def append(self, path: bytes, status: os.stat_result) -> None:
        """Add the next entry."""
        if not len(self._records):
            self._device = status.st_dev
        if status.st_rdev or status.st_dev != self._device:
            self._devices[path] = (status.st_dev, status.st_rdev)
        self._records.append(path, pack(status))

    def append_error(self, path: bytes, error: OSError) -> None:
        """Add that the entry, or what is in the directory just added, cannot be looked at."""
        self._records.append(path, _NOTHING)
        self._errors[path] = error

    def find(self, path: bytes) -> bytes | None:
        """An entry as `pack` makes it; None if there is none. In ascending order this is fast."""
        return self._records.find(path)

    def elsewhere(self) -> list[bytes]:
        """The paths of entries that are on another filesystem, or in another subvolume, than the first."""
        return [path for path, (device, _) in self._devices.items() if device != self._device]

    def paths(self) -> Iterator[bytes]:
        """All paths."""
        return (path for path, _ in self._records)

    def walk(self) -> Iterator[WalkItem]:
        """The entries as a view yields them; their access time is their modification time."""
        for path, packed in self._records:
            if packed == _NOTHING:
                yield WalkItem(path, None, self._errors[path])
            else:
                yield WalkItem(path, _unpack(packed, *self._devices.get(path, (self._device, 0))))


class ShippedTree(Mapping[bytes, Signature]):
    """What a pass has shipped: the signatures of regular files by path. Record them in manifest order."""

    def __init__(self) -> None:
        self._records = Records(_SIGNATURE.size)

    def record(self, path: bytes, status: os.stat_result) -> None:
        """Note that the file was read whole, and had this status before and after."""
        signed = _SIGNATURE.pack(status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size)
        self._records.append(path, signed)

    def __getitem__(self, path: bytes) -> Signature:
        found = self._records.find(path)
        if found is None:
            raise KeyError(path)
        ino, ctime_ns, mtime_ns, size = _SIGNATURE.unpack(found)
        return ino, ctime_ns, mtime_ns, size

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[bytes]:
        return (path for path, _ in self._records)


def pack(status: os.stat_result) -> bytes:
    """Pack what matters of a `stat` result, but for device numbers."""
    return _ENTRY.pack(
        status.st_mode,
        status.st_uid,
        status.st_gid,
        status.st_nlink,
        status.st_ino,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_size,
        status.st_blocks,
    )


def signature(status: os.stat_result) -> Signature:
    """The signature of a file's state."""
    return status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size


def same(one: bytes, other: bytes) -> bool:
    """Whether two packed entries are the same but for allocation."""
    return one[:_COMPARED] == other[:_COMPARED]


def _unpack(packed: bytes, dev: int, rdev: int) -> os.stat_result:
    mode, uid, gid, nlink, ino, mtime_ns, ctime_ns, size, blocks = _ENTRY.unpack(packed)
    seconds = mtime_ns // 10**9
    return os.stat_result(
        (mode, ino, dev, nlink, uid, gid, size, seconds, seconds, ctime_ns // 10**9),
        {
            "st_atime": mtime_ns / 1e9,
            "st_mtime": mtime_ns / 1e9,
            "st_ctime": ctime_ns / 1e9,
            "st_atime_ns": mtime_ns,
            "st_mtime_ns": mtime_ns,
            "st_ctime_ns": ctime_ns,
            "st_blksize": 4096,
            "st_blocks": blocks,
            "st_rdev": rdev,
        },
    )


def _order(path: bytes) -> bytes:
    return path.replace(b"/", b"\0")
