"""What is in a repository and what of it counts: the look that prune, forget and the model begin with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trinity_snap.errors import (
    ForeignRepository,
    IdentityNeeded,
    IntegrityError,
    ObjectMissing,
    PointMissing,
    WrongKey,
)
from trinity_snap.progress import NullProgress, Progress
from trinity_snap.repository.copies import copy_times
from trinity_snap.repository.fences import Fence, read_fence
from trinity_snap.repository.lease import LEASE, Lease
from trinity_snap.repository.points import RecoveryPoint
from trinity_snap.repository.prune_plan import Judgement, Marks, judge
from trinity_snap.repository.receipts import Receipts, put_clock, read_receipts
from trinity_snap.repository.vouching import vouched

if TYPE_CHECKING:
    from trinity_snap.repository.repository import Repository

__all__ = ["PointFacts", "Survey", "survey"]

Octets = bytes  # a structure below has a field called `bytes`


@dataclass(frozen=True)
class PointFacts:
    """One point: what it says of itself in short, when the storage got it, and whether it counts.

    Times are Unix time in ns: `time_ns` the storage's, `receipted_ns` what a receipt says of it, `created_ns` its host's.
    A point that this identity has repacked, `repacked` times, has the time of its original, whose id is `lineage`; that of any
    other point is its own.
    """

    id: str
    agent: str
    time_ns: int
    receipted_ns: int
    created_ns: int
    files: int
    bytes: int
    packs: int
    judgement: Judgement
    session_id: Octets = b""
    lineage: str = ""
    repacked: int = 0


@dataclass
class Survey:
    """A repository at one look. `now_ns` is the storage's time just before; `clock` the receipt that it was asked with."""

    now_ns: int
    clock: str | None
    receipts: Receipts
    fences: list[Fence]
    damaged_fences: list[Fence]
    existing: set[bytes]
    points: list[PointFacts] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    marks: Marks = field(default_factory=Marks)
    _notes: dict[str, int] | None = None

    @property
    def missing(self) -> list[str]:
        """Points that counted once, were not forgotten, and are not there."""
        return sorted(
            self.receipts.missing([*(point.id for point in self.points), *(point for point, _ in self.unreadable)])
        )

    def copied(self, repository: Repository, point_id: str) -> int:
        """When replication said that it would bring a point here; 0 if it never did (docs/format.md section 15)."""
        if self._notes is None:
            self._notes = copy_times(repository.target, repository.id)
        return self._notes.get(point_id, 0)

    def let_go_of_packs(self) -> None:
        """Forget which packs there are and which are needed: there may be very many, and all is decided."""
        self.existing, self.marks = set(), Marks()

    @property
    def counted(self) -> dict[str, int]:
        """The storage's times of the points that count."""
        return {point.id: point.time_ns for point in self.points if point.judgement.counts}


def survey(
    repository: Repository,
    *,
    lease: Lease = LEASE,
    guess_now: Callable[[], int] | None = None,
    progress: Progress | None = None,
) -> Survey:
    """Look at everything, in the order that the judgement needs: time, fences, points, packs.

    With `guess_now` nothing is put into the repository, and that is taken for the storage's time. Points that cannot be
    read are in `unreadable`. Raise IdentityNeeded without an identity, and TargetError.
    """
    if repository.identity is None:
        raise IdentityNeeded(
            "Only an identity says what recovery points need, and there is none here.",
            untouched="Nothing was removed.",
            next_step="Run this where the identity is: hosts never delete.",
        )
    progress = progress or NullProgress()
    target = repository.target
    clock, now_ns = (None, guess_now()) if guess_now is not None else put_clock(target, repository.host)
    receipts = read_receipts(target, repository.host)
    fences, damaged = _fences(repository)
    names = sorted(target.list_prefix("points/"))
    existing = {bytes.fromhex(name[-64:]) for name in target.list_prefix("packs/")}
    found = Survey(now_ns, clock, receipts, fences, damaged, existing)
    session_times: dict[bytes, int] = {}
    progress.stage("reading recovery points (points)", len(names))
    for name in names:
        point_id = name.removeprefix("points/")
        try:
            point = repository.read_point(point_id)
            found.points.append(_facts(repository, point, found, session_times, lease))
        except PointMissing:
            continue  # another prune has forgotten it since
        except (IntegrityError, ForeignRepository, WrongKey) as error:
            found.unreadable.append((point_id, str(error)))
        progress.advance(1)
    if clock is None:
        found.now_ns = max([found.now_ns, *(point.time_ns for point in found.points)])
    return found


def _fences(repository: Repository) -> tuple[list[Fence], list[Fence]]:
    good, damaged = [], []
    for name in repository.target.list_prefix("fences/"):
        try:
            time_ns = repository.target.stat(name).time_ns
            try:
                good.append(Fence(name, read_fence(repository.target, repository.host, name), time_ns))
            except IntegrityError:
                damaged.append(Fence(name, frozenset(), time_ns))
        except ObjectMissing:
            continue
    return good, damaged


def _facts(
    repository: Repository, point: RecoveryPoint, found: Survey, session_times: dict[bytes, int], lease: Lease
) -> PointFacts:
    target = repository.target
    try:
        stored_ns = target.stat(f"points/{point.id}").time_ns
    except ObjectMissing as error:
        raise PointMissing(f"There is no recovery point {point.id}.") from error
    session_ns = session_times.get(point.session_id)
    if session_ns is None:
        session_ns = session_times[point.session_id] = target.stat(f"sessions/{point.session_id.hex()}").time_ns
    if stored_ns - session_ns > lease.lease_ns:
        session_ns = max(session_ns, found.copied(repository, point.id))
    packs = frozenset(point.packs[at : at + 32] for at in range(0, len(point.packs), 40))
    receipted = point.id in found.receipts.points
    judgement = judge(packs, stored_ns, session_ns, found.fences, found.existing, lease, receipted=receipted)
    found.marks.add(packs, judgement)
    own = vouched(repository, point)
    time_ns = stored_ns if own is None else min(stored_ns, own.stored_ns)
    receipted_ns = found.receipts.points.get(point.id, time_ns)
    return PointFacts(
        point.id,
        point.agent,
        time_ns,
        receipted_ns,
        point.created_ns,
        point.files,
        point.bytes,
        len(packs),
        judgement,
        point.session_id,
        point.id if own is None else own.original,
        0 if own is None else own.times,
    )
