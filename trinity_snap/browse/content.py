"""A file of a recovery point, read from any place: chunks are fetched as they are needed, and the next ones ahead."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from typing import TYPE_CHECKING

from trinity_snap.errors import IntegrityError

if TYPE_CHECKING:
    from trinity_snap.repository.manifest import Entry
    from trinity_snap.repository.reader import PointReader

__all__ = ["PointFile"]

_CHUNKS_KEPT = 8
_CHUNKS_AHEAD = 3


class PointFile:
    """One regular file (`f`). May be read by several threads; `pool` fetches what is likely to be read next."""

    def __init__(self, reader: PointReader, entry: Entry, pool: ThreadPoolExecutor) -> None:
        self._reader = reader
        self._size = entry.size
        self._ids = entry.chunk_ids()
        lengths = {one: length for read in reader.plan_reads(self._ids) for one, _, length in read.chunks}
        self._ends = list(accumulate(lengths[one] for one in self._ids))
        extents = (entry.extents or [(0, entry.size)]) if self._ids else []
        self._extents = [(offset, length) for offset, length in extents if length]
        self._starts = [0, *accumulate(length for _, length in self._extents)]
        if (self._ends[-1] if self._ends else 0) != self._starts[-1]:
            raise IntegrityError(f"The chunks of {entry.path!r} are not as long as the file.")
        self._pool = pool
        self._fetched: OrderedDict[int, Future[memoryview]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end. Holes are zeros. Raise IntegrityError or TargetError."""
        size = min(size, max(self._size - offset, 0))
        if not self._extents or size <= 0:
            return bytes(max(size, 0))
        if len(self._extents) == 1 and self._extents[0] == (0, self._size):
            return self._stream(offset, size)
        found = bytearray(size)
        for (begin, length), start in zip(self._extents, self._starts, strict=False):
            low, high = max(begin, offset), min(begin + length, offset + size)
            if low < high:
                found[low - offset : high - offset] = self._stream(start + low - begin, high - low)
        return bytes(found)

    def _stream(self, offset: int, size: int) -> bytes:
        """From the chunks, one after the other."""
        number = bisect_right(self._ends, offset)
        parts = []
        while size:
            chunk = self._chunk(number)
            start = offset - (self._ends[number - 1] if number else 0)
            part = chunk[start : start + size]
            parts.append(part)
            offset, size, number = offset + len(part), size - len(part), number + 1
        return b"".join(parts)

    def _chunk(self, number: int) -> memoryview:
        with self._lock:
            wanted = self._fetch(number)
            for ahead in range(number + 1, min(number + 1 + _CHUNKS_AHEAD, len(self._ids))):
                self._fetch(ahead)
            self._fetched.move_to_end(number)
            while len(self._fetched) > _CHUNKS_KEPT:
                self._fetched.popitem(last=False)
        try:
            return wanted.result()
        except BaseException:  # such as a storage that was out of reach: the next read asks again
            with self._lock:
                self._fetched.pop(number, None)
            raise

    def _fetch(self, number: int) -> Future[memoryview]:
        found = self._fetched.get(number)
        if found is None:
            found = self._fetched[number] = self._pool.submit(self._reader.chunk, self._ids[number])
        return found
