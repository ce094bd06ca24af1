"""Segments of a recovery point, read and decoded ahead of their use, and how a file's chunks lie in it."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from trinity_snap.errors import IntegrityError, ObjectMissing
from trinity_snap.repository.manifest import Entry
from trinity_snap.restore.directories import shown
from trinity_snap.restore.source import PointSource, SegmentRead

__all__ = ["Layout", "SegmentStream", "chunk_lengths"]

_THREADS = 2
_AHEAD_BYTES = 16 * 1024 * 1024
_AHEAD_SEGMENTS = 8
_KEPT_BYTES = 24 * 1024 * 1024

Segment = bytes | memoryview


class SegmentStream:
    """Gives decoded segments in the order asked for, while worker threads fetch and decode the next ones.

    Segments of which only a part was wanted are kept for a while, as their other chunks are likely to be wanted soon.
    Memory is bounded: some 16 MiB ahead and 24 MiB kept, whatever is read.
    """

    def __init__(self, source: PointSource) -> None:
        self._source = source
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="segments")
        self._kept: OrderedDict[tuple[str, int], Segment] = OrderedDict()
        self._kept_bytes = 0

    def read(self, reads: Sequence[SegmentRead]) -> Iterator[tuple[SegmentRead, Segment | IntegrityError]]:
        """Each segment, decoded, or why it cannot be read. Other errors of the storage are raised."""
        waiting: deque[tuple[SegmentRead, Future[Segment] | Segment]] = deque()
        ahead = 0
        position = 0
        try:
            while position < len(reads) or waiting:
                while position < len(reads) and (
                    not waiting or (ahead < _AHEAD_BYTES and len(waiting) < _AHEAD_SEGMENTS)
                ):
                    read = reads[position]
                    position += 1
                    ahead += read.data_length
                    kept = self._kept.pop((read.pack, read.offset), None)
                    if kept is not None:
                        self._kept_bytes -= len(kept)
                        waiting.append((read, kept))
                    else:
                        waiting.append((read, self._pool.submit(self._source.read_segment, read)))
                read, segment = waiting.popleft()
                ahead -= read.data_length
                if isinstance(segment, Future):
                    try:
                        segment = segment.result()
                    except (IntegrityError, ObjectMissing) as error:
                        yield read, IntegrityError(str(error))
                        continue
                self._keep(read, segment)
                yield read, segment
        finally:
            for _, left in waiting:
                if isinstance(left, Future):
                    left.cancel()

    def _keep(self, read: SegmentRead, segment: Segment) -> None:
        if sum(length for _, _, length in read.chunks) >= len(segment) or len(segment) > _KEPT_BYTES // 4:
            return
        self._kept[read.pack, read.offset] = segment
        self._kept_bytes += len(segment)
        while self._kept_bytes > _KEPT_BYTES:
            self._kept_bytes -= len(self._kept.popitem(last=False)[1])

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def chunk_lengths(source: PointSource, ids: Iterable[bytes]) -> dict[bytes, int]:
    """The length of each chunk in bytes, as the packs say. Raise IntegrityError if a chunk is in none."""
    return {chunk_id: length for read in source.plan_reads(ids) for chunk_id, _, length in read.chunks if length >= 0}


class Layout:
    """Where the stream of a file's chunks goes in the file: its extents, one after the other."""

    def __init__(self, entry: Entry) -> None:
        self.extents: Sequence[tuple[int, int]] = entry.extents or [(0, entry.size)]
        self.total = sum(length for _, length in self.extents)
        self._extent = 0
        self._within = 0
        self._entry = entry

    def take(self, length: int) -> list[tuple[int, int, int]]:
        """Place the next `length` bytes of the stream: (offset in the file, start in these bytes, length) each.

        Raise IntegrityError if the file has no room for them.
        """
        pieces = []
        start = 0
        while start < length:
            if self._extent >= len(self.extents):
                raise self.wrong()
            offset, size = self.extents[self._extent]
            piece = min(size - self._within, length - start)
            if piece:
                pieces.append((offset + self._within, start, piece))
                start += piece
                self._within += piece
            if self._within >= size:
                self._extent += 1
                self._within = 0
        return pieces

    def finish(self, taken: int) -> None:
        """Raise IntegrityError unless exactly as many bytes were placed as the extents hold."""
        if taken != self.total:
            raise self.wrong()

    def wrong(self) -> IntegrityError:
        """The error for content of another length than the entry says."""
        return IntegrityError(
            f"The recovery point has another amount of data for {shown(self._entry.path)} than its size says."
        )
