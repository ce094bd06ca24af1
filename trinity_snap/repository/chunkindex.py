"""The host's own index of chunks: which pack holds which chunk. A cache; it can be rebuilt from `index/` at any time.

It lies in sorted runs of fixed-size records, searched in place through the page cache, so that its size in memory
does not follow the size of the repository. Every file carries a checksum: a damaged cache is thrown away, because a
chunk believed to be stored and not stored would be a hole in a recovery point.
"""

from __future__ import annotations

import heapq
import mmap
import os
import struct
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import blake3
import msgspec

from trinity_snap.durable import write_file_durably
from trinity_snap.repository.manifest import CHUNK_ID_BYTES
from trinity_snap.repository.packs import Table

__all__ = ["ChunkIndex"]

_MAGIC = b"TSNAPCI\x01"
_RECORD_BYTES = CHUNK_ID_BYTES + 4
_HEADER = struct.Struct(">8sQBx6x32s")  # magic, records, fan-out bits, checksum of what follows
_SPILL_RECORDS = 131_072
_MERGE_RATIO = 4
_STATE = "state"


class _State(msgspec.Struct):
    """What the cache is made of: index objects already taken in, pack references by ordinal, and the run files."""

    ingested: list[str]
    packs: list[tuple[bytes, int]]
    runs: list[str]


class _Run:
    """One sorted file of records."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        magic, self.count, bits, checksum = _HEADER.unpack_from(self._map)
        with memoryview(self._map) as view:
            body = view[_HEADER.size :]
            good = magic == _MAGIC and blake3.blake3(body).digest() == checksum
            body.release()
            if not good:
                raise ValueError(f"{path.name} is damaged")
            fan = view[_HEADER.size : _HEADER.size + 4 * ((1 << bits) + 1)]
            self._fan = array("I", fan.tobytes())
            fan.release()
        self._shift = 32 - bits
        self._start = _HEADER.size + 4 * len(self._fan)
        self.path = path

    def find(self, chunk_id: bytes) -> int:
        """The ordinal of the chunk's pack, or -1."""
        bucket = int.from_bytes(chunk_id[:4], "big") >> self._shift
        low = self._start + self._fan[bucket] * _RECORD_BYTES
        high = self._start + self._fan[bucket + 1] * _RECORD_BYTES
        while (at := self._map.find(chunk_id, low, high)) >= 0:
            if (at - self._start) % _RECORD_BYTES == 0:
                return int.from_bytes(self._map[at + CHUNK_ID_BYTES : at + _RECORD_BYTES], "big")
            low = at + 1
        return -1

    def records(self) -> Iterator[bytes]:
        """All records, sorted."""
        for at in range(self._start, self._start + self.count * _RECORD_BYTES, _RECORD_BYTES):
            yield self._map[at : at + _RECORD_BYTES]

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()


