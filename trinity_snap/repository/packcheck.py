"""Reading one pack whole, and what of it is not as it was stored."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trinity_snap.errors import IntegrityError, ObjectMissing, SessionDamaged, TargetDenied, TargetError
from trinity_snap.repository.manifest import CHUNK_ID_BYTES
from trinity_snap.repository.packs import Table, pack_name
from trinity_snap.repository.reader import OpenedPack, blame, open_pack
from trinity_snap.repository.sealed import HEADER_BYTES

if TYPE_CHECKING:
    from trinity_snap.repository.repository import Repository

__all__ = ["PackVerdict", "check_pack", "check_packs"]

_AHEAD_BYTES = 64 * 1024 * 1024
_OTHER_BYTES = "Its bytes are not those that its name says."


@dataclass(frozen=True)
class PackVerdict:
    """What was found of one pack. `object`: what is damaged, the pack or the session of its key; `table` None: it does not open.

    `bad` are the ids of its chunks that are not as they were stored.
    """

    digest: str
    object: str
    problem: str | None
    table: Table | None = None
    bad: frozenset[bytes] = frozenset()


def check_pack(repository: Repository, digest: str, length: int) -> PackVerdict:
    """Read the pack with that SHA-256 in hex and that length. What is damaged is read again: it may have been on the way.

    Raise TargetError where that says nothing of the pack: for want of a right, or because the storage is away.
    """
    verdict = _check(repository, digest, length)
    return verdict if verdict.problem is None else _check(repository, digest, length)


def check_packs(repository: Repository, packs: Iterable[tuple[str, int]]) -> Generator[PackVerdict, None, None]:
    """Check packs (SHA-256 in hex, length), several at a time, and give the verdicts in the same order.

    Raise as `check_pack` does. Memory is bounded: packs of 64 MiB together, or one larger one, are being read or wait to be given
    out.
    """
    waiting: deque[tuple[int, Future[PackVerdict]]] = deque()
    ahead = 0
    workers = repository.target.parallel_gets
    pool = ThreadPoolExecutor(workers, thread_name_prefix="check")
    try:
        for digest, length in packs:
            while waiting and (len(waiting) >= workers or ahead + length > _AHEAD_BYTES):
                done, future = waiting.popleft()
                yield future.result()
                ahead -= done
            waiting.append((length, pool.submit(check_pack, repository, digest, length)))
            ahead += length
        for _, future in waiting:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _check(repository: Repository, digest: str, length: int) -> PackVerdict:
    name = pack_name(digest)
    try:
        data = repository.target.get(name)
    except ObjectMissing:
        return PackVerdict(digest, name, "It is missing from the repository.")
    except TargetDenied:
        raise
    except TargetError as error:
        if error.transient:
            raise
        return PackVerdict(digest, name, f"It cannot be read: {error.message}")  # as from a sector that is lost
    whole = hashlib.sha256(data).hexdigest() == digest
    try:
        opened = open_pack(repository.target, repository.point_keys(), digest, length)
    except SessionDamaged as error:
        # The pack says which session; whether it is right about that, its hash tells.
        return PackVerdict(digest, *blame(name, error)) if whole else PackVerdict(digest, name, _OTHER_BYTES)
    except IntegrityError as error:
        return PackVerdict(digest, name, str(error))
    bad = _bad_chunks(repository, opened, data)
    problem = None
    if bad:
        chunks = sum(len(segment.lengths) for segment in opened.table)
        problem = f"{len(bad)} of its {chunks} chunks are damaged."
    elif not whole:
        problem = f"{_OTHER_BYTES[:-1]}, though all its chunks are whole."
    return PackVerdict(digest, name, problem, opened.table, frozenset(bad))


def _bad_chunks(repository: Repository, opened: OpenedPack, data: bytes) -> set[bytes]:
    from blake3 import blake3

    key = repository.host.chunk_id_key
    view = memoryview(data)
    bad: set[bytes] = set()
    offset = HEADER_BYTES
    for number, segment in enumerate(opened.table):
        ids = [segment.ids[at : at + CHUNK_ID_BYTES] for at in range(0, len(segment.ids), CHUNK_ID_BYTES)]
        sealed = view[offset : offset + segment.sealed_length]
        offset += segment.sealed_length
        try:
            plain = memoryview(opened.opener.open_segment(sealed, number, segment.length))
        except IntegrityError:
            bad.update(ids)
            continue
        start = 0
        for chunk_id, length in zip(ids, segment.lengths, strict=True):
            if blake3(plain[start : start + length], key=key).digest() != chunk_id:
                bad.add(chunk_id)
            start += length
    return bad
