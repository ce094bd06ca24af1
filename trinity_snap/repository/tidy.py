"""Keeping small objects from piling up: sessions of which nothing is left, and copy notes that have said their part.

A session is the key of everything that its run stored, so it goes only when that is certain: no recovery point and no pack
names it, by their own headers (what the index says could be a lie of the host), and it is a week old.
"""

from __future__ import annotations

from collections.abc import Set
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.durable import make_directory_durably, write_file_durably
from trinity_snap.errors import ForeignRepository, IntegrityError, ObjectMissing
from trinity_snap.progress import Progress
from trinity_snap.repository.copies import copy_notes
from trinity_snap.repository.keys import SESSION_ID_BYTES
from trinity_snap.repository.lease import Lease
from trinity_snap.repository.packs import pack_name
from trinity_snap.repository.sealed import HEADER_BYTES, PACK_MAGIC, POINT_MAGIC, parse_header

if TYPE_CHECKING:
    from trinity_snap.repository.repository import Repository
    from trinity_snap.repository.survey import Survey

__all__ = ["PackSessions", "tidy_copies", "tidy_sessions"]

_WORTH_LOOKING = 8
_DIGEST_BYTES = 32


class PackSessions:
    """Which session each pack is of, remembered in a file between prunes so that a pack is looked at once. Packs never change."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[bytes, bytes] = {}
        self._sessions: dict[bytes, bytes] = {}
        step = _DIGEST_BYTES + SESSION_ID_BYTES
        if path is not None:
            with suppress(OSError):
                data = memoryview(path.read_bytes())
                # A wrong answer would cost a key: what is not exactly what was written is not believed.
                if (
                    len(data) % step == _DIGEST_BYTES
                    and sha256(data[:-_DIGEST_BYTES]).digest() == data[-_DIGEST_BYTES:]
                ):
                    for at in range(0, len(data) - _DIGEST_BYTES, step):
                        self._note(bytes(data[at : at + _DIGEST_BYTES]), bytes(data[at + _DIGEST_BYTES : at + step]))

    def of(self, repository: Repository, packs: Set[bytes], progress: Progress) -> set[bytes] | None:
        """The sessions of these packs; None if one of them does not say, or is of nobody known."""
        for pack in self._known.keys() - packs:
            del self._known[pack]
        unknown = packs - self._known.keys()
        progress.stage("looking whose packs are whose (packs)", len(unknown))
        for pack in unknown:
            name = pack_name(pack.hex())
            try:
                header = parse_header(
                    repository.target.get_range(name, 0, HEADER_BYTES), PACK_MAGIC, repository.id, name
                )
            except ObjectMissing:
                continue
            except (ForeignRepository, IntegrityError):
                return None
            self._note(pack, header.session_id)
            progress.advance(1)
        return set(self._known.values())

    def _note(self, pack: bytes, session: bytes) -> None:
        self._known[pack] = self._sessions.setdefault(session, session)  # one object for all packs of a session

    def save(self) -> None:
        """Remember for the next time. What cannot be remembered is looked at again."""
        if self._path is None:
            return
        with suppress(OSError):
            make_directory_durably(self._path.parent)
            data = b"".join(part for known in self._known.items() for part in known)
            write_file_durably(self._path, data + sha256(data).digest())


def tidy_sessions(
    repository: Repository,
    found: Survey,
    lease: Lease,
    memory: PackSessions,
    progress: Progress,
    *,
    spared: Set[str] = frozenset(),
) -> int:
    """Remove sessions that no point and no pack is of, and that are a week old. Return how many went.

    `found` is a look from before; sessions are listed anew, and packs after them. `spared` names stay: at a replica, those
    that the first target has.
    """
    target = repository.target
    sessions = set(target.list_prefix("sessions/")) - spared
    used = {f"sessions/{point.session_id.hex()}" for point in found.points}
    for name in set(target.list_prefix("points/")) - {f"points/{point.id}" for point in found.points}:
        try:
            header = parse_header(target.get(name), POINT_MAGIC, repository.id, name)
        except ObjectMissing:
            continue
        except (ForeignRepository, IntegrityError):
            return 0
        used.add(f"sessions/{header.session_id.hex()}")
    unused = sessions - used
    if len(unused) < _WORTH_LOOKING:
        return 0
    existing = {bytes.fromhex(name[-64:]) for name in target.list_prefix("packs/")}
    of_packs = memory.of(repository, existing, progress)
    memory.save()
    if of_packs is None:
        return 0
    empty = sorted(unused - {f"sessions/{session.hex()}" for session in of_packs})
    doomed = [name for name in empty if _is_older(repository, name, found.now_ns, lease.session_ns)]
    for name in doomed:
        target.delete(name)
    return len(doomed)


def tidy_copies(repository: Repository, found: Survey, lease: Lease) -> int:
    """Remove copy notes that are a lease old, and of which each point is gone, or counts by a receipt. Return how many went."""
    present = {name.removeprefix("points/") for name in repository.target.list_prefix("points/")}
    settled = set(found.receipts.points) | set(found.counted)
    removed = 0
    for name, points in copy_notes(repository.target, repository.id).items():
        if (present & set(points)) <= settled and _is_older(repository, name, found.now_ns, lease.wait_ns):
            repository.target.delete(name)
            removed += 1
    return removed


def _is_older(repository: Repository, name: str, now_ns: int, length_ns: int) -> bool:
    try:
        return now_ns - repository.target.stat(name).time_ns > length_ns
    except ObjectMissing:
        return False