def _write_run(path: Path, records: Iterable[bytes], expected: int) -> None:
    bits = max(0, min(16, (expected // 16).bit_length()))
    counts = array("I", bytes(4 * (1 << bits)))
    shift = 32 - bits
    body = bytearray()
    previous = b""
    for record in records:
        if record[:CHUNK_ID_BYTES] == previous:
            continue
        previous = record[:CHUNK_ID_BYTES]
        counts[int.from_bytes(record[:4], "big") >> shift] += 1
        body += record
    fan = array("I", [0])
    for count in counts:
        fan.append(fan[-1] + count)
    hasher = blake3.blake3(fan.tobytes())
    hasher.update(body)
    header = _HEADER.pack(_MAGIC, fan[-1], bits, hasher.digest())
    write_file_durably(path, b"".join((header, fan.tobytes(), body)), mode=0o600)


class ChunkIndex:
    """Chunk ids to packs, for one repository. Not for use from several threads at once, except `is_known` by readers.

    `known` says whether a chunk is stored in a pack that exists; `expect` notes one that is on its way; `learn` takes
    in the table of a pack once it is stored.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._state = _State([], [], [])
        self._runs: list[_Run] = []
        self._alive: list[bool] = []
        self._ordinals: dict[bytes, int] = {}
        self._recent: dict[bytes, int] = {}  # chunk id -> pack ordinal, or -1 while it is on its way
        self.discarded = False
        self._load()

    def _load(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._directory / _STATE
        try:
            raw = path.read_bytes()
            if blake3.blake3(raw[32:]).digest() != raw[:32]:
                raise ValueError("state is damaged")
            self._state = msgspec.msgpack.decode(raw[32:], type=_State)
            self._runs = [_Run(self._directory / name) for name in self._state.runs]
        except FileNotFoundError:
            self._forget(path.exists())
        except (ValueError, OSError, struct.error, msgspec.DecodeError):
            self._forget(True)
        self._ordinals = {digest: number for number, (digest, _) in enumerate(self._state.packs)}
        self._alive = [False] * len(self._state.packs)

    def _forget(self, damaged: bool) -> None:
        self._state, self._runs, self.discarded = _State([], [], []), [], damaged
        for entry in self._directory.iterdir():
            if entry.is_file():
                entry.unlink()

    def set_alive(self, digests: Iterable[bytes]) -> None:
        """Say which packs exist (and are not condemned). Chunks of all others count as unknown."""
        alive = set(digests)
        self._alive = [digest in alive for digest, _ in self._state.packs]
        self._forget_dead()

    def condemn(self, digests: Iterable[bytes]) -> None:
        """Say that these packs may no longer be relied on. Chunks that only they hold count as unknown."""
        ordinals = [ordinal for digest in digests if (ordinal := self.ordinal_of(digest)) >= 0]
        for ordinal in ordinals:
            self._alive[ordinal] = False
        if ordinals:
            self._forget_dead()

    def _forget_dead(self) -> None:
        recent = self._recent
        self._recent = {one: ordinal for one, ordinal in recent.items() if ordinal < 0 or self._alive[ordinal]}

    def is_alive(self, ordinal: int) -> bool:
        """Whether the pack with that ordinal exists and may be relied on; false for -1."""
        return ordinal >= 0 and self._alive[ordinal]

    @property
    def ingested(self) -> frozenset[str]:
        """Names of the index objects already taken in."""
        return frozenset(self._state.ingested)

    def note_ingested(self, name: str) -> None:
        """Remember that the index object `name` has been taken in."""
        self._state.ingested.append(name)

    def known(self, chunk_id: bytes) -> bool:
        """Whether the chunk is stored, or on its way."""
        return chunk_id in self._recent or self._find(chunk_id) >= 0

    def expect(self, chunk_id: bytes) -> None:
        """The chunk is on its way; it counts as known."""
        self._recent[chunk_id] = -1

    def learn(self, digest: bytes, length: int, table: Table, *, alive: bool = True) -> None:
        """Take in the table of a stored pack."""
        ordinal = self._ordinals.get(digest)
        if ordinal is None:
            ordinal = self._ordinals[digest] = len(self._state.packs)
            self._state.packs.append((digest, length))
            self._alive.append(alive)
        else:
            self._alive[ordinal] = alive
        if not alive:
            return
        recent = self._recent
        for segment in table:
            ids = segment.ids
            for start in range(0, len(ids), CHUNK_ID_BYTES):
                recent[ids[start : start + CHUNK_ID_BYTES]] = ordinal
        if len(recent) >= _SPILL_RECORDS:
            self._spill()

    def pack_of(self, chunk_id: bytes) -> int:
        """The ordinal of a pack that exists and holds the chunk, or -1."""
        ordinal = self._recent.get(chunk_id, -1)
        return ordinal if ordinal >= 0 and self._alive[ordinal] else self._find(chunk_id)

    def pack_reference(self, ordinal: int) -> tuple[bytes, int]:
        """SHA-256 and length of the pack with that ordinal."""
        return self._state.packs[ordinal]

    def ordinal_of(self, digest: bytes) -> int:
        """The ordinal of a pack that exists, or -1."""
        ordinal = self._ordinals.get(digest, -1)
        return ordinal if ordinal >= 0 and self._alive[ordinal] else -1

    def _find(self, chunk_id: bytes) -> int:
        for run in self._runs:
            ordinal = run.find(chunk_id)
            if ordinal >= 0 and ordinal < len(self._alive) and self._alive[ordinal]:
                return ordinal
        return -1

    def _spill(self) -> None:
        settled = [
            chunk_id + ordinal.to_bytes(4, "big")
            for chunk_id, ordinal in self._recent.items()
            if ordinal >= 0 and self._alive[ordinal]
        ]
        if settled:
            settled.sort()
            self._runs.append(self._new_run(settled, len(settled)))
        # Forgotten only after they are on disk: a disk that is full here must not make the index poorer.
        self._recent = {chunk_id: ordinal for chunk_id, ordinal in self._recent.items() if ordinal < 0}
        while len(self._runs) > 1 and self._runs[-2].count < _MERGE_RATIO * self._runs[-1].count:
            before, last = self._runs[-2:]
            merged = filter(self._is_alive, heapq.merge(before.records(), last.records()))
            self._runs[-2:] = [self._new_run(merged, last.count + before.count)]
            for run in (last, before):
                run.close()

    def _is_alive(self, record: bytes) -> bool:
        return self._alive[int.from_bytes(record[CHUNK_ID_BYTES:], "big")]

    def _new_run(self, records: Iterable[bytes], expected: int) -> _Run:
        path = self._directory / f"{os.urandom(8).hex()}.run"
        _write_run(path, records, expected)
        return _Run(path)

    def save(self) -> None:
        """Make what has been learnt durable. Chunks still on their way are left out."""
        self._spill()
        self._state.runs = [run.path.name for run in self._runs]
        document = msgspec.msgpack.encode(self._state)
        write_file_durably(self._directory / _STATE, blake3.blake3(document).digest() + document, mode=0o600)
        keep = {*self._state.runs, _STATE}
        for entry in self._directory.iterdir():
            if entry.is_file() and entry.name not in keep:
                entry.unlink()

    def close(self) -> None:
        """Let go of all files."""
        for run in self._runs:
            run.close()
        self._runs = []
