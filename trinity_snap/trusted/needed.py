"""What recovery points need: the names of all objects without which they could not be restored, or no run go on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from trinity_snap.errors import ForeignRepository, IntegrityError, ObjectMissing
from trinity_snap.repository.packs import pack_name
from trinity_snap.repository.points import RecoveryPoint
from trinity_snap.repository.recipients import current_recipients
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.sealed import HEADER_BYTES, INDEX_MAGIC, PACK_MAGIC, parse_header
from trinity_snap.repository.session import read_index

__all__ = ["needed_names"]


def needed_names(repository: Repository, points: Sequence[RecoveryPoint]) -> set[str]:
    """The names of the objects that these points need, of the points themselves, and of all lists of recipients.

    Of sessions those that the points and their packs belong to, of the index what covers one of their packs. Packs that no
    index covers are looked into. What is missing is in it all the same. Raise TargetError if the storage cannot be read.
    """
    digests = {reference.name for point in points for reference in point.pack_references()}
    damaged = set(current_recipients(repository.target, repository.host).damaged)
    names = {"repository", *(set(repository.target.list_prefix("recipients/")) - damaged)}
    names |= {f"points/{point.id}" for point in points} | {pack_name(digest) for digest in digests}
    sessions = {point.session_id for point in points}
    uncovered = set(digests)
    with ThreadPoolExecutor(repository.target.parallel_gets) as pool:
        index = sorted(repository.target.list_prefix("index/"))
        for name, (session, covered) in zip(index, pool.map(lambda one: _index(repository, one), index), strict=True):
            if session is not None and not covered.isdisjoint(digests):
                names.add(name)
                sessions.add(session)
                uncovered -= covered
        sessions.update(_known(pool.map(lambda one: _session_of(repository, one), sorted(uncovered))))
    return names | {f"sessions/{session.hex()}" for session in sessions}


def _index(repository: Repository, name: str) -> tuple[bytes | None, set[str]]:
    """The session of an object of the index, None if it cannot be read, and the packs in it."""
    try:
        data = repository.target.get(name)
        packs = read_index(data, repository.host, name)
        session = parse_header(data, INDEX_MAGIC, repository.id, name).session_id
    except (IntegrityError, ForeignRepository, ObjectMissing):
        return None, set()
    return session, {pack.digest.hex() for pack in packs}


def _session_of(repository: Repository, digest: str) -> bytes | None:
    name = pack_name(digest)
    try:
        header = repository.target.get_range(name, 0, HEADER_BYTES)
        return parse_header(header, PACK_MAGIC, repository.id, name).session_id
    except (IntegrityError, ForeignRepository, ObjectMissing):
        return None


def _known(sessions: Iterable[bytes | None]) -> Iterator[bytes]:
    return (session for session in sessions if session is not None)
