"""What prune decides, as functions of what it saw: no storage, no clock, no keys (docs/format.md section 14).

The model in `tests/model` and the command work with the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence, Set
from dataclasses import dataclass, field

from trinity_snap.repository.fences import Fence
from trinity_snap.repository.lease import Lease

__all__ = ["FenceDecision", "Judgement", "Marks", "candidates_for_fence", "decide_fence", "judge", "packs_to_fence"]


@dataclass(frozen=True)
class Judgement:
    """Whether a point counts. `obedient`: it was stored in time and relies on nothing that it had to know as condemned.

    `reason` is a sentence, empty if the point counts.
    """

    counts: bool
    obedient: bool
    complete: bool
    reason: str = ""


def judge(
    packs: Set[bytes],
    time_ns: int,
    session_time_ns: int,
    fences: Iterable[Fence],
    existing: Set[bytes],
    lease: Lease,
    *,
    receipted: bool = False,
) -> Judgement:
    """Judge a point that needs `packs`, by the storage's times of it and of its session.

    `existing` are the packs listed after the point was; `fences` those listed before. With `receipted` it counts for ever.
    """
    in_time = time_ns - session_time_ns <= lease.lease_ns
    relies_on_condemned = any(
        fence.time_ns + lease.skew_ns < session_time_ns and not packs.isdisjoint(fence.packs) for fence in fences
    )
    complete = packs <= existing
    obedient = in_time and not relies_on_condemned
    if receipted or (obedient and complete):
        return Judgement(True, obedient, complete)
    if not in_time:
        hours = (time_ns - session_time_ns) / 3.6e12
        reason = (
            f"It was stored {hours:.1f} h after its run began, later than the lease of {lease.lease_ns / 3.6e12:g} h."
        )
    elif not complete:
        reason = f"{len(packs - existing)} of the {len(packs)} packs that it needs are missing."
    else:
        reason = "It relies on packs that were condemned before its run began."
    return Judgement(False, obedient, complete, reason)


@dataclass
class Marks:
    """The packs that points need: `firm` by obedient ones, `needed` by any point that is there."""

    firm: set[bytes] = field(default_factory=set)
    needed: set[bytes] = field(default_factory=set)

    def add(self, packs: Iterable[bytes], judgement: Judgement) -> None:
        """Take in what one point needs. No point's packs are deleted while it is there, whether it counts or not."""
        packs = list(packs)
        self.needed.update(packs)
        if judgement.obedient:
            self.firm.update(packs)

    def spare(self, packs: Set[bytes]) -> None:
        """Take these packs as needed, whatever the points say."""
        self.needed |= packs
        self.firm |= packs


@dataclass(frozen=True)
class FenceDecision:
    """What becomes of a fence's packs: deleted now, left fenced, or free again.

    `delete` is None while the fence is not old enough: nothing is decided before.
    """

    fence: Fence
    due_ns: int
    delete: frozenset[bytes] | None = None
    keep: frozenset[bytes] = frozenset()
    release: frozenset[bytes] = frozenset()


def decide_fence(fence: Fence, now_ns: int, marks: Marks, existing: Set[bytes], lease: Lease) -> FenceDecision:
    """Decide on a fence. `now_ns` is a time of the storage from before the points of `marks` were listed.

    Every prune that decides on the same fence comes to the same `release`: a point that obeys and does not know of the
    fence was stored by then. What only a point needs that does not obey stays fenced, for as long as that point is there.
    """
    due_ns = fence.time_ns + lease.wait_ns
    if now_ns <= due_ns:
        return FenceDecision(fence, due_ns)
    there = fence.packs & existing
    release = there & marks.firm
    keep = (there & marks.needed) - release
    return FenceDecision(fence, due_ns, there - release - keep, keep, release)


def packs_to_fence(
    candidates: Collection[bytes], time_of: Callable[[bytes], int], now_ns: int, lease: Lease
) -> frozenset[bytes]:
    """Which packs, needed by no point and in no fence, are old enough: no run that stored them can still commit a point."""
    return frozenset(pack for pack in candidates if now_ns - time_of(pack) > lease.wait_ns)


def candidates_for_fence(existing: Set[bytes], fences: Sequence[Fence], marks: Marks) -> Set[bytes]:
    """The packs that no point needs and no fence names."""
    return existing - marks.needed - frozenset[bytes]().union(*(fence.packs for fence in fences))
