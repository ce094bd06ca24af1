"""Repacking: what is alive in packs that are mostly dead moves to new packs, and points with it (docs/format.md section 17).

A point is not changed: another one takes its place that says the same and names other packs. This is a run like any other, whose
source is the repository; what protects a run's points from a prune protects these. The old packs are needed by no point then,
and go as any pack does.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3
from msgspec.structs import replace

from trinity_snap.errors import (
    ForeignRepository,
    IntegrityError,
    ObjectMissing,
    PointMissing,
    RepositoryError,
    WrongKey,
)
from trinity_snap.progress import NullProgress, Progress
from trinity_snap.repository.chunk_fetch import ChunkFetcher
from trinity_snap.repository.lease import LEASE, Lease
from trinity_snap.repository.packcheck import check_pack
from trinity_snap.repository.packs import pack_name
from trinity_snap.repository.points import RecoveryPoint, Repacked, encode_document, encode_pack_references
from trinity_snap.repository.prune import require_sound
from trinity_snap.repository.reader import OpenedPack, open_pack
from trinity_snap.repository.repack_plan import (
    DEFAULT_WISH,
    Choice,
    ChunkFilter,
    PackUse,
    RepackWish,
    Uses,
    choose,
    ids_of,
    use_of,
)
from trinity_snap.repository.sealed import HEADER_BYTES
from trinity_snap.repository.session import Session
from trinity_snap.repository.spares import indexed_packs
from trinity_snap.repository.supersede import supersede
from trinity_snap.repository.survey import PointFacts, Survey, survey
from trinity_snap.repository.vouching import vouched, voucher

if TYPE_CHECKING:
    from trinity_snap.repository.repository import Repository

__all__ = ["RepackReport", "repack"]


@dataclass
class RepackReport:
    """What was done or, on a dry run, what would be; bytes are of sealed segments.

    `live_bytes` and `dead_bytes` of all packs that points need, as it was before. Of the `packs` that are repacked
    `written_bytes` have to be stored anew; `freed_bytes` are free when the old ones have gone. `moved_points` got a new id,
    and those `superseded` went. `bytes_stored` is what it took. `notes` are sentences.
    """

    dry_run: bool
    live_bytes: int = 0
    dead_bytes: int = 0
    packs: int = 0
    written_bytes: int = 0
    freed_bytes: int = 0
    moved_points: dict[str, str] = field(default_factory=dict)
    superseded: list[str] = field(default_factory=list)
    bytes_stored: int = 0
    notes: list[str] = field(default_factory=list)


def repack(
    repository: Repository,
    *,
    wish: RepackWish = DEFAULT_WISH,
    dry_run: bool = False,
    accept_missing: bool = False,
    progress: Progress | None = None,
    lease: Lease = LEASE,
) -> RepackReport:
    """Repack what is worth it. It may run beside runs, prunes and another of its kind, and die anywhere.

    What an earlier one that died has left is finished first. Raise RemovalRefused as prune does, IdentityNeeded,
    RecipientsMismatch, TargetError; IntegrityError if what it has written cannot be read back.
    """
    with tempfile.TemporaryDirectory(prefix="trinity-snap-repack-") as scratch:
        work = _Repack(
            repository, wish, RepackReport(dry_run), accept_missing, progress or NullProgress(), lease, Path(scratch)
        )
        work.run()
    return work.report


class _Repack:
    def __init__(
        self,
        repository: Repository,
        wish: RepackWish,
        report: RepackReport,
        accept_missing: bool,
        progress: Progress,
        lease: Lease,
        scratch: Path,
    ) -> None:
        self.repository = repository
        self.target = repository.target
        self.wish = wish
        self.report = report
        self.accept_missing = accept_missing
        self.progress = progress
        self.lease = lease
        self.scratch = scratch
        self.fetcher = ChunkFetcher(repository)
        self.verified: set[bytes] = set()
        self.manifests: set[bytes] = set()  # the ids of pages and roots
        self.pages: dict[bytes, None] = {}  # the ids of pages, in the order of the manifests
        self.unreadable: dict[bytes, str] = {}  # of the manifests, and why
        self.held_in_page: dict[bytes, list[bytes]] = {}

    def run(self) -> None:
        """Finish, look, choose, copy, move, finish."""
        report = self.report
        found = self._look()
        report.superseded += self._finish(found)
        alive = self._alive()
        choice = self._choose(found, alive)
        report.live_bytes, report.dead_bytes = choice.live_bytes, choice.dead_bytes
        report.packs = len(choice.packs)
        report.written_bytes, report.freed_bytes = choice.written_bytes, choice.freed_bytes
        found.let_go_of_packs()
        if report.dry_run or not choice.packs:
            return
        # Everything is stored anew, also what the index says is elsewhere: that is the host's word.
        with self.repository.begin_session(self.scratch, anew=True) as session:
            self._move(session, choice.packs, alive)
            report.bytes_stored = session.bytes_stored
        if report.moved_points:
            report.superseded += self._finish(self._look())

    def _look(self) -> Survey:
        guess = time.time_ns if self.report.dry_run else None
        found = survey(self.repository, lease=self.lease, guess_now=guess, progress=self.progress)
        if found.clock:
            self.target.delete(found.clock)
        require_sound(found, accept_missing=self.accept_missing)
        return found

    def _finish(self, found: Survey) -> list[str]:
        return supersede(self.repository, found, verified=self.verified, dry_run=self.report.dry_run)

    # -- choosing -----------------------------------------------------------------------------------------------------

    def _points(self) -> Iterator[RecoveryPoint]:
        """All points that can be read, as they are now, one at a time."""
        for point_id in self.repository.point_ids():
            try:
                yield self.repository.read_point(point_id)
            except (PointMissing, IntegrityError, ForeignRepository, WrongKey):
                continue

    def _alive(self) -> ChunkFilter:
        """The chunks that points need, of their manifests and of their files."""
        fetcher = self.fetcher
        self.progress.stage("reading manifests (points)", len(self.repository.point_ids()))
        self._learn_pages(self._points())
        alive = ChunkFilter(fetcher.chunks)
        for chunk_id in self.manifests:
            alive.add(chunk_id)
        for page_id in self.pages:
            try:
                for chunk_id in fetcher.chunks_of_page(page_id):
                    alive.add(chunk_id)
            except IntegrityError as error:
                self.unreadable[page_id] = str(error)
        return alive

    def _learn_pages(self, points: Iterable[RecoveryPoint]) -> None:
        """Find out where the manifests of these points are."""
        roots = {volume.root for point in points for volume in point.volumes}
        self.fetcher.learn(roots)
        pages: dict[bytes, None] = {}
        for root in sorted(roots):
            try:
                pages |= {page.page_id: None for page in self.fetcher.pages(root)}
            except IntegrityError as error:
                self.unreadable[root] = str(error)
        self.fetcher.learn(pages)
        self.pages |= pages
        self.manifests |= roots | pages.keys()

    def _choose(self, found: Survey, alive: ChunkFilter) -> Choice:
        uses = Uses()
        uses.take(self._uses(found.marks.needed & found.existing, alive))
        barred = set(found.receipts.damaged_packs)
        barred.update(*(fence.packs for fence in found.fences))
        stuck = {point.id for point in found.points if not _movable(point)}
        if stuck or self.unreadable:
            for point in self._points():
                if point.id in stuck or self._is_unreadable(point):
                    barred.update(bytes.fromhex(one.name) for one in point.pack_references())
        choice = choose(uses, barred, self.wish)
        while young := {use.digest for use in choice.packs if self._is_young(use.digest, found.now_ns)} - barred:
            barred |= young  # runs that are under way may need what looks dead
            choice = choose(uses, barred, self.wish)
        return choice

    def _is_unreadable(self, point: RecoveryPoint) -> bool:
        """Whether it is not known what the point needs: its packs stay as they are."""
        try:
            pages = [page for volume in point.volumes for page in self.fetcher.pages(volume.root)]
        except IntegrityError:
            return True
        return any(page.page_id in self.unreadable for page in pages)

    def _uses(self, needed: set[bytes], alive: ChunkFilter) -> Iterator[PackUse]:
        for pack in indexed_packs(self.target, self.repository.host):
            if pack.digest in needed:
                needed.discard(pack.digest)  # several objects of the index may be of one pack
                yield use_of(pack.digest, pack.table, alive)

    def _is_young(self, digest: bytes, now_ns: int) -> bool:
        try:
            return now_ns - self.target.stat(pack_name(digest.hex())).time_ns <= self.lease.wait_ns
        except ObjectMissing:
            return True

    # -- moving -------------------------------------------------------------------------------------------------------

    def _move(self, session: Session, packs: Sequence[PackUse], alive: ChunkFilter) -> None:
        held = self._copy(session, packs, alive)
        where = self._read_back(session, {one for ids in held.values() for one in ids})
        found = self._look()
        movable = {point.id: point for point in found.points if _movable(point)}
        found.let_go_of_packs()
        all_held = frozenset[bytes]().union(*held.values())
        self.progress.stage("moving recovery points (points)", len(movable))
        for point in self._points():
            if point.id in movable and any(bytes.fromhex(one.name) in held for one in point.pack_references()):
                try:
                    needs = list(self._needs(point, all_held))
                except IntegrityError as error:
                    self.report.notes.append(f"{point.id[:8]} is left as it is: {error}")
                    continue
                self._move_point(session, point, movable[point.id], needs, held, where)
            self.progress.advance(1)

    def _needs(self, point: RecoveryPoint, all_held: Set[bytes]) -> Iterator[bytes]:
        """Those of the chunks `all_held` that a point needs, some perhaps several times."""
        if any(volume.root not in self.manifests for volume in point.volumes):
            self._learn_pages((point,))  # it has come since
        for volume in point.volumes:
            if volume.root in all_held:
                yield volume.root
            for page in self.fetcher.pages(volume.root):
                if page.page_id in all_held:
                    yield page.page_id
                if page.page_id not in self.held_in_page:
                    ids = self.fetcher.chunks_of_page(page.page_id)
                    self.held_in_page[page.page_id] = [one for one in ids if one in all_held]
                yield from self.held_in_page[page.page_id]

    def _copy(self, session: Session, packs: Sequence[PackUse], alive: ChunkFilter) -> dict[bytes, frozenset[bytes]]:
        """Store what is alive in these packs anew. Return which chunks each of them holds, alive or not.

        A pack that is damaged is left out.
        """
        held: dict[bytes, frozenset[bytes]] = {}
        self.progress.stage("repacking", sum(use.live_bytes for use in packs))
        for use in packs:
            name = pack_name(use.digest.hex())
            try:
                length = self.target.stat(name).size
                opened = open_pack(self.target, self.repository.point_keys(), use.digest.hex(), length)
                self._copy_pack(session, opened, alive)
            except (IntegrityError, ObjectMissing) as error:
                self.report.notes.append(f"{name} is left as it is: {error}")
                continue
            held[use.digest] = frozenset(one for segment in opened.table for one in ids_of(segment.ids))
            self.progress.advance(use.live_bytes, name)
        session.flush()
        return held

    def _copy_pack(self, session: Session, opened: OpenedPack, alive: ChunkFilter) -> None:
        offset = HEADER_BYTES
        for number, segment in enumerate(opened.table):
            ids = list(ids_of(segment.ids))
            if any(one in alive for one in ids):
                sealed = self.target.get_range(opened.name, offset, segment.sealed_length)
                data = memoryview(opened.opener.open_segment(sealed, number, segment.length))
                start = 0
                for one, length in zip(ids, segment.lengths, strict=True):
                    chunk = bytes(data[start : start + length])
                    start += length
                    if one not in alive:
                        continue
                    if blake3(chunk, key=self.repository.host.chunk_id_key).digest() != one:
                        raise IntegrityError(f"A chunk in {opened.name} is not what its id says.")
                    if one in self.manifests:
                        session.store_manifest(chunk)
                    else:
                        session.store(chunk)
            offset += segment.sealed_length

    def _read_back(self, session: Session, held: set[bytes]) -> dict[bytes, tuple[bytes, int]]:
        """Read every new pack whole. Return in which pack, and how long that is, each chunk is by the pack's own table."""
        index = session.index
        ordinals = {ordinal for one in held if (ordinal := index.pack_of(one)) >= 0}
        where: dict[bytes, tuple[bytes, int]] = {}
        self.progress.stage("reading back", sum(index.pack_reference(one)[1] for one in ordinals))
        for reference in sorted(map(index.pack_reference, ordinals)):
            digest, length = reference
            verdict = check_pack(self.repository, digest.hex(), length)
            if verdict.problem is not None or verdict.table is None:
                raise IntegrityError(
                    f"{pack_name(digest.hex())} was just stored, and is not what was stored: {verdict.problem}",
                    untouched="No recovery point was touched.",
                    next_step="Look after the storage; `trinity-snap verify --read-data` says what else is damaged.",
                )
            self.verified.add(digest)
            where |= {one: reference for segment in verdict.table for one in ids_of(segment.ids)}
            self.progress.advance(length)
        return where

    def _move_point(
        self,
        session: Session,
        point: RecoveryPoint,
        facts: PointFacts,
        needs: Iterable[bytes],
        held: dict[bytes, frozenset[bytes]],
        where: dict[bytes, tuple[bytes, int]],
    ) -> None:
        """Put a point in the place of this one that does not need the packs `held`, if that can be done whole."""
        identity = self.repository.identity
        assert identity is not None
        if not self._says_no_more(point):
            self.report.notes.append(f"{point.id[:8]} is left as it is: it says more than this version knows.")
            return
        old = {(bytes.fromhex(one.name), one.length) for one in point.pack_references()}
        gone = {reference for reference in old if reference[0] in held}
        packs = old - gone
        for chunk_id in needs:
            if any(chunk_id in held[digest] for digest, _ in gone):
                if chunk_id not in where:
                    return  # a run has come to need what nothing needed: that pack stays, for this time
                packs.add(where[chunk_id])
        if session.is_aging:
            return
        self.repository.look_again(session)
        if any(digest in session.fenced for digest, _ in packs):
            return
        before = vouched(self.repository, point)
        said = Repacked(
            original=facts.lineage,
            stored_ns=facts.time_ns,
            times=1 + (0 if before is None else before.times),
            by=identity.recipient.id,
            mac=b"",
        )
        new = replace(point, packs=encode_pack_references(packs), repacked=said)
        try:
            self.report.moved_points[point.id] = session.commit(new, signed=voucher(identity, self.repository.id))
        except RepositoryError as error:
            self.report.notes.append(f"{point.id[:8]} stays as it is: {error}")  # and the next ones, too: it is aging

    def _says_no_more(self, point: RecoveryPoint) -> bool:
        """Whether the point, written anew, would be the same to the byte: a later version may have put more into it."""
        return self.repository.read_document(point.id) == encode_document(point)


def _movable(point: PointFacts) -> bool:
    """Whether another may take the place of the point: one that does not count would do so from then on."""
    judgement = point.judgement
    return judgement.counts and judgement.obedient and judgement.complete
