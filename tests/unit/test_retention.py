"""Which points stay: properties of the rules as a function."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trinity_snap.repository.retention import Candidate, RetentionRules, retain

DAY_NS = 24 * 3600 * 10**9
NOW_NS = 1_790_000_000 * 10**9

times = st.integers(0, 800 * 24).map(lambda hours: NOW_NS - hours * DAY_NS // 24)
candidates = st.lists(st.tuples(times, st.booleans()), min_size=1, max_size=40).map(
    lambda all_: [Candidate(f"{number:032x}", time, time, counts) for number, (time, counts) in enumerate(all_)]
)
counts = st.integers(0, 5)
rules = st.builds(
    RetentionRules,
    last=counts,
    hourly=counts,
    daily=counts,
    weekly=counts,
    monthly=counts,
    yearly=counts,
    within=st.none() | st.integers(1, 400).map(lambda days: timedelta(days)),
    minimum=st.integers(1, 4),
)


@given(candidates, rules)
def test_points_that_do_not_count_never_take_the_place_of_those_that_do(
    points: list[Candidate], some: RetentionRules
) -> None:
    alone = {one.id for one in retain([point for point in points if point.counts], some) if one.keep}
    assert alone <= {one.id for one in retain(points, some) if one.keep}


@given(candidates, rules)
def test_the_newest_that_counts_and_the_minimum_stay(points: list[Candidate], some: RetentionRules) -> None:
    kept = {one.id for one in retain(points, some) if one.keep}
    counting = sorted((one for one in points if one.counts), key=lambda one: (one.time_ns, one.id), reverse=True)
    assert {one.id for one in counting[: some.minimum]} <= kept


@given(candidates, rules)
def test_forgetting_again_what_was_left_forgets_nothing_more(points: list[Candidate], some: RetentionRules) -> None:
    left = [one for one in points if one.id in {found.id for found in retain(points, some) if found.keep}]
    assert all(one.keep for one in retain(left, some))


@given(candidates, rules, st.integers(-1000, 1000))
def test_a_wrong_clock_of_a_host_makes_more_stay_and_never_less(
    points: list[Candidate], some: RetentionRules, days: int
) -> None:
    right = {one.id for one in retain(points, some) if one.keep}
    wrong = [Candidate(one.id, one.time_ns, one.created_ns + days * DAY_NS, one.counts) for one in points]
    assert right <= {one.id for one in retain(wrong, some) if one.keep}


@given(candidates, rules, st.lists(st.integers(-(2**70), 2**70), min_size=80, max_size=80))
def test_no_lie_about_times_makes_less_stay(points: list[Candidate], some: RetentionRules, lies: list[int]) -> None:
    right = {one.id for one in retain(points, some) if one.keep}
    lied = [
        Candidate(one.id, one.time_ns, created, one.counts, receipted)
        for one, created, receipted in zip(points, lies, lies[40:], strict=False)
    ]
    assert right <= {one.id for one in retain(lied, some) if one.keep}


def test_each_rule_keeps_the_newest_of_each_of_its_periods() -> None:
    points = [Candidate(f"{day:032x}", NOW_NS - day * DAY_NS, NOW_NS - day * DAY_NS) for day in range(400)]
    for rule, wanted in (("last", 3), ("daily", 7), ("weekly", 5), ("monthly", 6), ("yearly", 2)):
        only: dict[str, Any] = {rule: wanted}
        kept = [one for one in retain(points, RetentionRules(**only)) if one.keep]
        assert len(kept) == wanted
        assert kept[0].id == points[0].id
        assert all(rule in one.reasons[0] for one in kept)
    assert sum(one.keep for one in retain(points, RetentionRules(within=timedelta(10)))) == 11


def test_every_decision_says_why() -> None:
    points = [Candidate(f"{day:032x}", NOW_NS - day * DAY_NS, NOW_NS - day * DAY_NS) for day in range(5)]
    for decision in retain(points, RetentionRules(last=1, daily=2), held=[points[4].id]):
        assert decision.reasons
    assert retain(points, RetentionRules(last=1), held=[points[4].id])[-1].reasons == ("held",)
