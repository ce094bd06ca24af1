"""Which recovery points of an agent stay, and why: a function of times and rules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from trinity_snap.repository.lease import LEASE

__all__ = ["Candidate", "Decision", "RetentionRules", "retain"]

_PERIODS = {
    "hourly": "%Y-%m-%d %H",
    "daily": "%Y-%m-%d",
    "weekly": "%G-W%V",
    "monthly": "%Y-%m",
    "yearly": "%Y",
}

_LATEST_NS = 250_000_000_000 * 10**9  # in the year 9892: no later time has a name


@dataclass(frozen=True)
class RetentionRules:
    """How many points of an agent stay: the newest `last`, and the newest of each of so many hours, days, …

    `within` counts back from the agent's newest point. At least `minimum` stay in any case. `removed_agents`: for how long the
    points of an agent stay that is no longer backed up while others are; None: as the other rules say.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: timedelta | None = None
    minimum: int = 1
    removed_agents: timedelta | None = None

    @property
    def keeps_nothing(self) -> bool:
        """Whether no rule says that anything stays."""
        return not (self.last or self.within or any(getattr(self, period) for period in _PERIODS))


@dataclass(frozen=True)
class Candidate:
    """A point: when the storage got it, the instant that its host noted, whether it counts, and a time that a receipt noted.

    Times are Unix time in ns. Only the first cannot be chosen by whoever has a host's credentials.
    """

    id: str
    time_ns: int
    created_ns: int
    counts: bool = True
    receipted_ns: int | None = None


@dataclass(frozen=True)
class Decision:
    """What becomes of a point. `reasons` are in words; there are some for those that go, too."""

    id: str
    keep: bool
    reasons: tuple[str, ...]


def retain(candidates: Collection[Candidate], rules: RetentionRules, held: Collection[str] = ()) -> list[Decision]:
    """Decide on all points of one agent, newest first.

    Times are the storage's. If hosts or receipts noted much different ones (the repository was copied to another storage, or a
    clock was wrong), a point stays if any of the times says so: lies about them make more stay. Points that do not count never
    take the place of one that does, and stay if they would if they counted.
    """
    newest_first = sorted(candidates, key=lambda one: (one.time_ns, one.id), reverse=True)
    counting = [one for one in newest_first if one.counts]
    reasons = _ladder(counting, rules, _storage_time)
    for point, why in _ladder(newest_first, rules, _storage_time).items():
        reasons.setdefault(point, [f"{reason} (it does not count, and takes no place)" for reason in why])
    for whose, other_time in (("a receipt's time", _receipted_time), ("its host's clock", _host_time)):
        times = {one.id: other_time(one) for one in newest_first}
        if any(abs(one.time_ns - times[one.id]) > LEASE.margin_ns for one in newest_first):
            by_other = [one for _, one in sorted(((times[one.id], one.id), one) for one in newest_first)][::-1]
            for point, why in _ladder(by_other, rules, other_time).items():
                reasons.setdefault(point, [f"{reason}, by {whose}" for reason in why])
    for number, one in enumerate(counting[: rules.minimum]):
        reasons.setdefault(one.id, [f"minimum: {number + 1} of {rules.minimum}"])
    for one in newest_first:
        if one.id in held:
            reasons[one.id] = ["held", *reasons.get(one.id, [])]
    return [
        Decision(one.id, one.id in reasons, tuple(reasons.get(one.id, ["no rule keeps it"]))) for one in newest_first
    ]


def _storage_time(one: Candidate) -> int:
    return one.time_ns


def _host_time(one: Candidate) -> int:
    return min(max(one.created_ns, 0), _LATEST_NS)


def _receipted_time(one: Candidate) -> int:
    return one.time_ns if one.receipted_ns is None else min(max(one.receipted_ns, 0), _LATEST_NS)


def _ladder(
    newest_first: Sequence[Candidate], rules: RetentionRules, time_of: Callable[[Candidate], int]
) -> dict[str, list[str]]:
    """The points that the rules keep, with the reasons."""
    reasons: dict[str, list[str]] = {}
    for number, one in enumerate(newest_first[: rules.last]):
        reasons.setdefault(one.id, []).append(f"last: {number + 1} of {rules.last}")
    for period, form in _PERIODS.items():
        wanted, seen = getattr(rules, period), set[str]()
        for one in newest_first:
            name = datetime.fromtimestamp(time_of(one) / 1e9, UTC).strftime(form)
            if len(seen) < wanted and name not in seen:
                seen.add(name)
                reasons.setdefault(one.id, []).append(f"{period}: {name}, {len(seen)} of {wanted}")
    if rules.within is not None and newest_first:
        within_ns = int(rules.within.total_seconds() * 1e9)
        for one in newest_first:
            if time_of(newest_first[0]) - time_of(one) <= within_ns:
                reasons.setdefault(one.id, []).append(f"within {_words(rules.within)} of the newest")
    return reasons


def _words(length: timedelta) -> str:
    hours = length.total_seconds() / 3600
    return f"{hours / 24:g} d" if hours % 24 == 0 else f"{hours:g} h"
