"""The reading side: the entries and the data of one recovery point, every byte checked."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from blake3 import blake3

from trinity_snap.errors import (
    ForeignRepository,
    IntegrityError,
    ObjectMissing,
    SessionDamaged,
    TargetError,
    WrongKey,
)
from trinity_snap.repository.keys import HostSecret
from trinity_snap.repository.manifest import (
    CHUNK_ID_BYTES,
    Entry,
    PageReference,
    decode_page,
    decode_root,
    is_below,
    pages_below,
    sort_key,
)
from trinity_snap.repository.packs import (
    TRAILER_BYTES,
    PackOpener,
    Table,
    pack_name,
    table_length,
)
from trinity_snap.repository.points import PackReference, RecoveryPoint, Volume
from trinity_snap.repository.sealed import HEADER_BYTES, PACK_MAGIC, Header, parse_header
from trinity_snap.repository.spares import SparePack, Spares
from trinity_snap.repository.tables import tables_from_index
from trinity_snap.targets.protocol import Target

__all__ = [
    "OpenedPack",
    "PointKeys",
    "PointReader",
    "SegmentRead",
    "SessionKeys",
    "blame",
    "open_as_spare",
    "open_pack",
]

_TAIL_BYTES = 64 * 1024
_CACHE_BYTES = 24 * 1024 * 1024
_TABLE_READERS = 8
_HEADER_WITHIN_BYTES = 1 << 20


@dataclass(frozen=True)
class SegmentRead:
    """One segment to read: where it lies, and the wanted chunks in it as (id, start, length) within its data."""

    pack: str
    offset: int
    length: int
    number: int
    data_length: int
    chunks: list[tuple[bytes, int, int]]


class PointKeys(Protocol):
    """What opens the packs of a point: all that a reader has to know of keys."""

    @property
    def chunk_id_key(self) -> bytes:
        """The key of the keyed hash that names chunks."""

    def opener(self, name: str, read_header: Callable[[], bytes | memoryview]) -> PackOpener:
        """What opens the pack `name`. `read_header` gives its first 72 bytes, for who needs them.

        Raise IntegrityError or ForeignRepository if the pack cannot be one of this repository.
        """

    def tables(self, target: Target, wanted: Mapping[bytes, int], *, at_any_price: bool = False) -> dict[bytes, Table]:
        """Tables of packs (digest to length) that are known or had from elsewhere than the packs; of none, perhaps.

        `at_any_price`: however much that costs, as the packs' own are lost.
        """


@dataclass(frozen=True)
class SessionKeys:
    """The keys of who can open the sessions of a repository."""

    host: HostSecret = field(repr=False)
    session_key_of: Callable[[bytes], bytes] = field(repr=False)

    @property
    def chunk_id_key(self) -> bytes:
        """The host's."""
        return self.host.chunk_id_key

    def opener(self, name: str, read_header: Callable[[], bytes | memoryview]) -> PackOpener:
        """From the session that the pack's header names."""
        return PackOpener(*self.header_and_key(name, read_header()), name)

    def header_and_key(self, name: str, raw_header: bytes | memoryview) -> tuple[Header, bytes]:
        """The header of a pack that a point needs, and the session key that it is under.

        Raise IntegrityError, also if it says that it is another repository's, or of a session that is not sealed to us: a
        header that was altered may say that, and it must not keep anybody from the other packs.
        """
        try:
            header = parse_header(raw_header, PACK_MAGIC, self.host.repository_id, name)
            return header, self.session_key_of(header.session_id)
        except (ForeignRepository, WrongKey) as error:
            raise IntegrityError(f"{name} cannot be opened: {error}") from error

    def tables(self, target: Target, wanted: Mapping[bytes, int], *, at_any_price: bool = False) -> dict[bytes, Table]:
        """Those of the index."""
        return tables_from_index(target, self.host, wanted, at_any_price=at_any_price)


@dataclass(frozen=True)
class OpenedPack:
    """What the table of a pack says, and what opens its segments."""

    name: str
    opener: PackOpener
    table: Table
    length: int


