"""Which recovery points count, for who reads: nothing is written, and little is asked (docs/format.md section 14)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

from trinity_snap.errors import IntegrityError, ObjectMissing, TargetDenied
from trinity_snap.repository.copies import copy_times
from trinity_snap.repository.fences import Fence, read_fence
from trinity_snap.repository.lease import LEASE, Lease
from trinity_snap.repository.points import RecoveryPoint
from trinity_snap.repository.prune_plan import judge
from trinity_snap.repository.receipts import read_receipts

if TYPE_CHECKING:
    from trinity_snap.repository.repository import Repository

__all__ = ["Counting", "void_points"]


class Counting:
    """Judges recovery points that were read before it was made: packs are listed after points, as the rule wants it."""

    def __init__(self, repository: Repository, lease: Lease = LEASE) -> None:
        self._repository = repository
        self._target = repository.target
        self._lease = lease
        self._session_times: dict[bytes, int] = {}

    def void(self, point: RecoveryPoint) -> str | None:
        """Why the point does not count, as a sentence; None if it does, or if that may not be asked here."""
        try:
            return self._void(point)
        except TargetDenied:
            return None

    def _void(self, point: RecoveryPoint) -> str | None:
        packs = frozenset(point.packs[at : at + 32] for at in range(0, len(point.packs), 40))
        try:
            stored_ns = self._target.stat(f"points/{point.id}").time_ns
            session_ns = self._session_time(point.session_id)
        except ObjectMissing:
            return "It, or the session that it belongs to, has just gone."
        if stored_ns - session_ns > self._lease.lease_ns:
            session_ns = max(session_ns, self._copied.get(point.id, 0))
        judgement = judge(packs, stored_ns, session_ns, self._fences, self._existing, self._lease)
        if judgement.counts or point.id in self._receipted:
            return None
        return judgement.reason

    def _session_time(self, session_id: bytes) -> int:
        if session_id not in self._session_times:
            self._session_times[session_id] = self._target.stat(f"sessions/{session_id.hex()}").time_ns
        return self._session_times[session_id]

    @cached_property
    def _copied(self) -> dict[str, int]:
        return copy_times(self._target, self._repository.id)

    @cached_property
    def _existing(self) -> set[bytes]:
        return {bytes.fromhex(name[-64:]) for name in self._target.list_prefix("packs/")}

    @cached_property
    def _receipted(self) -> set[str]:
        return set(read_receipts(self._target, self._repository.host).points)

    @cached_property
    def _fences(self) -> list[Fence]:
        fences = []
        for name in self._target.list_prefix("fences/"):
            try:
                packs = read_fence(self._target, self._repository.host, name)
                fences.append(Fence(name, packs, self._target.stat(name).time_ns))
            except (IntegrityError, ObjectMissing):
                continue  # a damaged fence condemns nothing; one that is gone no longer does
        return fences


def void_points(repository: Repository, points: Iterable[RecoveryPoint]) -> dict[str, str]:
    """The points that do not count, by id, with a sentence of why. `points` were read before."""
    counting = Counting(repository)
    reasons = ((point.id, counting.void(point)) for point in points)
    return {point_id: reason for point_id, reason in reasons if reason is not None}
