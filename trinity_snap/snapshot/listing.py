"""A tree's entries and their `lstat`, kept small: about 65 bytes and the path for each, however long the tree."""

from __future__ import annotations

import os
import struct
from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping

from trinity_snap.snapshot.protocol import Signature
from trinity_snap.snapshot.view import WalkItem

_ENTRY = struct.Struct("<IIIIQqqqQ")
"""mode, uid, gid, nlink, ino, mtime_ns, ctime_ns, size, blocks."""
_COMPARED = _ENTRY.size - 8  # without blocks, which delayed allocation changes
_NOTHING = bytes(_ENTRY.size)
_MODE = struct.Struct("<I")
_INODE, _INODE_AT = struct.Struct("<Q"), 16
_TIME, _CTIME_AT = struct.Struct("<q"), 32
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
        self._cursor = self._first(manifest_order(path))
        if self._cursor < len(self._starts):
            found, record = self._record(self._cursor)
            if found == path:
                self._cursor += 1
                return record
        return None

    def path(self, number: int) -> bytes:
        """The path of a record by its number, from 0 in the order they were added."""
        return self._record(number)[0]

    def field(self, layout: struct.Struct, offset: int) -> Iterator[int]:
        """One number in each record, in order."""
        return (int(layout.unpack_from(self._data, start + offset)[0]) for start in self._starts)

    def merged(self, others: Records, gone: Collection[bytes]) -> Records:
        """These records without those at and below the paths in `gone`, and with those of `others` in their places.

        `gone` does not hold the root.
        """
        result = Records(self._size)
        ends = {manifest_order(path): manifest_order(path) + b"\1" for path in gone}
        new: dict[bytes, list[bytes]] = {key: [] for key in ends}
        for path, record in others:
            new.setdefault(manifest_order(path), []).append(record)
        at = 0
        for key in sorted(new):
            first = max(at, self._first(key))
            result._take(self, at, first)
            at = max(first, self._first(ends.get(key, key + b"\0")))
            for record in new[key]:
                result.append(key.replace(b"\0", b"/"), record)
        result._take(self, at, len(self))
        return result

    def _first(self, key: bytes) -> int:
        return bisect_left(range(len(self._starts)), key, key=lambda number: manifest_order(self._record(number)[0]))

    def _take(self, other: Records, first: int, last: int) -> None:
        if first >= last:
            return
        start = other._starts[first]
        end = other._starts[last] if last < len(other._starts) else len(other._data)
        shift = len(self._data) - start
        self._starts.extend(position + shift for position in other._starts[first:last])
        self._data += memoryview(other._data)[start:end]

    def _record(self, number: int) -> tuple[bytes, bytes]:
        start = self._starts[number]
        end = self._starts[number + 1] if number + 1 < len(self._starts) else len(self._data)
        middle = start + self._size
        return bytes(self._data[middle:end]), bytes(self._data[start:middle])


class Listing:
    """All entries of one tree, in manifest order. `device` is the filesystem of the root, which comes first if it is 0."""

    def __init__(self, device: int = 0) -> None:
        self.device = device
        self._records = Records(_ENTRY.size)
        self._errors: dict[bytes, OSError] = {}
        self._devices: dict[bytes, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._records)

    def append(self, path: bytes, status: os.stat_result) -> None:
        """Add the next entry."""
        if not self.device:
            self.device = status.st_dev
        if status.st_rdev or status.st_dev != self.device:
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
        return [path for path, (device, _) in self._devices.items() if device != self.device]

    def paths(self) -> Iterator[bytes]:
        """All paths."""
        return (path for path, _ in self._records)

    def path(self, number: int) -> bytes:
        """The path of an entry by its number, in the order they were added."""
        return self._records.path(number)

    def is_error(self, packed: bytes) -> bool:
        """Whether what `find` has found says that the entry could not be looked at."""
        return packed == _NOTHING

    def identity(self, packed: bytes) -> tuple[int, int]:
        """The inode number and the mode of what `find` has found."""
        return _INODE.unpack_from(packed, _INODE_AT)[0], _MODE.unpack_from(packed)[0]

    def inodes(self) -> Iterator[int]:
        """The inode number of each entry, in order."""
        return self._records.field(_INODE, _INODE_AT)

    def younger(self, than_ns: int) -> Iterator[bytes]:
        """The paths of entries whose ctime is not before that time."""
        times = self._records.field(_TIME, _CTIME_AT)
        return (self._records.path(number) for number, ctime_ns in enumerate(times) if ctime_ns >= than_ns)

    def merged(self, others: Listing, gone: Collection[bytes]) -> Listing:
        """These entries without those at and below the paths in `gone`, and with those of `others` in their places."""
        replaced = {path for path, _ in others._records}

        def stays(path: bytes) -> bool:
            return path not in replaced and not lies_in(path, gone)

        result = Listing(self.device)
        result._records = self._records.merged(others._records, gone)
        result._errors = {path: error for path, error in self._errors.items() if stays(path)} | others._errors
        result._devices = {path: numbers for path, numbers in self._devices.items() if stays(path)} | others._devices
        return result

    def walk(self) -> Iterator[WalkItem]:
        """The entries as a view yields them; their access time is their modification time."""
        for path, packed in self._records:
            if packed == _NOTHING:
                yield WalkItem(path, None, self._errors[path])
            else:
                yield WalkItem(path, _unpack(packed, *self._devices.get(path, (self.device, 0))))


class ShippedTree(Mapping[bytes, Signature]):
    """What a pass has shipped: the signatures of regular files by path. Record them in manifest order."""

    def __init__(self) -> None:
        self._records = Records(_SIGNATURE.size)

    def record(self, path: bytes, status: os.stat_result) -> None:
        """Note that the file was read whole, and had this status before and after."""
        self.add(path, signature(status))

    def add(self, path: bytes, signed: Signature) -> None:
        """Note that the file was read whole, and had this signature before and after."""
        self._records.append(path, _SIGNATURE.pack(*signed))

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


def same_but_ctime(one: bytes, other: bytes) -> bool:
    """Whether two packed entries are the same but for allocation and ctime."""
    after = _CTIME_AT + _TIME.size
    return one[:_CTIME_AT] == other[:_CTIME_AT] and one[after:_COMPARED] == other[after:_COMPARED]


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


def lies_in(path: bytes, places: Collection[bytes]) -> bool:
    """Whether a path is one of those places or below one."""
    if not places:
        return False
    while path not in places:
        if not path:
            return False
        path = path.rpartition(b"/")[0]
    return True


def manifest_order(path: bytes) -> bytes:
    """What paths are sorted by: the names in them, one after the other."""
    return path.replace(b"/", b"\0")