def open_pack(target: Target, keys: PointKeys, digest: str, length: int) -> OpenedPack:
    """Read and check the table of the pack with that SHA-256 in hex and that length in bytes.

    Raise IntegrityError if it is missing, has another length, or is damaged.
    """
    name = pack_name(digest)
    try:
        tail = _range_of_pack(target, name, length, max(0, length - _TAIL_BYTES), min(length, _TAIL_BYTES))
        opener = keys.opener(name, lambda: tail if length <= _TAIL_BYTES else target.get_range(name, 0, HEADER_BYTES))
        sealed_length = table_length(tail[-TRAILER_BYTES:], length, name)
        end = length - TRAILER_BYTES
        if sealed_length + TRAILER_BYTES <= len(tail):
            sealed = tail[-TRAILER_BYTES - sealed_length : -TRAILER_BYTES]
        else:
            sealed = target.get_range(name, end - sealed_length, sealed_length)
    except ObjectMissing as error:
        raise IntegrityError(f"{name} is missing from the repository.") from error
    return OpenedPack(name, opener, opener.open_table(sealed, length), length)


def open_as_spare(target: Target, keys: PointKeys, digest: str, length: int) -> SparePack:
    """The same, for who reads from it what other packs have lost."""
    opened = open_pack(target, keys, digest, length)
    return SparePack(opened.name, opened.length, opened.table, opened.opener)


def blame(name: str, error: IntegrityError) -> tuple[str, str]:
    """What is to blame that the pack `name` cannot be opened, and why: the pack, or the session that its key is in."""
    return (error.name, error.reason) if isinstance(error, SessionDamaged) else (name, str(error))


def _range_of_pack(target: Target, name: str, pack_bytes: int, offset: int, length: int) -> bytes:
    """A range of a pack that was stored with `pack_bytes` bytes. Raise IntegrityError if it has another length now.

    That is asked only when the range cannot be had, as it is a request more; a pack that is too long does not end like one.
    """
    try:
        return target.get_range(name, offset, length)
    except TargetError as error:
        if not error.transient and target.stat(name).size != pack_bytes:
            raise IntegrityError(f"{name} does not have the length that it was stored with.") from error
        raise


@dataclass(frozen=True)
class _PlacedPack:
    """A pack whose table is known."""

    name: str
    length: int
    table: Table


