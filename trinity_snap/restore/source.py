"""What a restore reads from: the part of `repository.PointReader` that it needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from trinity_snap.errors import IntegrityError
from trinity_snap.repository.manifest import Entry
from trinity_snap.repository.points import RecoveryPoint, Volume
from trinity_snap.repository.reader import SegmentRead

__all__ = ["ChunkSource", "PointSource", "Repository", "SegmentRead"]


class ChunkSource(Protocol):
    """Knows of chunks what it takes to compare a file with its entry."""

    def plan_reads(self, ids: Iterable[bytes]) -> Sequence[SegmentRead]:
        """The segments that hold these chunks, each once. Raise IntegrityError if one is in none."""

    def chunk_id(self, data: bytes | memoryview) -> bytes:
        """The id that these bytes have."""


class PointSource(Protocol):
    """Reads the entries and chunks of one recovery point. Nothing that it returns is trusted."""

    def entries(self, volume: Volume, under: bytes = b"") -> Iterator[Entry]:
        """The entries of a volume in manifest order: the whole subtree of `under`, itself included."""

    def entry(self, volume: Volume, path: bytes) -> Entry | None:
        """The entry at `path`, or None."""

    def plan_reads(self, ids: Iterable[bytes]) -> Sequence[SegmentRead]:
        """The segments that hold these chunks, each once, ordered by pack and place. Raise IntegrityError if one is in none."""

    @property
    def parallel_gets(self) -> int:
        """How many spans are best read at once."""

    @property
    def read_ahead_bytes(self) -> int:
        """How long a span may be; 0: one segment each."""

    def read_span(self, reads: Sequence[SegmentRead]) -> list[bytes | memoryview | IntegrityError]:
        """The decoded segments of one pack, fetched in one piece, or why one is damaged. Safe to call from several threads.

        Their chunks are not compared with their ids yet.
        """

    def chunk_id(self, data: bytes | memoryview) -> bytes:
        """The id that these bytes have."""

    @property
    def chunk_key(self) -> bytes:
        """The key of the keyed hash that ids are."""


class Repository(Protocol):
    """Gives readers of recovery points."""

    def reader(self, point: RecoveryPoint) -> PointSource:
        """The reader of a point."""
