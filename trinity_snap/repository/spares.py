"""Chunks of packs that are lost, found again in other packs of the repository (docs/format.md section 16).

The index says which packs hold a chunk, and nothing that it says is trusted: the table of a pack that is to help is its own,
and a chunk counts only if it is what its id says.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from blake3 import blake3

from trinity_snap.errors import ForeignRepository, IntegrityError, ObjectMissing, TargetDenied, TargetError
from trinity_snap.repository.keys import HostSecret
from trinity_snap.repository.manifest import CHUNK_ID_BYTES
from trinity_snap.repository.packs import PackOpener, Table, pack_name
from trinity_snap.repository.sealed import HEADER_BYTES
from trinity_snap.targets.protocol import Target

__all__ = ["PackOfIndex", "SparePack", "Spares", "chunk_ids", "indexed_packs", "spares_of"]

_OPENED = 64


@dataclass(frozen=True)
class PackOfIndex:
    """What one object of the index says of one pack."""

    digest: bytes
    length: int
    table: Table


@dataclass(frozen=True)
class SparePack:
    """A pack that holds chunks of a lost one, with its own table."""

    name: str
    length: int
    table: Table
    opener: PackOpener


def chunk_ids(table: Table) -> Iterator[bytes]:
    """The ids of all chunks in a table."""
    for segment in table:
        for start in range(0, len(segment.ids), CHUNK_ID_BYTES):
            yield segment.ids[start : start + CHUNK_ID_BYTES]


def indexed_packs(target: Target, host: HostSecret) -> Iterator[PackOfIndex]:
    """All that the index says, one object at a time; what is damaged is passed over. Raise TargetError."""
    from trinity_snap.repository.session import read_index

    def read(name: str) -> list[PackOfIndex]:
        try:
            return [
                PackOfIndex(pack.digest, pack.length, pack.table) for pack in read_index(target.get(name), host, name)
            ]
        except (IntegrityError, ForeignRepository, ObjectMissing):
            return []

    names = sorted(target.list_prefix("index/"))
    with ThreadPoolExecutor(target.parallel_gets, thread_name_prefix="spares") as pool:
        for start in range(0, len(names), _OPENED):
            for packs in pool.map(read, names[start : start + _OPENED]):
                yield from packs


def spares_of(target: Target, host: HostSecret, open_pack: Callable[[str, int], SparePack]) -> Spares:
    """What finds them in a whole repository, by its index."""
    return Spares(
        target,
        host.chunk_id_key,
        open_pack,
        lambda: indexed_packs(target, host),
        lambda: {bytes.fromhex(name[-64:]) for name in target.list_prefix("packs/")},
    )


class Spares:
    """Finds chunks of lost packs in others. Safe to use from several threads; asks the index only when it has to.

    `known` gives what the index says, or whatever is known in its place, of packs that may no longer be there; `existing` those
    that are (SHA-256). `open_pack` gives the table and the opener of the pack with a SHA-256 in hex and a length, or raises
    IntegrityError.
    """

    def __init__(
        self,
        target: Target,
        chunk_id_key: bytes,
        open_pack: Callable[[str, int], SparePack],
        known: Callable[[], Iterable[PackOfIndex]],
        existing: Callable[[], set[bytes]],
    ) -> None:
        self._target = target
        self._chunk_id_key = chunk_id_key
        self._open = open_pack
        self._known = known
        self._list_existing = existing
        self._lock = threading.RLock()
        self._asked: set[bytes] = set()
        self._expanded: set[bytes] = set()
        self._holders: dict[bytes, list[tuple[bytes, int]]] = {}
        self._packs: dict[bytes, SparePack | None] = {}
        self._existing: set[bytes] | None = None

    def look_for(self, ids: Iterable[bytes], lost: Collection[bytes] = ()) -> None:
        """Learn which packs hold these chunks, and all others that the packs `lost` (SHA-256) hold as the index has it."""
        with self._lock, suppress(TargetDenied):
            self._look_for(set(ids) - self._asked, set(lost) - self._expanded)

    def _look_for(self, wanted: set[bytes], lost: set[bytes]) -> None:
        if lost:
            self._expanded |= lost
            for pack in self._known():
                if pack.digest in lost:
                    wanted.update(one for one in chunk_ids(pack.table) if one not in self._asked)
        if not wanted:
            return
        self._asked |= wanted
        for pack in self._known():
            if pack.digest in self._there():
                for chunk_id in wanted.intersection(chunk_ids(pack.table)):
                    holders = self._holders.setdefault(chunk_id, [])
                    if (pack.digest, pack.length) not in holders:
                        holders.append((pack.digest, pack.length))

    def packs_for(self, lost: Collection[bytes], besides: Collection[bytes]) -> list[SparePack]:
        """The packs, other than `besides`, that hold chunks of the packs `lost`, with their own tables."""
        with self._lock:
            self.look_for((), lost)
            digests = {holder for holders in self._holders.values() for holder in holders}
            found = [self._pack(*one) for one in sorted(digests) if one[0] not in besides and one[0] not in lost]
            return [pack for pack in found if pack is not None]

    def packs_with(self, ids: Collection[bytes]) -> list[SparePack]:
        """The packs that hold these chunks, as far as the index knows."""
        with self._lock:
            self.look_for(ids)
            digests = {holder for chunk_id in ids for holder in self._holders.get(chunk_id, ())}
            return [pack for one in sorted(digests) if (pack := self._pack(*one)) is not None]

    def chunk(self, chunk_id: bytes, length: int, besides: Collection[str] = ()) -> bytes | None:
        """The chunk of that id and length from any pack that has it whole, but those named `besides`; None if none has."""
        with self._lock:
            self.look_for((chunk_id,))
            for holder in self._holders.get(chunk_id, ()):
                if pack_name(holder[0].hex()) in besides or (pack := self._pack(*holder)) is None:
                    continue
                data = self._read(pack, chunk_id)
                if data is not None and len(data) == length:
                    return data
        return None

    def fill(self, table: Table, number: int, besides: Collection[str]) -> bytes | None:
        """The data of segment `number` of a lost pack, put together again; zeros where a chunk is nowhere. None if all are."""
        segment = table[number]
        ids = list(chunk_ids([segment]))
        with self._lock:
            self.look_for(chunk_ids(table))
        parts = [self.chunk(one, length, besides) for one, length in zip(ids, segment.lengths, strict=True)]
        if not any(part is not None for part in parts):
            return None
        return b"".join(
            bytes(length) if part is None else part for part, length in zip(parts, segment.lengths, strict=True)
        )

    def _there(self) -> set[bytes]:
        if self._existing is None:
            self._existing = self._list_existing()
        return self._existing

    def _pack(self, digest: bytes, length: int) -> SparePack | None:
        if digest not in self._packs:
            try:
                self._packs[digest] = self._open(digest.hex(), length)
            except (IntegrityError, ObjectMissing):
                self._packs[digest] = None
        return self._packs[digest]

    def _read(self, pack: SparePack, chunk_id: bytes) -> bytes | None:
        offset = HEADER_BYTES
        for number, segment in enumerate(pack.table):
            start = _start_in(segment.ids, segment.lengths, chunk_id)
            if start is not None:
                try:
                    sealed = self._target.get_range(pack.name, offset, segment.sealed_length)
                    data = memoryview(pack.opener.open_segment(sealed, number, segment.length))
                except (IntegrityError, TargetError):
                    return None
                place, length = start
                found = bytes(data[place : place + length])
                return found if blake3(found, key=self._chunk_id_key).digest() == chunk_id else None
            offset += segment.sealed_length
        return None


def _start_in(ids: bytes, lengths: Sequence[int], chunk_id: bytes) -> tuple[int, int] | None:
    """Where a chunk begins in its segment, and its length; None if it is in another one."""
    at = ids.find(chunk_id)
    while at >= 0 and at % CHUNK_ID_BYTES:
        at = ids.find(chunk_id, at + 1)
    if at < 0:
        return None
    number = at // CHUNK_ID_BYTES
    return sum(lengths[:number]), lengths[number]
