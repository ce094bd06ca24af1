"""What prune decides, at the very moments where it changes its mind."""

from __future__ import annotations

import pytest

from trinity_snap.repository.fences import Fence
from trinity_snap.repository.lease import LEASE
from trinity_snap.repository.prune_plan import (
    Judgement,
    Marks,
    candidates_for_fence,
    decide_fence,
    judge,
    packs_to_fence,
)

A, B, C, D = (bytes([number]) * 32 for number in range(4))
NOW = 10**18


@pytest.mark.parametrize(("late", "counts"), [(-1, True), (0, True), (1, False)])
def test_a_point_counts_to_the_last_moment_of_its_lease(late: int, counts: bool) -> None:
    judgement = judge({A}, NOW + LEASE.lease_ns + late, NOW, (), {A}, LEASE)
    assert (judgement.counts, judgement.obedient, bool(judgement.reason)) == (counts, counts, not counts)
    assert judge({A}, NOW + LEASE.lease_ns + late, NOW, (), {A}, LEASE, receipted=True).counts


def test_a_point_is_complete_if_all_of_its_packs_are_there_whatever_else_is() -> None:
    for existing, complete in (({A}, True), ({A, B}, True), ({B}, False), (set(), False)):
        judgement = judge({A}, NOW, NOW, (), existing, LEASE)
        assert (judgement.complete, judgement.counts) == (complete, complete)
        assert judge({A}, NOW, NOW, (), existing, LEASE, receipted=True).complete == complete


def test_why_a_point_does_not_count_is_said_as_it_is() -> None:
    late = judge({A}, NOW + 30 * 3600 * 10**9, NOW, (), set(), LEASE)
    assert late.reason == "It was stored 30.0 h after its run began, later than the lease of 24 h."
    assert judge({A, B, C}, NOW, NOW, (), {A}, LEASE).reason == "2 of the 3 packs that it needs are missing."
    condemned = judge({A}, NOW, NOW, [Fence("f", frozenset({A}), NOW - LEASE.margin_ns)], {A}, LEASE)
    assert condemned.reason == "It relies on packs that were condemned before its run began."


@pytest.mark.parametrize(("after", "obedient"), [(-1, True), (0, True), (1, False)])
def test_a_run_knows_of_a_fence_that_is_older_by_more_than_clocks_differ(after: int, obedient: bool) -> None:
    fence = Fence("f", frozenset({A}), NOW)
    began = NOW + LEASE.skew_ns + after
    assert judge({A, B}, began, began, [fence], {A, B}, LEASE).obedient == obedient
    assert judge({B}, began, began, [fence], {A, B}, LEASE).obedient


@pytest.mark.parametrize(("after", "due"), [(-1, False), (0, False), (1, True)])
def test_a_fence_is_decided_on_when_its_time_is_over_and_not_before(after: int, due: bool) -> None:
    marks = Marks(firm={B}, needed={B, C})
    fence = Fence("f", frozenset({A, B, C, D}), NOW)
    decision = decide_fence(fence, NOW + LEASE.wait_ns + after, marks, {A, B, C}, LEASE)
    assert decision.due_ns == NOW + LEASE.wait_ns
    assert decision.delete == (frozenset({A}) if due else None)
    assert (decision.keep, decision.release) == (
        (frozenset({C}), frozenset({B})) if due else (frozenset(), frozenset())
    )


@pytest.mark.parametrize(("after", "old"), [(-1, False), (0, False), (1, True)])
def test_a_pack_that_a_run_may_still_name_is_not_condemned(after: int, old: bool) -> None:
    times = {A: NOW, B: NOW + 2}
    assert packs_to_fence({A, B}, times.__getitem__, NOW + LEASE.wait_ns + after, LEASE) == ({A} if old else set())


def test_what_no_point_needs_and_no_fence_names_may_be_condemned() -> None:
    marks = Marks()
    marks.add([A], Judgement(counts=True, obedient=True, complete=True))
    marks.add([B], Judgement(counts=False, obedient=False, complete=True))
    assert (marks.firm, marks.needed) == ({A}, {A, B})
    marks.spare({C})
    assert (marks.firm, marks.needed) == ({A, C}, {A, B, C})
    assert candidates_for_fence({A, B, C, D}, [], marks) == {D}
    assert candidates_for_fence({A, B, C, D}, [Fence("f", frozenset({D}), NOW)], marks) == set()
