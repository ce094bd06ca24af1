"""Which packs are worth repacking, as a function of what the index says of them: no storage, no clock, no keys."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import nsmallest

from trinity_snap.repository.manifest import CHUNK_ID_BYTES
from trinity_snap.repository.packs import Table

__all__ = [
    "DEFAULT_WISH",
    "MAXIMUM_CHUNKS",
    "Choice",
    "ChunkFilter",
    "PackUse",
    "RepackWish",
    "Uses",
    "choose",
    "ids_of",
    "use_of",
]

MAXIMUM_CHUNKS = 300_000
"""How many chunks, alive or dead, the packs of one call may hold: that many ids are in memory."""

_CANDIDATES = 50_000
_BITS_PER_CHUNK = 12
_PLACES = struct.Struct(">4Q")


@dataclass(frozen=True)
class RepackWish:
    """What the operator wants: at most so many bytes written, until at most that share of the data in packs is dead."""

    budget_bytes: int = 2 << 30
    unused: float = 0.1


DEFAULT_WISH = RepackWish()


class ChunkFilter:
    """The chunks that points need, in a size that ten million fit into (a Bloom filter).

    One that was added is always found; about one in two hundred that was not is, too, and then counts as alive.
    """

    def __init__(self, chunks: int) -> None:
        bits = max(chunks * _BITS_PER_CHUNK, 1024).bit_length()
        self._mask = (1 << bits) - 1
        self._bits = bytearray(1 << (bits - 3))

    def add(self, chunk_id: bytes) -> None:
        """Take one in. Ids are keyed hashes, so that their own bits will do."""
        for place in _PLACES.unpack(chunk_id):
            place &= self._mask
            self._bits[place >> 3] |= 1 << (place & 7)

    def __contains__(self, chunk_id: bytes) -> bool:
        for place in _PLACES.unpack(chunk_id):
            place &= self._mask
            if not self._bits[place >> 3] >> (place & 7) & 1:
                return False
        return True


@dataclass(frozen=True, slots=True)
class PackUse:
    """How many of the bytes of a pack's segments are alive and dead. Its header, table and padding are neither."""

    digest: bytes
    live_bytes: int
    dead_bytes: int
    chunks: int

    @property
    def share(self) -> float:
        """What part of it is alive."""
        return self.live_bytes / max(self.live_bytes + self.dead_bytes, 1)


@dataclass
class Choice:
    """What is to be repacked. `live_bytes` and `dead_bytes` are those of all packs that points need."""

    packs: list[PackUse] = field(default_factory=list)
    live_bytes: int = 0
    dead_bytes: int = 0

    @property
    def written_bytes(self) -> int:
        """What has to be stored anew, about."""
        return sum(use.live_bytes for use in self.packs)

    @property
    def freed_bytes(self) -> int:
        """What there is less of at the end, about."""
        return sum(use.dead_bytes for use in self.packs)


def ids_of(ids: bytes) -> Iterator[bytes]:
    """The chunk ids that lie end to end."""
    return (ids[at : at + CHUNK_ID_BYTES] for at in range(0, len(ids), CHUNK_ID_BYTES))


def use_of(digest: bytes, table: Table, alive: ChunkFilter) -> PackUse:
    """How much of a pack with that table is alive. A segment's bytes are shared out by the lengths of its chunks."""
    live_bytes = dead_bytes = chunks = 0
    for segment in table:
        chunks += len(segment.lengths)
        living = sum(length for one, length in zip(ids_of(segment.ids), segment.lengths, strict=True) if one in alive)
        part = segment.sealed_length * living // max(sum(segment.lengths), 1)
        live_bytes += part
        dead_bytes += segment.sealed_length - part
    return PackUse(digest, live_bytes, dead_bytes, chunks)


@dataclass
class Uses:
    """Of very many packs the sums, and those with the largest dead parts, these first."""

    live_bytes: int = 0
    dead_bytes: int = 0
    worst: list[PackUse] = field(default_factory=list)

    def take(self, uses: Iterable[PackUse]) -> None:
        """Take in all of them."""

        def counted() -> Iterator[PackUse]:
            for use in uses:
                self.live_bytes += use.live_bytes
                self.dead_bytes += use.dead_bytes
                if use.dead_bytes:
                    yield use

        self.worst = nsmallest(_CANDIDATES, counted(), key=lambda one: (one.share, one.digest))


def choose(uses: Uses, barred: Collection[bytes], wish: RepackWish) -> Choice:
    """The packs with the largest dead parts first, until little enough of all is dead, or the budget is spent.

    `barred` packs are not chosen, nor is one without anything dead.
    """
    choice = Choice([], uses.live_bytes, uses.dead_bytes)
    live, dead, chunks = choice.live_bytes, choice.dead_bytes, 0
    written = 0
    for use in uses.worst:
        if dead <= wish.unused * (live + dead):
            break
        if use.digest in barred:
            continue
        if written + use.live_bytes > wish.budget_bytes or chunks + use.chunks > MAXIMUM_CHUNKS:
            break
        choice.packs.append(use)
        written += use.live_bytes
        chunks += use.chunks
        dead -= use.dead_bytes
    return choice
