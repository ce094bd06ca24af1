"""Segments of a recovery point, read and decoded ahead of their use, and how a file's chunks lie in it."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from trinity_snap.errors import IntegrityError, ObjectMissing
from trinity_snap.repository.manifest import Entry
from trinity_snap.restore.directories import shown
from trinity_snap.restore.source import ChunkSource, PointSource, SegmentRead

__all__ = ["Layout", "SegmentStream", "chunk_lengths"]

_AHEAD_BYTES = 16 * 1024 * 1024
_AHEAD_SEGMENTS = 8
_GAP_BYTES = 512 * 1024
_LEAST_SPAN_BYTES = 1024 * 1024
_KEPT_BYTES = 24 * 1024 * 1024

Segment = bytes | memoryview
_Span = list[SegmentRead]
_Spanned = list[Segment | IntegrityError]


class SegmentStream:
    """Gives decoded segments in the order asked for, while worker threads fetch and decode the next ones.

    Where a request costs more than what it brings, neighbouring segments are fetched in one. Segments of which only a
    part was wanted are kept for a while, as their other chunks are likely to be wanted soon. Memory is bounded, whatever
    is read: some 16 MiB ahead, or one span for each request that may go on at once, and 24 MiB kept.
    """

    def __init__(self, source: PointSource) -> None:
        self._source = source
        self._span_bytes = source.read_ahead_bytes
        self._requests = source.parallel_gets
        self._ahead_spans = self._requests if self._span_bytes else _AHEAD_SEGMENTS
        self._ahead_bytes = self._requests * self._span_bytes if self._span_bytes else _AHEAD_BYTES
        self._pool = ThreadPoolExecutor(self._requests, thread_name_prefix="segments")
        self._kept: OrderedDict[tuple[str, int], Segment] = OrderedDict()
        self._kept_bytes = 0

    def read(self, reads: Sequence[SegmentRead]) -> Iterator[tuple[SegmentRead, Segment | IntegrityError]]:
        """Each segment, decoded, or why it cannot be read. Other errors of the storage are raised."""
        # Of a small restore, too, every request that may go on at once has its part.
        share = sum(read.length for read in reads) // self._requests
        self._span_bytes = min(self._source.read_ahead_bytes, max(share, _LEAST_SPAN_BYTES))
        waiting: deque[tuple[_Span, Future[_Spanned] | Segment]] = deque()
        ahead = 0
        position = 0
        try:
            while position < len(reads) or waiting:
                while position < len(reads) and (
                    not waiting or (ahead < self._ahead_bytes and len(waiting) < self._ahead_spans)
                ):
                    span = self._span(reads, position)
                    position += len(span)
                    ahead += _data_bytes(span)
                    kept = self._kept.pop((span[0].pack, span[0].offset), None)
                    if kept is not None:
                        self._kept_bytes -= len(kept)
                        waiting.append((span, kept))
                    else:
                        waiting.append((span, self._pool.submit(self._source.read_span, span)))
                span, spanned = waiting.popleft()
                yield from self._give(span, spanned)
                ahead -= _data_bytes(span)
        finally:
            for _, left in waiting:
                if isinstance(left, Future):
                    left.cancel()

    def _span(self, reads: Sequence[SegmentRead], position: int) -> _Span:
        """The reads from `position` on that are fetched in one request. One that is kept stands for itself."""
        first = reads[position]
        span = [first]
        if not self._span_bytes or (first.pack, first.offset) in self._kept:
            return span
        data = first.data_length
        for number in range(position + 1, len(reads)):
            read = reads[number]
            gap = read.offset - span[-1].offset - span[-1].length
            data += read.data_length
            if (
                read.pack != first.pack
                or not 0 <= gap <= _GAP_BYTES
                or read.offset + read.length - first.offset > self._span_bytes
                or data > 2 * self._span_bytes
                or (read.pack, read.offset) in self._kept
            ):
                break
            span.append(read)
        return span

    def _give(
        self, span: _Span, spanned: Future[_Spanned] | Segment
    ) -> Iterator[tuple[SegmentRead, Segment | IntegrityError]]:
        if isinstance(spanned, Future):
            try:
                segments = spanned.result()
            except (IntegrityError, ObjectMissing) as error:
                segments = [IntegrityError(str(error))] * len(span)
        else:
            segments = [spanned]
        for read, segment in zip(span, segments, strict=True):
            if not isinstance(segment, IntegrityError):
                self._keep(read, segment)
            yield read, segment

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


def _data_bytes(span: _Span) -> int:
    return sum(read.data_length for read in span)


def chunk_lengths(source: ChunkSource, ids: Iterable[bytes]) -> dict[bytes, int]:
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
