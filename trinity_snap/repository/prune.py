"""Deleting what no recovery point needs, without locks (docs/format.md section 14).

One call does what is due: it deletes what an earlier call has fenced long enough ago, and fences what is not needed now.
It may run twice at once, and die anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.errors import IntegrityError, ObjectMissing, RemovalRefused
from trinity_snap.progress import NullProgress, Progress
from trinity_snap.repository.drills import tidy_drills
from trinity_snap.repository.fences import PACKS_PER_FENCE, Fence, put_fence, read_fence
from trinity_snap.repository.index_upkeep import tidy_index
from trinity_snap.repository.lease import LEASE, Lease
from trinity_snap.repository.packs import pack_name
from trinity_snap.repository.prune_plan import FenceDecision, candidates_for_fence, decide_fence, packs_to_fence
from trinity_snap.repository.receipts import PACKS_PER_RECEIPT, put_checks, put_forgotten, put_points
from trinity_snap.repository.stand_ins import lost_packs, stand_ins
from trinity_snap.repository.supersede import supersede
from trinity_snap.repository.survey import PointFacts, Survey, survey
from trinity_snap.repository.tidy import PackSessions, tidy_copies, tidy_sessions

if TYPE_CHECKING:
    from trinity_snap.repository.repository import Repository

__all__ = ["PruneReport", "Waiting", "prune", "require_sound", "tidy_receipts"]

_NAMED = 3


@dataclass(frozen=True)
class Waiting:
    """A fence that is not old enough: how much it condemns, and when (Unix time in ns, by the storage) it may go."""

    fence: str
    packs: int
    bytes: int
    due_ns: int


@dataclass
class PruneReport:
    """What was done or, on a dry run, what would be. `now_ns` is the storage's time, on a dry run this machine's."""

    dry_run: bool
    now_ns: int
    points: int = 0
    not_counting: list[PointFacts] = field(default_factory=list)
    packs: int = 0
    deleted_packs: int = 0
    deleted_bytes: int = 0
    released_packs: int = 0
    kept_fenced_packs: int = 0
    fenced_packs: int = 0
    fenced_bytes: int = 0
    young_packs: int = 0
    deleted_index_objects: int = 0
    deleted_sessions: int = 0
    deleted_copy_notes: int = 0
    superseded: list[str] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)


def prune(
    repository: Repository,
    *,
    dry_run: bool = False,
    accept_missing: bool = False,
    spared: Set[bytes] = frozenset(),
    spared_objects: Set[str] = frozenset(),
    spared_points: Collection[str] = (),
    memory: Path | None = None,
    progress: Progress | None = None,
    lease: Lease = LEASE,
) -> PruneReport:
    """Delete what is due, and fence what is not needed. Return what came of it.

    `spared`: packs (SHA-256) that stay in any case; at a replica, those that the first target has, listed just before.
    So do its `spared_objects`, names of sessions and index objects, and its `spared_points`, ids. `memory` is a file of
    this machine's, which saves requests.

    Raise RemovalRefused if something is wrong with the recovery points, before anything is removed; IdentityNeeded, TargetError.
    """
    progress = progress or NullProgress()
    progress.stage("looking at the repository")
    found = survey(repository, lease=lease, guess_now=time.time_ns if dry_run else None, progress=progress)
    require_sound(found, accept_missing=accept_missing)
    # What a repack that died has left, or one at the first target. Their packs are needed for this time.
    superseded = supersede(repository, found, verified=set(), spared=spared_points, dry_run=dry_run)
    found.marks.spare(spared)
    lost = lost_packs(found)
    if lost:
        # Not firm: a prune that knows nothing of the damage may be about to delete one that is fenced.
        found.marks.needed |= stand_ins(repository, lost, found.existing - found.marks.needed)
    report = PruneReport(dry_run, found.now_ns, len(found.points), packs=len(found.existing))
    report.superseded = superseded
    report.not_counting = [point for point in found.points if not point.judgement.counts]
    work = _Work(repository, found, report, progress, lease, lost & found.existing)
    if not dry_run:
        if found.missing:
            put_forgotten(repository.target, repository.host, found.missing)
        tidy_receipts(repository, found, lease)
        tidy_drills(repository)
    work.decide()
    work.fence()
    found.let_go_of_packs()
    if not dry_run:
        report.deleted_index_objects = tidy_index(repository, progress, lost, spared=spared_objects)
        report.deleted_copy_notes = tidy_copies(repository, found, lease)
        sessions = PackSessions(memory)
        report.deleted_sessions = tidy_sessions(repository, found, lease, sessions, progress, spared=spared_objects)
    return report


def require_sound(found: Survey, *, accept_missing: bool = False) -> None:
    """Raise RemovalRefused if what is needed cannot be known, or if points are gone that nobody forgot."""
    if found.unreadable:
        names = ", ".join(point for point, _ in found.unreadable[:_NAMED])
        raise RemovalRefused(
            f"{len(found.unreadable)} recovery points cannot be read, so that it is not known what they need: {names}: "
            f"{found.unreadable[0][1]}",
            untouched="Nothing was removed.",
            next_step="Use an identity that opens them. If a point is damaged for good, `trinity-snap forget` with its whole "
            "id removes it.",
        )
    if found.missing and not accept_missing:
        raise RemovalRefused(
            f"{len(found.missing)} recovery points were there and are gone, and `forget` did not remove them: "
            f"{', '.join(found.missing[:_NAMED])}.",
            untouched="Nothing was removed.",
            next_step="Find out who deleted them, and bring them back if the storage keeps versions. Else go on with "
            "--accept-missing.",
        )
    if found.existing and not any(point.judgement.counts for point in found.points):
        raise RemovalRefused(
            "The repository has data and not one recovery point that counts: nothing says what of it is needed.",
            untouched="Nothing was removed.",
            next_step="Make a backup first. A repository that is not needed any more is removed as a whole.",
        )


def tidy_receipts(repository: Repository, found: Survey, lease: Lease) -> None:
    """Note which points count, in one receipt in the place of those that there were; remove what has said its part."""
    target, receipts = repository.target, found.receipts
    forgotten = receipts.forgotten | set(found.missing)
    wanted = {point: time_ns for point, time_ns in (found.counted | receipts.points).items() if point not in forgotten}
    if wanted != receipts.points or len(receipts.point_receipts) > 1:
        if wanted:
            put_points(target, repository.host, wanted)
        _delete_all(target.delete, receipts.point_receipts)
    for name, points in receipts.forgotten_receipts.items():
        if points.isdisjoint(receipts.points) and found.now_ns - _time(repository, name, found.now_ns) > lease.wait_ns:
            target.delete(name)
    for name in receipts.damaged:  # it says nothing to anybody any more
        if found.now_ns - _time(repository, name, found.now_ns) > lease.wait_ns:
            target.delete(name)
    for name in receipts.clocks:  # those of others that are alive are about to be looked at
        if found.now_ns - _time(repository, name, found.now_ns) > lease.wait_ns:
            target.delete(name)
    _tidy_checks(repository, found)
    if found.clock:
        target.delete(found.clock)


def _tidy_checks(repository: Repository, found: Survey) -> None:
    """Put what verify noted of packs that exist into as few receipts as it takes. Doing it twice at once loses nothing."""
    receipts = found.receipts
    checked = {digest: when for digest, when in receipts.checked.items() if digest in found.existing}
    damage = {digest: said for digest, said in receipts.damage.items() if digest in found.existing}
    if len(receipts.check_receipts) > max(1, -(-len(checked) // PACKS_PER_RECEIPT)):
        put_checks(repository.target, repository.host, checked, damage)
        _delete_all(repository.target.delete, receipts.check_receipts)


def _delete_all(delete: Callable[[str], None], names: Iterable[str]) -> None:
    for name in names:
        delete(name)


def _time(repository: Repository, name: str, otherwise: int) -> int:
    try:
        return repository.target.stat(name).time_ns
    except ObjectMissing:
        return otherwise


class _Work:
    """One call of prune, after its look."""

    def __init__(
        self,
        repository: Repository,
        found: Survey,
        report: PruneReport,
        progress: Progress,
        lease: Lease,
        damaged: Set[bytes],
    ) -> None:
        self.repository = repository
        self.target = repository.target
        self.found = found
        self.report = report
        self.progress = progress
        self.lease = lease
        self.damaged = damaged

    def decide(self) -> None:
        """Act on the fences that there are."""
        found = self.found
        for fence in found.fences:
            decision = decide_fence(fence, found.now_ns, found.marks, found.existing, self.lease)
            if decision.delete is None:
                packs = sorted(fence.packs & found.existing - self.damaged)
                if not packs and fence.packs & self.damaged:
                    continue  # it waits for nothing: no run shall rely on these for as long as points need them
                size = sum(self._size(pack) for pack in packs)
                self.report.waiting.append(Waiting(fence.name, len(packs), size, decision.due_ns))
            else:
                self._delete(decision, decision.delete)
        for fence in found.damaged_fences:
            if found.now_ns - fence.time_ns > self.lease.wait_ns and not self.report.dry_run:
                self.target.delete(fence.name)

    def _delete(self, decision: FenceDecision, packs: frozenset[bytes]) -> None:
        report, fence = self.report, decision.fence
        if not report.dry_run and not self._is_there(fence):
            return  # another prune has come to the same end
        # What points need and is damaged is not free for new runs, and not deleted: it stays behind a fence.
        still = decision.release & self.damaged - self._fenced_besides(fence)
        report.released_packs += len(decision.release - self.damaged)
        report.kept_fenced_packs += len(decision.keep)
        self.progress.stage("deleting packs (packs)", len(packs))
        for digest in sorted(packs):
            size = self._size(digest)
            if not report.dry_run:
                self.target.delete(pack_name(digest.hex()))
            report.deleted_packs += 1
            report.deleted_bytes += size
            self.progress.advance(1)
        if report.dry_run or decision.keep == fence.packs:
            return
        if decision.keep | still:
            put_fence(self.target, self.repository.host, decision.keep | still)
        self.target.delete(fence.name)  # only now: until then every run sees that the packs are condemned

    def _fenced_besides(self, fence: Fence) -> frozenset[bytes]:
        """What younger fences name, which this prune leaves as they are."""
        others = [
            other.packs
            for other in self.found.fences
            if other is not fence and self.found.now_ns <= other.time_ns + self.lease.wait_ns
        ]
        return frozenset[bytes]().union(*others)

    def _is_there(self, fence: Fence) -> bool:
        """Whether the fence still says what it said: what is deleted is what runs see as condemned."""
        try:
            return read_fence(self.target, self.repository.host, fence.name) == fence.packs
        except (ObjectMissing, IntegrityError):
            return False

    def fence(self) -> None:
        """Condemn what no point needs and is old enough."""
        found, report = self.found, self.report
        candidates = candidates_for_fence(found.existing, found.fences, found.marks)
        times: dict[bytes, int] = {}
        sizes: dict[bytes, int] = {}
        self.progress.stage("looking at packs that no point needs (packs)", len(candidates))
        for digest in candidates:
            try:
                stat = self.target.stat(pack_name(digest.hex()))
            except ObjectMissing:
                continue
            times[digest], sizes[digest] = stat.time_ns, stat.size
            self.progress.advance(1)
        chosen = sorted(packs_to_fence(times, times.__getitem__, found.now_ns, self.lease))
        report.young_packs = len(times) - len(chosen)
        report.fenced_packs = len(chosen)
        report.fenced_bytes = sum(sizes[digest] for digest in chosen)
        if report.dry_run:
            return
        for part in _parts(chosen, PACKS_PER_FENCE):
            name = put_fence(self.target, self.repository.host, part)
            due_ns = _time(self.repository, name, found.now_ns) + self.lease.wait_ns
            report.waiting.append(Waiting(name, len(part), sum(sizes[digest] for digest in part), due_ns))

    def _size(self, digest: bytes) -> int:
        try:
            return self.target.stat(pack_name(digest.hex())).size
        except ObjectMissing:
            return 0


def _parts(items: Sequence[bytes], length: int) -> Iterable[Sequence[bytes]]:
    return (items[at : at + length] for at in range(0, len(items), length))
