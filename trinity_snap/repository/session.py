"""The writing side of a repository: one session per run, which takes chunks and commits recovery points.

The order of things is the order of safety: the session object, then the list of what exists, then packs, then the
index, then the points (docs/format.md section 1, and prune's rules in docs/planning/backup-strategy.md).
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from secrets import randbits

import msgspec
from blake3 import blake3

from trinity_snap.errors import ForeignRepository, IntegrityError, ObjectMissing, RepositoryError
from trinity_snap.repository.chunkindex import ChunkIndex
from trinity_snap.repository.fences import read_new_fences
from trinity_snap.repository.keys import HostSecret, Recipient, generate_session_key
from trinity_snap.repository.lease import LEASE, running_ns
from trinity_snap.repository.packs import (
    PACK_BYTES,
    PackBuffers,
    PackBuilder,
    SealedPack,
    Table,
    check_table,
    pack_name,
)
from trinity_snap.repository.points import RecoveryPoint, seal_point
from trinity_snap.repository.recipients import seal_session
from trinity_snap.repository.sealed import (
    INDEX_MAGIC,
    POINT_MAGIC,
    TAG_BYTES,
    new_header,
    open_object,
    parse_header,
    seal_object,
)
from trinity_snap.repository.segments import SEGMENT_MAXIMUM_BYTES, as_stored, encode_segment
from trinity_snap.repository.tenure import Tenure
from trinity_snap.targets.protocol import Target, put_new

__all__ = ["ChunkGone", "IndexedPack", "Session", "Tally", "read_index", "write_index"]

_GROUP_BYTES = 1024 * 1024
_OWN_SEGMENT_BYTES = 256 * 1024
_OPEN_PACKS = 2
_WORKERS = 2
_SPARE_BUFFERS = _OPEN_PACKS + 1
_SEGMENTS_IN_FLIGHT = 6
_PACKS_PER_INDEX = 64
_CHUNKS_PER_INDEX = 1 << 16


class _IndexedPack(msgspec.Struct, array_like=True, frozen=True):
    digest: bytes
    length: int
    table: Table


IndexedPack = _IndexedPack

_index_decoder = msgspec.msgpack.Decoder(list[_IndexedPack])


class ChunkGone(IntegrityError):
    """A chunk that a run relies on is not in any pack that may be relied on. Storing it anew helps."""


class Tally:
    """How many bytes were stored for somebody. Grows as segments are sealed; whole after `flush`."""

    def __init__(self) -> None:
        self.bytes = 0
        self._lock = threading.Lock()

    def add(self, amount: int) -> None:
        """Count `amount` bytes more."""
        with self._lock:
            self.bytes += amount


class _Group:
    """Small chunks that will share a segment."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.ids = bytearray()
        self.bytes = 0


