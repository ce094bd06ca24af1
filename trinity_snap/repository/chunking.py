"""Cutting large files into chunks at content-defined places (FastCDC 2020, seeded by the host secret)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from pyfastcdc import FastCDC

__all__ = ["SMALL_FILE_BYTES", "Chunker"]

SMALL_FILE_BYTES = 256 * 1024
_AVERAGE_BYTES = 512 * 1024
_MINIMUM_BYTES = 128 * 1024
_MAXIMUM_BYTES = 2 * 1024 * 1024


class _Extents:
    """The data of a file's extents as one stream."""

    def __init__(self, descriptor: int, extents: Sequence[tuple[int, int]], on_read: Callable[[int], None]) -> None:
        self._descriptor = descriptor
        self._left = list(reversed(extents))
        self._on_read = on_read

    def readinto(self, buffer: memoryview) -> int:
        """Fill `buffer` from the file; 0 at the end."""
        while self._left:
            offset, length = self._left.pop()
            if not length:
                continue
            got = os.preadv(self._descriptor, [memoryview(buffer)[:length]], offset)
            if got <= 0:
                self._left.clear()
                return 0
            if got < length:
                self._left.append((offset + got, length - got))
            self._on_read(got)
            return got
        return 0


class Chunker:
    """Cuts what a descriptor holds. One for each thread."""

    def __init__(self, seed: int) -> None:
        self._cutter = FastCDC(
            _AVERAGE_BYTES,
            min_size=_MINIMUM_BYTES,
            max_size=_MAXIMUM_BYTES,
            normalized_chunking=1,
            seed=seed >> 1,  # the library takes 63 bits
        )

    def cut(
        self,
        descriptor: int,
        extents: Sequence[tuple[int, int]],
        store: Callable[[memoryview], bytes],
        on_read: Callable[[int], None],
    ) -> tuple[bytes, int]:
        """Give each chunk of the extents' data to `store`, for the time of the call.

        Return the ids that it gave, end to end, and the bytes read.

        The bytes read are fewer than the extents' when the file ended early. Raise OSError as reading does.
        """
        ids = bytearray()
        total = 0
        for chunk in self._cutter.cut_stream(_Extents(descriptor, extents, on_read)):
            total += chunk.length
            ids += store(chunk.data)
        return bytes(ids), total
