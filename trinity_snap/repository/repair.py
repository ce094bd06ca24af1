"""Repairing a repository by adding to it: nothing that is there is deleted, overwritten or relied on less than before.

What is missing comes back under its name from a replica. What is damaged keeps its name, on storages where nothing is
overwritten; so the chunks of a damaged pack are stored in new packs, where readers find them by their ids (docs/format.md,
section 16), and a recovery point that cannot be read is stored anew under another id. What the index lacks
is taken from the packs.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from trinity_snap.errors import ForeignRepository, IntegrityError, ObjectMissing, PointMissing, SessionDamaged, WrongKey
from trinity_snap.progress import Progress
from trinity_snap.repository.documents import verify_document
from trinity_snap.repository.manifest import CHUNK_ID_BYTES
from trinity_snap.repository.packs import pack_name
from trinity_snap.repository.points import RecoveryPoint
from trinity_snap.repository.reader import blame, open_pack
from trinity_snap.repository.receipts import put_checks, read_receipts
from trinity_snap.repository.sealed import HEADER_BYTES
from trinity_snap.repository.session import IndexedPack, Session, write_index
from trinity_snap.repository.spares import indexed_packs
from trinity_snap.repository.verify import VerifyReport, verify

if TYPE_CHECKING:
    from trinity_snap.repository.repository import Repository

__all__ = ["RepairReport", "Source", "repair"]

_PACKS_PER_INDEX = 64


@dataclass(frozen=True)
class Source:
    """A replica to take from: its name in the policy, and the repository there, opened."""

    name: str
    repository: Repository


@dataclass
class RepairReport:
    """What was done or, on a dry run, what would be.

    `brought_back`: missing objects, by name, to the replica that had them. `stored_anew`: damaged packs, likewise, whose
    chunks are in new packs now. `recommitted`: points that could not be read, to the ids that they have now (empty on a dry run).
    `unrepaired`: what stays damaged, and why. `verified` is what verify says afterwards; on a dry run, before.
    """

    dry_run: bool
    brought_back: dict[str, str] = field(default_factory=dict)
    stored_anew: dict[str, str] = field(default_factory=dict)
    recommitted: dict[str, str] = field(default_factory=dict)
    indexed_packs: int = 0
    bytes_stored: int = 0
    unrepaired: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    verified: VerifyReport | None = None

    @property
    def good(self) -> bool:
        """Whether nothing that was found damaged stays so."""
        return not self.unrepaired


def repair(repository: Repository, sources: Sequence[Source], *, dry_run: bool, progress: Progress) -> RepairReport:
    """Repair what is known to be damaged: what is missing or does not open, and what a check has noted.

    Interrupted, it can be done again; done twice, it does nothing the second time. Raise TargetError, RecipientsMismatch.
    """
    with tempfile.TemporaryDirectory(prefix="trinity-snap-repair-") as cache:
        work = _Repair(repository, sources, RepairReport(dry_run), progress, Path(cache))
        work.run()
    return work.report


class _Repair:
    def __init__(
        self,
        repository: Repository,
        sources: Sequence[Source],
        report: RepairReport,
        progress: Progress,
        cache: Path,
    ) -> None:
        self.cache = cache
        self.repository = repository
        self.target = repository.target
        self.sources = sources
        self.report = report
        self.progress = progress

    def run(self) -> None:
        """Sessions and lists come first, as all else needs them, and packs before points."""
        self._bring_back_documents()
        points = self.repository.points()
        broken = self._broken_points()
        wanted = {one: elsewhere for one in broken if (elsewhere := self._point_elsewhere(one)) is not None}
        record = not self.report.dry_run
        needing = [*points, *(point for point, _ in wanted.values())]
        found = verify(self.repository, needing, record=record, condemn=record, progress=self.progress)
        lengths = {one.name: one.length for point in needing for one in point.pack_references()}
        self._packs(lengths, found)
        self._points(broken, wanted, points)
        self._index()
        self._conclude(found)

    # -- sessions and lists of recipients -----------------------------------------------------------------------------

    def _bring_back_documents(self) -> None:
        """Those that are missing and that a replica has, if they are authentic."""
        for kind, form in (("recipients", "recipients"), ("sessions", "session")):
            there = set(self.target.list_prefix(f"{kind}/"))
            for source in self.sources:
                for name in sorted(set(source.repository.target.list_prefix(f"{kind}/")) - there):
                    with suppress(IntegrityError, ForeignRepository, ObjectMissing):
                        data = source.repository.target.get(name)
                        verify_document(form, data, self.repository.host.mac_key)
                        self._put(name, data, source)
                        there.add(name)

    def _put(self, name: str, data: bytes, source: Source) -> None:
        self.report.brought_back[name] = source.name
        if not self.report.dry_run:
            self.target.put_if_absent(name, data)
            self.report.bytes_stored += len(data)

    # -- points -------------------------------------------------------------------------------------------------------

    def _broken_points(self) -> dict[str, str]:
        """Points that are damaged, and those that counted, were not forgotten and are gone: why each cannot be read."""
        receipts = read_receipts(self.target, self.repository.host)
        broken = {
            point_id: why for point_id, why in self.repository.unreadable_points if not self._opens_soon(point_id)
        }
        gone = receipts.missing(self.repository.point_ids())
        return broken | dict.fromkeys(sorted(gone), "It is gone, and nobody forgot it.")

    def _opens(self, session_id: bytes) -> bool:
        """Whether a session can be opened, or could be if this were no dry run."""
        try:
            self.repository.session_key(session_id)
        except SessionDamaged as error:
            return error.name in self.report.brought_back
        except (IntegrityError, WrongKey):
            return False
        return True

    def _opens_soon(self, point_id: str) -> bool:
        """Whether a point only lacks its session, and on a dry run that would have been brought back by now."""
        try:
            self.repository.read_point(point_id)
        except SessionDamaged as error:
            return error.name in self.report.brought_back
        except (IntegrityError, ForeignRepository, WrongKey, PointMissing):
            return False
        return True

    def _point_elsewhere(self, point_id: str) -> tuple[RecoveryPoint, Source] | None:
        for source in self.sources:
            with suppress(IntegrityError, ForeignRepository, WrongKey, PointMissing):
                return source.repository.read_point(point_id), source
        return None

    def _points(
        self, broken: dict[str, str], wanted: dict[str, tuple[RecoveryPoint, Source]], there: Sequence[RecoveryPoint]
    ) -> None:
        """Bring back what is gone; store anew, under another id, what is damaged under its own."""
        anew = []
        for point_id, why in broken.items():
            name = f"points/{point_id}"
            if point_id not in wanted:
                self.report.unrepaired[name] = f"{why} No replica has it whole."
                continue
            point, source = wanted[point_id]
            if point_id not in dict(self.repository.unreadable_points) and self._opens(point.session_id):
                self._put(name, source.repository.target.get(name), source)
                continue
            same = next((one for one in there if _says_the_same(one, point)), None)
            if same is None:
                anew.append(point)
            else:
                self.report.recommitted[point_id] = same.id
        for point in anew:
            self.report.recommitted[point.id] = ""
        if anew and not self.report.dry_run:
            with self._session() as session:
                for point in anew:
                    self.report.recommitted[point.id] = session.commit(point)
                self.report.bytes_stored += session.bytes_stored

    # -- packs --------------------------------------------------------------------------------------------------------

    def _packs(self, lengths: dict[str, int], found: VerifyReport) -> None:
        existing = {name[-64:] for name in self.target.list_prefix("packs/")}
        missing = [digest for digest in sorted(lengths) if digest not in existing]
        lost = found.damaged_objects.keys() - found.healed
        damaged = [name[-64:] for name in sorted(lost) if name.startswith("packs/") and name[-64:] in existing]
        self.progress.stage("bringing packs back (packs)", len(missing) + len(damaged))
        back = []
        for digest in missing:
            data = self._whole_elsewhere(digest)
            if data is not None:
                self._put(pack_name(digest), *data)
                back.append(digest)
            self.progress.advance(1)
        if back and not self.report.dry_run:
            noted = time.time_ns()
            put_checks(self.target, self.repository.host, dict.fromkeys(map(bytes.fromhex, back), noted), {})
        if not self.report.dry_run:
            existing.update(back)  # whose session may be lost for all that
        damaged += [digest for digest in self._shut(lengths, existing, found.healed) if digest not in damaged]
        if damaged:
            self._store_anew(damaged, lengths)

    def _shut(self, lengths: dict[str, int], existing: set[str], healed: set[str]) -> list[str]:
        """Packs that are there and do not open, because of their session or of themselves, and that others do not make up for."""
        shut = []
        for digest in sorted(lengths.keys() & existing):
            try:
                open_pack(self.target, self.repository.point_keys(), digest, lengths[digest])
            except IntegrityError as error:
                if blame(pack_name(digest), error)[0] not in healed | self.report.brought_back.keys():
                    shut.append(digest)
        return shut

    def _whole_elsewhere(self, digest: str) -> tuple[bytes, Source] | None:
        for source in self.sources:
            with suppress(ObjectMissing):
                data = source.repository.target.get(pack_name(digest))
                if hashlib.sha256(data).hexdigest() == digest:
                    return data, source
        return None

    def _store_anew(self, damaged: Sequence[str], lengths: dict[str, int]) -> None:
        if self.report.dry_run:
            for digest in damaged:
                there = self._whole_elsewhere(digest)
                if there is not None:
                    self.report.stored_anew[pack_name(digest)] = there[1].name
            return
        session = None
        try:
            for digest in damaged:
                self.progress.advance(1)
                found = self._whole_elsewhere(digest)
                if found is None:
                    continue
                if session is None:
                    session = self._session()
                    session.index.condemn(map(bytes.fromhex, damaged))
                data, source = found
                for chunk in _chunks(source.repository, digest, data):
                    session.store(chunk)
                self.report.stored_anew[pack_name(digest)] = source.name
            if session is not None:
                session.flush()
                self.report.bytes_stored += session.bytes_stored
        finally:
            if session is not None:
                session.close()

    def _session(self) -> Session:
        return self.repository.begin_session(self.cache)

    # -- the index ----------------------------------------------------------------------------------------------------

    def _index(self) -> None:
        """Write index objects of the packs that none covers, from their own tables."""
        covered = {pack.digest for pack in indexed_packs(self.target, self.repository.host)}
        existing = {bytes.fromhex(name[-64:]) for name in self.target.list_prefix("packs/")}
        lacking = sorted(existing - covered)
        self.progress.stage("rebuilding the index (packs)", len(lacking))
        batch: list[IndexedPack] = []
        for digest in lacking:
            with suppress(IntegrityError, ObjectMissing):
                length = self.target.stat(pack_name(digest.hex())).size
                opened = open_pack(self.target, self.repository.point_keys(), digest.hex(), length)
                batch.append(IndexedPack(digest, length, opened.table))
                self.report.indexed_packs += 1
            if len(batch) >= _PACKS_PER_INDEX:
                self._write_index(batch)
                batch = []
            self.progress.advance(1)
        if batch:
            self._write_index(batch)

    def _write_index(self, packs: Sequence[IndexedPack]) -> None:
        if not self.report.dry_run:
            write_index(self.target, self.repository.host, packs)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _conclude(self, found: VerifyReport) -> None:
        """What stays damaged: of packs, those of which points still lack something."""
        report = self.report
        if not report.dry_run:
            fresh = self.repository.points()
            for point_id, why in self.repository.unreadable_points:
                if point_id not in report.recommitted:
                    report.unrepaired.setdefault(f"points/{point_id}", why)
            found = verify(self.repository, fresh, record=True, condemn=True, progress=self.progress)
        mended = report.brought_back.keys() | report.stored_anew.keys() if report.dry_run else set()
        mended |= {f"points/{point_id}" for point_id in report.recommitted}
        for name, why in found.damaged_objects.items():
            if name not in mended and name not in found.healed and not name.startswith("index/"):
                report.unrepaired.setdefault(name, why)
        report.verified = found


def _says_the_same(one: RecoveryPoint, other: RecoveryPoint) -> bool:
    return (one.agent, one.run_id, one.created_ns, one.volumes) == (
        other.agent,
        other.run_id,
        other.created_ns,
        other.volumes,
    )


def _chunks(repository: Repository, digest: str, data: bytes) -> Iterator[bytes]:
    """The chunks of a whole pack, each compared with its id; those that are not what they claim are left out."""
    opened = open_pack(repository.target, repository.point_keys(), digest, len(data))
    offset = HEADER_BYTES
    for number, segment in enumerate(opened.table):
        sealed = data[offset : offset + segment.sealed_length]
        offset += segment.sealed_length
        plain = memoryview(opened.opener.open_segment(sealed, number, segment.length))
        start = 0
        for place, length in enumerate(segment.lengths):
            chunk = bytes(plain[start : start + length])
            start += length
            wanted = segment.ids[place * CHUNK_ID_BYTES : (place + 1) * CHUNK_ID_BYTES]
            if blake3(chunk, key=repository.host.chunk_id_key).digest() == wanted:
                yield chunk