class Session:
    """One run's writes. `store` and `commit` are for one thread; sealing and uploading go on in others.

    Use it as a context manager: leaving it waits for or abandons what is in flight, and never deletes anything.
    """

    def __init__(
        self,
        target: Target,
        host: HostSecret,
        recipients: Sequence[Recipient],
        cache_directory: Path,
        *,
        anew: bool = False,
    ) -> None:
        """`anew`: rely on nothing that is there, so that every chunk is stored."""
        self._target = target
        self._host = host
        self._chunk_key = host.chunk_id_key
        self.bytes_stored = 0
        self.chunks_stored = 0
        self._lock = threading.Lock()
        self._fences: dict[str, frozenset[bytes]] = {}
        self._begin(recipients)
        self._fences = read_new_fences(target, host, ())
        alive = self._list_packs()
        self.index = ChunkIndex(cache_directory)
        self.index.set_alive(alive)
        self.unreadable_index: list[str] = []
        if not anew:
            self._ingest(alive)

        self._tally = Tally()
        self._files, self._manifests = _Group(), _Group()
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="seal")
        self._uploaders = ThreadPoolExecutor(target.parallel_puts, thread_name_prefix="upload")
        self._uploads: set[Future[None]] = set()
        self._in_flight = threading.BoundedSemaphore(_SEGMENTS_IN_FLIGHT)
        self._futures: deque[Future[None]] = deque()
        self._buffers = PackBuffers(_SPARE_BUFFERS + target.parallel_puts)
        self._open = [self._new_pack() for _ in range(_OPEN_PACKS)]
        self._open_lock = threading.Lock()
        self._stored: deque[tuple[bytes, int, Table]] = deque()
        self._unindexed: list[_IndexedPack] = []
        self._unindexed_chunks = 0
        self._failure: BaseException | None = None

    # -- the lease (docs/format.md section 14: session object, fences, packs, in this order) -------------------------

    def _begin(self, recipients: Sequence[Recipient]) -> None:
        self._began_ns = running_ns()  # before the storage gives the session its time
        self.session_id, self._key = os.urandom(16), generate_session_key()
        name = f"sessions/{self.session_id.hex()}"
        self._put(
            name, seal_session(self._key, self._host.repository_id, self.session_id, recipients, self._host.mac_key)
        )
        self._tenure = Tenure(self._target, name)

    def _list_packs(self) -> set[bytes]:
        """The packs that exist and that no fence names."""
        condemned = frozenset[bytes]().union(*self._fences.values())
        return {bytes.fromhex(name[-64:]) for name in self._target.list_prefix("packs/")} - condemned

    @property
    def is_aging(self) -> bool:
        """Whether half of the lease is over, so that the session had better be renewed before anything is committed."""
        return running_ns() - self._began_ns > LEASE.lease_ns // 2 or self._tenure.is_aging

    def look_again(self) -> None:
        """Before a commit: no longer rely on what has been fenced since this was asked last.

        Raise IntegrityError, and RepositoryError if this run stood still for so long that its session is gone.
        """
        self._tenure.look()
        fences = read_new_fences(self._target, self._host, self._fences)
        self._fences |= fences
        self.index.condemn(frozenset[bytes]().union(*fences.values()))

    def renew(self, recipients: Sequence[Recipient]) -> None:
        """Begin the lease anew, under a new session object; rely only on what exists now and is not fenced.

        For after `flush`. Raise as `look_again` does.
        """
        self._tenure.look()
        self._begin(recipients)
        self._tenure.look()
        with self._open_lock:
            # Those that there were are empty, and would be sealed with the old key.
            self._open = [self._new_pack() for _ in range(_OPEN_PACKS)]
        self._fences = read_new_fences(self._target, self._host, ())
        self.index.set_alive(self._list_packs())

    # -- chunks -----------------------------------------------------------------------------------------------------

    def store(self, data: bytes | memoryview) -> bytes:
        """Take a chunk of a file in, unless it is stored already. Return its id.

        Raise what sealing or uploading an earlier one raised. `data` is copied if need be: a view need not last longer
        than the call.
        """
        return self._store(data, self._files)

    def store_manifest(self, data: bytes) -> bytes:
        """Take a page or root of a manifest in, as `store` does. They share no segment with the data of files."""
        return self._store(data, self._manifests)

    def _store(self, data: bytes | memoryview, group: _Group) -> bytes:
        chunk_id = blake3(data, key=self._chunk_key).digest()
        if self.index.known(chunk_id):
            return chunk_id
        if len(data) > SEGMENT_MAXIMUM_BYTES:
            raise OSError(errno.EFBIG, f"a chunk of {len(data)} bytes is larger than the format allows")
        self.index.expect(chunk_id)
        self.chunks_stored += 1
        if len(data) >= _OWN_SEGMENT_BYTES:
            self._submit(as_stored(data), chunk_id, [len(data)])
        else:
            group.parts.append(bytes(data))
            group.ids += chunk_id
            group.bytes += len(data)
            if group.bytes >= _GROUP_BYTES:
                self._submit_group(group)
        return chunk_id

    def count_in(self, tally: Tally) -> None:
        """Count what is stored from here on in `tally`."""
        if tally is not self._tally:
            self._submit_groups()
            self._tally = tally

    def _submit_groups(self) -> None:
        self._submit_group(self._files)
        self._submit_group(self._manifests)

    def _submit_group(self, group: _Group) -> None:
        if group.parts:
            parts, ids = group.parts, bytes(group.ids)
            group.parts, group.ids, group.bytes = [], bytearray(), 0
            self._submit(as_stored(b"".join(parts)), ids, [len(part) for part in parts])

    def _submit(self, stored: bytes, ids: bytes, lengths: list[int]) -> None:
        self._settle()
        self._in_flight.acquire()
        self._futures.append(self._workers.submit(self._seal, stored, ids, lengths, self._tally))
        while self._futures and self._futures[0].done():
            self._futures.popleft()

    def _settle(self) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            self._take_in()
        except BaseException as error:
            self._failure = error  # chunks that count as known may never be stored: nothing can be committed any more
            raise

    def _take_in(self) -> None:
        while self._stored:
            digest, length, table = self._stored.popleft()
            self.index.learn(digest, length, table)
            self._unindexed.append(_IndexedPack(digest, length, table))
            self._unindexed_chunks += sum(len(segment.lengths) for segment in table)
            if len(self._unindexed) >= _PACKS_PER_INDEX or self._unindexed_chunks >= _CHUNKS_PER_INDEX:
                self._write_index()

    def _seal(self, stored: bytes, ids: bytes, lengths: list[int], tally: Tally) -> None:
        try:
            if self._failure is None:
                plaintext = encode_segment(stored)
                tally.add(len(plaintext) + TAG_BYTES)
                self._add_to_pack(plaintext, ids, lengths)
        except BaseException as error:  # handed to the thread that stores
            self._failure = self._failure or error
        finally:
            self._in_flight.release()

    def _add_to_pack(self, plaintext: bytes, ids: bytes, lengths: list[int]) -> None:
        slot = randbits(8) % _OPEN_PACKS
        while (size := (pack := self._open[slot]).add(plaintext, ids, lengths)) is None:
            pass  # another thread has just closed it, and puts a new one there
        if size < PACK_BYTES:
            return
        with self._open_lock:
            if self._open[slot] is not pack:
                return
            self._open[slot] = self._new_pack()
        self._close_pack(pack)

    def _close_pack(self, pack: PackBuilder) -> None:
        sealed = pack.finish()
        if sealed is not None:
            upload = self._uploaders.submit(self._upload, sealed)
            with self._lock:
                self._uploads.add(upload)
            upload.add_done_callback(self._uploaded)

    def _upload(self, pack: SealedPack) -> None:
        try:
            if self._failure is None:
                self._put(pack.name, pack.data)
                self._stored.append((pack.digest, len(pack.data), pack.table))
        except BaseException as error:  # handed to the thread that stores
            self._failure = self._failure or error
        finally:
            pack.data.release()
            self._buffers.give_back(pack.buffer)

    def _uploaded(self, upload: Future[None]) -> None:
        with self._lock:
            self._uploads.discard(upload)

    def _new_pack(self) -> PackBuilder:
        return PackBuilder(self._host.repository_id, self.session_id, self._key, self._buffers)

    # -- commit -----------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Make every chunk taken so far durable, and the index of them. Raise what any of it raised."""
        self._submit_groups()
        while self._futures:
            self._futures.popleft().result()
        with self._open_lock:
            closing, self._open = self._open, [self._new_pack() for _ in range(_OPEN_PACKS)]
        for pack in closing:
            self._close_pack(pack)
        with self._lock:
            uploads = list(self._uploads)
        wait(uploads)
        self._settle()
        self._write_index()
        self.index.save()

    def packs_of(self, chunk_ids: Iterable[bytes]) -> set[int]:
        """The ordinals of packs that hold these chunks, all of which are stored. Raise ChunkGone if one is not."""
        pack_of = self.index.pack_of
        packs = {pack_of(chunk_id) for chunk_id in chunk_ids}
        self.require(packs)
        return packs

    def require(self, packs: Iterable[int]) -> None:
        """Raise ChunkGone unless all these ordinals are of packs that may be relied on."""
        if not all(map(self.index.is_alive, packs)):
            raise ChunkGone(
                "A chunk that this run relies on is not stored.",
                untouched="Earlier recovery points are as they were.",
                next_step="Run the backup again; it will store the chunk anew.",
            )

    @property
    def fenced(self) -> frozenset[bytes]:
        """The packs (SHA-256) that were fenced when this last looked: nothing new may rely on them."""
        return frozenset[bytes]().union(*self._fences.values())

    def commit(
        self, point: RecoveryPoint, *, signed: Callable[[RecoveryPoint], RecoveryPoint] = lambda point: point
    ) -> str:
        """Write the recovery point, whose packs are all stored. Return its id. `point.id` is ignored.

        `signed` gets the point with its id and session, and gives back what is to be written.

        Raise RepositoryError if that took so long that the point may not count.
        """
        point_id = os.urandom(16).hex()
        header = new_header(POINT_MAGIC, self._host.repository_id, self.session_id)
        named = signed(msgspec.structs.replace(point, id=point_id, session_id=self.session_id))
        name = f"points/{point_id}"
        self._put(name, seal_point(named, header, self._key, self._host.mac_key))
        in_time = self._tenure.counts(name)
        if in_time is None:
            in_time = running_ns() - self._began_ns <= LEASE.lease_ns
        if not in_time:
            raise RepositoryError(
                f"Recovery point {point_id[:8]} of {point.agent} was stored too late to count: this process stood still for "
                "hours just before.",
                untouched="Earlier recovery points are as they were.",
                next_step="Run the backup again; what was stored is used then.",
            )
        return point_id

    def close(self) -> None:
        """Stop the threads. What was not flushed is lost; what was is kept."""
        if self._failure is None:
            self._failure = RuntimeError("the session is closed")
        self._workers.shutdown(wait=True)
        self._uploaders.shutdown(wait=True)
        self.index.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- index ------------------------------------------------------------------------------------------------------

    def _write_index(self) -> None:
        if not self._unindexed:
            return
        self._tenure.vouch_for(pack_name(self._unindexed[-1].digest.hex()))
        name, data = seal_index(self._host, self.session_id, self._unindexed)
        self._put(name, data)
        self.index.note_ingested(name)
        self._unindexed = []
        self._unindexed_chunks = 0

    def _ingest(self, alive: set[bytes]) -> None:
        fresh = [name for name in self._target.list_prefix("index/") if name not in self.index.ingested]
        for name in fresh:
            try:
                packs = read_index(self._target.get(name), self._host, name)
            except ObjectMissing:
                continue  # prune has just put another one in its place
            except (IntegrityError, ForeignRepository):
                self.unreadable_index.append(name)
                continue
            for pack in packs:
                self.index.learn(pack.digest, pack.length, pack.table, alive=pack.digest in alive)
            self.index.note_ingested(name)
        if fresh:
            self.index.save()

    def _put(self, name: str, data: bytes | memoryview) -> None:
        put_new(self._target, name, data)
        with self._lock:
            self.bytes_stored += len(data)


def seal_index(host: HostSecret, session_id: bytes, packs: Sequence[_IndexedPack]) -> tuple[str, bytes]:
    """A fresh name for an index object that covers these packs, and its bytes."""
    name = f"index/{os.urandom(16).hex()}"
    header = new_header(INDEX_MAGIC, host.repository_id, session_id)
    return name, seal_object(header, host.index_key, name, msgspec.msgpack.encode(packs))


def write_index(target: Target, host: HostSecret, packs: Sequence[_IndexedPack]) -> None:
    """Store an index object of these packs, outside of any session: its session id is all zeros."""
    target.put_if_absent(*seal_index(host, bytes(16), packs))


def read_index(data: bytes, host: HostSecret, name: str) -> list[_IndexedPack]:
    """Return the packs that an index object covers. Raise IntegrityError if it is damaged or impossible."""
    header = parse_header(data, INDEX_MAGIC, host.repository_id, name)
    body = open_object(data, header, host.index_key, name)
    try:
        packs = _index_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"{name} cannot be decoded: {error}.") from error
    for pack in packs:
        if len(pack.digest) != 32 or pack.length < 0:
            raise IntegrityError(f"{name} names an impossible pack.")
        check_table(pack.table, name)
    return packs
