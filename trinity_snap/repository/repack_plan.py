"""Which packs are worth repacking, as a function of what the index says of them: no storage, no clock, no keys."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappush, heappushpop, nsmallest

from trinity_snap.repository.manifest import CHUNK_ID_BYTES
from trinity_snap.repository.packs import Table

__all__ = [
    "DEFAULT_WISH",
    "MAXIMUM_CHUNKS",
    "SMALL_BYTES",
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

SMALL_BYTES = 4 << 20
"""A pack with less data than this is small: a run makes packs of 16 MiB where it has that much to store."""

_CANDIDATES = 50_000
_MERGED = 5_000
_WORTH_MERGING = 8
_BITS_PER_CHUNK = 12
_PLACES = struct.Struct(">4Q")

Digest = bytes  # a structure below has a property called `bytes`


@dataclass(frozen=True)
class RepackWish:
    """What the operator wants: at most so many bytes written, until at most that share of the data in packs is dead.

    `share`: no larger a part of the data is in packs that are repacked in one call, be it one pack; for a day or two the old
    ones are there as well. `small_packs`: if there are more of them, they are merged; 0: never.
    """

    budget_bytes: int = 2 << 30
    unused: float = 0.1
    share: float = 1.0
    small_packs: int = 0


DEFAULT_WISH = RepackWish(share=0.25, small_packs=200)


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

    digest: Digest
    live_bytes: int
    dead_bytes: int
    chunks: int

    @property
    def bytes(self) -> int:
        """All of them."""
        return self.live_bytes + self.dead_bytes

    @property
    def share(self) -> float:
        """What part of it is alive."""
        return self.live_bytes / max(self.bytes, 1)


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
    """Of very many packs the sums, and those with the largest dead parts, these first; how many are small, and the smallest."""

    live_bytes: int = 0
    dead_bytes: int = 0
    small_packs: int = 0
    worst: list[PackUse] = field(default_factory=list)
    smallest: list[PackUse] = field(default_factory=list)

    def take(self, uses: Iterable[PackUse]) -> None:
        """Take in all of them."""
        small: list[tuple[int, Digest, PackUse]] = []  # the largest first

        def counted() -> Iterator[PackUse]:
            for use in uses:
                self.live_bytes += use.live_bytes
                self.dead_bytes += use.dead_bytes
                if use.bytes < SMALL_BYTES:
                    self.small_packs += 1
                    (heappush if len(small) < _MERGED else heappushpop)(small, (-use.bytes, use.digest, use))
                if use.dead_bytes:
                    yield use

        self.worst = nsmallest(_CANDIDATES, counted(), key=lambda one: (one.share, one.digest))
        self.smallest = [use for _, _, use in sorted(small, reverse=True)]


def choose(uses: Uses, barred: Collection[bytes], wish: RepackWish) -> Choice:
    """The packs with the largest dead parts first, until little enough of all is dead, or the budget is spent.

    If there are too many small ones, the smallest follow. `barred` packs are not chosen.
    """
    choice = Choice([], uses.live_bytes, uses.dead_bytes)
    live, dead = choice.live_bytes, choice.dead_bytes
    room = _Room(wish.budget_bytes, wish.share * (live + dead))
    for use in uses.worst:
        if dead <= wish.unused * (live + dead):
            break
        if use.digest not in barred and room.take(use):
            choice.packs.append(use)
            dead -= use.dead_bytes
    chosen = {use.digest for use in choice.packs}
    small = uses.small_packs - sum(use.bytes < SMALL_BYTES for use in choice.packs)
    if 0 < wish.small_packs < small:
        others = (use for use in uses.smallest if use.digest not in chosen and use.digest not in barred)
        merged = [use for use in others if room.take(use)]
        choice.packs += merged if len(merged) >= _WORTH_MERGING else []
    return choice


@dataclass
class _Room:
    """What may still be repacked. One pack that is larger than the share goes alone."""

    budget_bytes: int
    share_bytes: float
    is_empty: bool = True
    chunks: int = MAXIMUM_CHUNKS

    def take(self, use: PackUse) -> bool:
        """Whether there was room for it."""
        fits = use.bytes <= self.share_bytes or self.is_empty
        if not fits or use.live_bytes > self.budget_bytes or use.chunks > self.chunks:
            return False
        self.budget_bytes -= use.live_bytes
        self.share_bytes -= use.bytes
        self.chunks -= use.chunks
        self.is_empty = False
        return True