class PointReader:
    """Reads one recovery point. All methods may be called from several threads.

    At a remote target the tables of packs come from the index where that is quicker; that of a pack whose own is lost
    does at every target. Unless `tables_from_packs`: then every pack is looked into before anything is read, and only
    what it says itself counts. What its packs have lost comes from other packs, if `spares` knows any.
    """

    def __init__(
        self,
        target: Target,
        keys: PointKeys,
        point: RecoveryPoint,
        *,
        tables_from_packs: bool = False,
        spares: Spares | None = None,
    ) -> None:
        self.point = point
        self._spares = spares
        self._tables_from_packs = tables_from_packs
        self._target = target
        self._keys = keys
        self._chunk_key = keys.chunk_id_key
        self._lock = threading.Lock()
        self._packs: list[_PlacedPack] | None = None
        self._lengths: dict[str, int] = {}
        self._openers: dict[str, PackOpener] = {}
        self._offsets: list[list[int]] = []
        self._places: dict[bytes, int] = {}
        self._damaged: dict[str, IntegrityError] = {}
        self._roots: dict[bytes, list[PageReference]] = {}
        self._cache: OrderedDict[tuple[str, int], bytes | memoryview] = OrderedDict()
        self._cache_bytes = 0

    # -- places -----------------------------------------------------------------------------------------------------

    def _load(self) -> list[_PlacedPack]:
        with self._lock:
            if self._packs is None:
                packs = self._find_tables()
                places = self._places
                for number, pack in enumerate(packs):
                    self._place(number, pack, places)
                self._packs = packs
                if self._damaged and self._spares is not None:
                    own = {bytes.fromhex(reference.name) for reference in self.point.pack_references()}
                    lost = [bytes.fromhex(name[-64:]) for name in self._damaged]
                    self._take_spares(self._spares.packs_for(lost, own))
            return self._packs

    def _place(self, number: int, pack: _PlacedPack, places: dict[bytes, int]) -> None:
        offset = HEADER_BYTES
        offsets = []
        for index, segment in enumerate(pack.table):
            offsets.append(offset)
            offset += segment.sealed_length
            place = number << 32 | index
            ids = segment.ids
            for start in range(0, len(ids), CHUNK_ID_BYTES):
                places[ids[start : start + CHUNK_ID_BYTES]] = place
        self._offsets.append(offsets)
        self._lengths[pack.name] = pack.length

    def _take_spares(self, spares: Iterable[SparePack]) -> None:
        """Take packs of other points in, for what the point's own packs do not hold. The lock is held."""
        assert self._packs is not None
        for spare in spares:
            if spare.name not in self._lengths:
                found: dict[bytes, int] = {}
                self._place(len(self._packs), (pack := _PlacedPack(spare.name, spare.length, spare.table)), found)
                self._packs.append(pack)
                self._openers[spare.name] = spare.opener
                self._places |= {one: place for one, place in found.items() if one not in self._places}

    def _find_tables(self) -> list[_PlacedPack]:
        references = self.point.pack_references()
        known: dict[bytes, Table] = {}
        if not self._tables_from_packs and self._target.read_ahead_bytes:
            wanted = {bytes.fromhex(reference.name): reference.length for reference in references}
            known = self._keys.tables(self._target, wanted)
        packs: list[_PlacedPack] = []
        others: list[PackReference] = []
        for reference in references:
            table = known.get(bytes.fromhex(reference.name))
            if table is None:
                others.append(reference)
            else:
                packs.append(_PlacedPack(pack_name(reference.name), reference.length, table))
        with ThreadPoolExecutor(_TABLE_READERS) as pool:
            for reference, opened in zip(others, pool.map(self._open_pack, others), strict=True):
                if isinstance(opened, IntegrityError):
                    self._damaged[pack_name(reference.name)] = opened
                else:
                    self._openers[opened.name] = opened.opener
                    packs.append(_PlacedPack(opened.name, opened.length, opened.table))
        # A chunk that is in two packs is read from the later of them.
        return packs if self._tables_from_packs else self._without_their_own(references) + packs

    def _without_their_own(self, references: Sequence[PackReference]) -> list[_PlacedPack]:
        """Packs that are there, and whose own table is lost, with the table that the index has of them."""
        wanted = {
            bytes.fromhex(reference.name): reference.length
            for reference in references
            if (error := self._damaged.get(pack_name(reference.name))) is not None
            and not isinstance(error, SessionDamaged)
            and not isinstance(error.__cause__, ObjectMissing)
        }
        if not wanted:
            return []
        tables = self._keys.tables(self._target, wanted, at_any_price=True)
        return [
            _PlacedPack(pack_name(digest.hex()), wanted[digest], table)
            for digest, table in sorted(tables.items(), key=lambda found: found[0])
        ]

    def _open_pack(self, reference: PackReference) -> OpenedPack | IntegrityError:
        try:
            return open_pack(self._target, self._keys, reference.name, reference.length)
        except IntegrityError as error:
            return error

    @property
    def damaged_packs(self) -> dict[str, str]:
        """Packs of the point that cannot be opened, and why; as far as their tables show it."""
        self._load()
        return {name: str(error) for name, error in self._damaged.items()}

    @property
    def damaged_objects(self) -> dict[str, str]:
        """What is missing or damaged of what the point needs, and why: packs, or sessions that their keys are in."""
        self._load()
        return dict(blame(name, error) for name, error in self._damaged.items())

    def has_chunk(self, chunk_id: bytes) -> bool:
        """Whether a pack of this point holds the chunk."""
        self._load()
        return chunk_id in self._places

    def pack_with(self, chunk_id: bytes) -> str | None:
        """The name of the pack that the chunk is read from, None if no pack of this point holds it."""
        packs = self._load()
        place = self._places.get(chunk_id)
        return None if place is None else packs[place >> 32].name

    def plan_reads(self, ids: Iterable[bytes]) -> list[SegmentRead]:
        """The segments that hold these chunks, each once, ordered by pack and place.

        Raise IntegrityError if no pack of the point holds one of them.
        """
        packs = self._load()
        ids = self._with_spares(ids)
        wanted: dict[int, set[bytes]] = {}
        for chunk_id in ids:
            place = self._places.get(chunk_id)
            if place is None:
                raise self._not_held(chunk_id)
            wanted.setdefault(place, set()).add(chunk_id)
        reads = []
        for place in sorted(wanted):
            pack, index = packs[place >> 32], place & 0xFFFFFFFF
            segment = pack.table[index]
            chunks = []
            start = 0
            here = wanted[place]
            for number, length in enumerate(segment.lengths):
                chunk_id = segment.ids[number * CHUNK_ID_BYTES : (number + 1) * CHUNK_ID_BYTES]
                if chunk_id in here:
                    chunks.append((chunk_id, start, length))
                start += length
            reads.append(
                SegmentRead(pack.name, self._offsets[place >> 32][index], segment.sealed_length, index, start, chunks)
            )
        return reads

    def _with_spares(self, ids: Iterable[bytes]) -> Iterable[bytes]:
        """Give back the ids; what none of the packs holds, because some are damaged, is looked for in other packs."""
        if self._spares is None or not self._damaged:
            return ids
        ids = list(ids)
        if missing := {chunk_id for chunk_id in ids if chunk_id not in self._places}:
            with self._lock:
                self._take_spares(self._spares.packs_with(missing))
        return ids

    def _not_held(self, chunk_id: bytes) -> IntegrityError:
        if self._damaged:
            names = ", ".join(sorted(self._damaged))
            return IntegrityError(
                f"Data of recovery point {self.point.id} cannot be read, because of: {names}.",
                next_step="Run `trinity-snap verify` to see what is affected; the rest can be restored with --path.",
            )
        return IntegrityError(
            f"Recovery point {self.point.id} names chunk {chunk_id.hex()[:16]}…, which none of its packs holds."
        )

    # -- data -------------------------------------------------------------------------------------------------------

    @property
    def chunk_key(self) -> bytes:
        """The key of the keyed hash that chunk ids are."""
        return self._chunk_key

    def chunk_id(self, data: bytes | memoryview) -> bytes:
        """The id that this data has in this repository."""
        return blake3(data, key=self._chunk_key).digest()

    def read_segment(self, read: SegmentRead) -> bytes | memoryview:
        """The data of a segment, opened and decompressed. The chunks in it are not compared with their ids yet."""
        (data,) = self.read_span([read])
        if isinstance(data, IntegrityError):
            raise data
        return data

    def read_span(self, reads: Sequence[SegmentRead]) -> list[bytes | memoryview | IntegrityError]:
        """The data of segments of one pack, in the order of their places, fetched in one piece with what lies between.

        A damaged segment gives its error, if other packs do not have what it held. Raise what the storage raises.
        """
        try:
            found = self._read_span(reads)
        except IntegrityError as error:
            found = [error] * len(reads)
        if self._spares is not None:
            for number, data in enumerate(found):
                if isinstance(data, IntegrityError):
                    found[number] = self._from_spares(reads[number]) or data
        return found

    def _from_spares(self, read: SegmentRead) -> bytes | None:
        assert self._spares is not None
        table = next(pack.table for pack in self._load() if pack.name == read.pack)
        return self._spares.fill(table, read.number, (read.pack,))

    def _read_span(self, reads: Sequence[SegmentRead]) -> list[bytes | memoryview | IntegrityError]:
        first, last = reads[0], reads[-1]
        pack, begin, end = first.pack, first.offset, last.offset + last.length
        opener = self._openers.get(pack)
        if opener is None and begin <= _HEADER_WITHIN_BYTES:
            begin = 0  # the header comes with it
        try:
            sealed = _range_of_pack(self._target, pack, self._lengths[pack], begin, end - begin)
            if opener is None:
                opener = self._opener(pack, sealed if not begin else self._target.get_range(pack, 0, HEADER_BYTES))
        except ObjectMissing as error:
            raise IntegrityError(f"{pack} is missing from the repository.") from error
        found: list[bytes | memoryview | IntegrityError] = []
        with memoryview(sealed) as view:
            for read in reads:
                start = read.offset - begin
                try:
                    with view[start : start + read.length] as one:
                        found.append(opener.open_segment(one, read.number, read.data_length))
                except IntegrityError as error:
                    found.append(error)
        return found

    def _opener(self, pack: str, raw_header: bytes) -> PackOpener:
        opener = self._openers[pack] = self._keys.opener(pack, lambda: raw_header)
        return opener

    @property
    def parallel_gets(self) -> int:
        """How many spans are best read at once."""
        return self._target.parallel_gets

    @property
    def read_ahead_bytes(self) -> int:
        """How long a span may be; 0: one segment each."""
        return self._target.read_ahead_bytes

    def _cached_segment(self, read: SegmentRead) -> bytes | memoryview:
        key = (read.pack, read.number)
        with self._lock:
            found = self._cache.get(key)
            if found is not None:
                self._cache.move_to_end(key)
                return found
        data = self.read_segment(read)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = data
                self._cache_bytes += len(data)
                while self._cache_bytes > _CACHE_BYTES and len(self._cache) > 1:
                    _, old = self._cache.popitem(last=False)
                    self._cache_bytes -= len(old)
        return data

    def chunk(self, chunk_id: bytes) -> memoryview:
        """One chunk. Raise IntegrityError if it is not held, or not what its id says."""
        (read,) = self.plan_reads((chunk_id,))
        return self._checked(chunk_id, self._cached_segment(read), *read.chunks[0][1:], read.pack)

    def chunks(self, ids: Iterable[bytes]) -> Iterator[tuple[bytes, memoryview]]:
        """Chunks in the order asked for, each with its id. Raise IntegrityError as `chunk` does."""
        for chunk_id in ids:
            yield chunk_id, self.chunk(chunk_id)

    def _checked(self, chunk_id: bytes, data: bytes | memoryview, start: int, length: int, pack: str) -> memoryview:
        view = memoryview(data)[start : start + length]
        if blake3(view, key=self._chunk_key).digest() != chunk_id:
            raise IntegrityError(f"A chunk in {pack} is not what its id says.")
        return view

    # -- manifest ---------------------------------------------------------------------------------------------------

    def pages(self, volume: Volume) -> list[PageReference]:
        """The pages of a volume's manifest."""
        pages = self._roots.get(volume.root)
        if pages is None:
            data = self.chunk(volume.root)
            if len(data) != volume.root_length:
                raise IntegrityError(f"The manifest root of {volume.name} has another length than its point says.")
            pages = self._roots[volume.root] = decode_root(data)
        return pages

    def page(self, reference: PageReference) -> list[Entry]:
        """The entries of one page. Raise IntegrityError if it is not what the root says, or out of order."""
        data = self.chunk(reference.page_id)
        entries = decode_page(data)
        if len(data) != reference.length or len(entries) != reference.entries:
            raise IntegrityError("A manifest page has another length than its root says.")
        previous: bytes | None = None
        for entry in entries:
            key = sort_key(entry.path)
            if previous is not None and key <= previous:
                raise IntegrityError(f"A manifest page is out of order at {entry.path!r}.")
            previous = key
        if not entries or entries[0].path != reference.first_path:
            raise IntegrityError("A manifest page does not begin where its root says.")
        return entries

    def entries(self, volume: Volume, under: bytes = b"") -> Iterator[Entry]:
        """The entries of a volume in order; only `under` and what is inside it, if given.

        Reads only the pages needed.
        """
        previous: bytes | None = None
        for reference in pages_below(self.pages(volume), under):
            for entry in self.page(reference):
                if previous is not None and (key := sort_key(entry.path)) <= previous:
                    raise IntegrityError(f"The manifest of {volume.name} is out of order at {entry.path!r} ({key!r}).")
                if not under or is_below(entry.path, under):
                    yield entry
            previous = sort_key(entry.path)

    def entry(self, volume: Volume, path: bytes) -> Entry | None:
        """The entry at `path`, or None."""
        for entry in self.entries(volume, path):
            if entry.path == path:
                return entry
            return None
        return None

    def children(self, volume: Volume, path: bytes) -> Iterator[Entry]:
        """The entries directly in the directory `path`."""
        prefix = len(path) + 1 if path else 0
        for entry in self.entries(volume, path):
            if entry.path != path and b"/" not in entry.path[prefix:]:
                yield entry
