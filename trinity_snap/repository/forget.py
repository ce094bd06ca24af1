"""Removing recovery points that the retention rules do not keep. What only they needed is prune's to delete."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from trinity_snap.errors import AgentMissing, PointAmbiguous, PointMissing, PolicyError, RemovalRefused
from trinity_snap.progress import Progress
from trinity_snap.repository.lease import LEASE, Lease
from trinity_snap.repository.prune import require_sound, tidy_receipts
from trinity_snap.repository.receipts import put_forgotten
from trinity_snap.repository.retention import Candidate, Decision, RetentionRules, retain
from trinity_snap.repository.survey import PointFacts, Survey, survey

if TYPE_CHECKING:
    from trinity_snap.repository.repository import Repository

__all__ = ["AgentRetention", "ForgetReport", "forget"]

_SMALL = 4
_COMPARED = 5
_ID_DIGITS = 32
_MINIMUM_PREFIX = 4


@dataclass
class AgentRetention:
    """What becomes of one agent's points, newest first. `refused` is a sentence: nothing of the agent is removed then."""

    agent: str
    decisions: list[tuple[PointFacts, Decision]] = field(default_factory=list)
    refused: str | None = None

    @property
    def forgotten(self) -> list[PointFacts]:
        """The points that go."""
        return [] if self.refused else [point for point, decision in self.decisions if not decision.keep]


@dataclass
class ForgetReport:
    """What was done or, on a dry run, what would be. `damaged` are ids of unreadable points that were named and went."""

    dry_run: bool
    now_ns: int
    agents: list[AgentRetention]
    damaged: list[str] = field(default_factory=list)

    @property
    def forgotten(self) -> list[str]:
        """The ids of the points that go."""
        return [point.id for agent in self.agents for point in agent.forgotten] + self.damaged


def forget(
    repository: Repository,
    rules_for: Callable[[str], RetentionRules],
    chosen: Sequence[str] = (),
    *,
    dry_run: bool = False,
    accept: Collection[str] = (),
    accept_missing: bool = False,
    spared: Collection[str] = (),
    progress: Progress | None = None,
    lease: Lease = LEASE,
) -> ForgetReport:
    """Apply the rules to all agents, or to those `chosen`; or remove just the points that are chosen.

    `accept` names agents whose newest point may be void or small. `spared`: ids of points that stay as if they were held;
    at a replica, those that the first target has. Raise PolicyError for rules that keep nothing,
    RemovalRefused if something is wrong with the repository, AgentMissing, PointMissing, PointAmbiguous.
    """
    found = survey(repository, lease=lease, guess_now=time.time_ns if dry_run else None, progress=progress)
    damaged = [point for point, _ in found.unreadable if point in chosen]
    found.unreadable = [(point, why) for point, why in found.unreadable if point not in chosen]
    require_sound(found, accept_missing=accept_missing)
    only_spared = set(spared) - found.receipts.holds.keys()
    for point_id in spared:
        found.receipts.holds.setdefault(point_id, [])
    _require_clock(found, lease)
    agents: dict[str, list[PointFacts]] = {}
    for point in found.points:
        agents.setdefault(point.agent, []).append(point)
    names, points = _split(found, agents, [one for one in chosen if one not in damaged])
    report = ForgetReport(dry_run, found.now_ns, [], damaged)
    if points:
        report.agents = [
            _named(agent, agents[agent], points, found, only_spared) for agent in sorted({p.agent for p in points})
        ]
    elif not damaged or names:
        for agent in sorted(names or agents):
            rules = rules_for(agent)
            if rules.keeps_nothing:
                raise PolicyError(
                    f"The policy says nothing of what to keep of {agent}, so that nothing would stay.",
                    untouched="Nothing was removed.",
                    next_step="Set `retention` in the policy, such as `last: 3`, `daily: 7`, `weekly: 5`, `monthly: 12`.",
                )
            report.agents.append(_retention(agent, agents, rules, found, accept))
    if not dry_run:
        going = report.forgotten
        if going or found.missing:
            put_forgotten(repository.target, repository.host, {*going, *found.missing})
        for point_id in going:
            repository.target.delete(f"points/{point_id}")
        found.receipts.forgotten.update(going)
        tidy_receipts(repository, found, lease)
    return report


def _require_clock(found: Survey, lease: Lease) -> None:
    newest = max((point.time_ns for point in found.points), default=0)
    if newest > found.now_ns + lease.margin_ns:
        raise RemovalRefused(
            f"The storage's clock is {(newest - found.now_ns) / 3.6e12:.1f} h behind its newest recovery point.",
            untouched="Nothing was removed.",
            next_step="Set the clock of the storage.",
        )


def _split(
    found: Survey, agents: dict[str, list[PointFacts]], chosen: Sequence[str]
) -> tuple[list[str], list[PointFacts]]:
    """Which of what was named are agents, and which points."""
    names, points = [], []
    for one in chosen:
        if one in agents:
            names.append(one)
            continue
        fitting = [point for point in found.points if point.id.startswith(one.lower())]
        if len(one) < _MINIMUM_PREFIX or not fitting:
            kind = PointMissing if set(one.lower()) <= set("0123456789abcdef") else AgentMissing
            raise kind(
                f"There is neither an agent nor a recovery point {one!r}.", next_step="`trinity-snap list` shows both."
            )
        if len(fitting) > 1:
            raise PointAmbiguous(f"{len(fitting)} recovery points begin with {one!r}.", next_step="Give more digits.")
        points += fitting
    if names and points:
        raise RemovalRefused("Name either agents or recovery points, not both.", untouched="Nothing was removed.")
    return names, points


def _named(
    agent: str, there: list[PointFacts], points: list[PointFacts], found: Survey, only_spared: Collection[str]
) -> AgentRetention:
    """Points that the operator named go, unless they are held or the agent would be without any."""
    retention = AgentRetention(agent)
    going = {point.id for point in points if point.agent == agent}
    for point in sorted(there, key=lambda one: one.time_ns, reverse=True):
        retention.decisions.append(
            (point, Decision(point.id, point.id not in going, ("named" if point.id in going else "not named",)))
        )
    held = sorted(going & found.receipts.holds.keys())
    if held and held[0] in only_spared:
        retention.refused = (
            f"{held[0][:8]} is at the first target, too, and would be brought back; forget it there first, or with "
            "--all-targets."
        )
    elif held:
        retention.refused = f"{held[0][:8]} is held; `trinity-snap hold --release` lets it go."
    counting = {point.id for point in there if point.judgement.counts}
    if not held and counting and counting <= going:
        retention.refused = "It would be left without any recovery point that counts."
    return retention


def _retention(
    agent: str, agents: dict[str, list[PointFacts]], rules: RetentionRules, found: Survey, accept: Collection[str]
) -> AgentRetention:
    there = {point.id: point for point in agents[agent]}
    families = _families(agents[agent])
    held = {family[0].id for family in families if not found.receipts.holds.keys().isdisjoint(one.id for one in family)}
    candidates = [
        Candidate(one.id, one.time_ns, one.created_ns, one.judgement.counts, one.receipted_ns) for one, *_ in families
    ]
    decisions = retain(candidates, rules, held)
    retention = AgentRetention(agent)
    if rules.removed_agents is not None and _is_removed(agent, agents, rules.removed_agents, found.now_ns):
        decisions = [
            Decision(one.id, one.id in held, ("held",) if one.id in held else ("the agent was removed long ago",))
            for one in decisions
        ]
    elif agent not in accept:
        retention.refused = _doubt(list(there.values()))
    others = {family[0].id: family[1:] for family in families}
    retention.decisions = [(there[one.id], one) for one in decisions]
    retention.decisions += [
        (other, Decision(other.id, one.keep, one.reasons)) for one in decisions for other in others[one.id]
    ]
    if retention.refused is None and not any(one.keep for one in decisions) and rules.removed_agents is None:
        retention.refused = "It would be left without any recovery point."
    return retention


def _families(points: Sequence[PointFacts]) -> list[list[PointFacts]]:
    """Points of which each was made of another one by repacking, and stays or goes with it.

    Mostly a point is alone: the other goes at once, unless who repacked has died. The first of a family stands for all: one that
    counts, and that was repacked, for a host can put something else under the id that has become free.
    """
    families: dict[str, list[PointFacts]] = {}
    for point in points:
        families.setdefault(point.lineage, []).append(point)
    return [sorted(family, key=lambda one: (not one.judgement.counts, -one.repacked)) for family in families.values()]


def _is_removed(agent: str, agents: dict[str, list[PointFacts]], after: timedelta, now_ns: int) -> bool:
    """Whether nothing was backed up of the agent for so long, while something was of others."""
    oldest_ns = now_ns - int(after.total_seconds() * 1e9)
    newest = {name: max(point.time_ns for point in points) for name, points in agents.items()}
    return newest[agent] < oldest_ns and max(newest.values()) >= oldest_ns


def _doubt(points: list[PointFacts]) -> str | None:
    """Why older points of an agent had better stay: something is wrong with its newest."""
    newest, *older = sorted(points, key=lambda one: (one.time_ns, one.id), reverse=True)
    if not newest.judgement.counts:
        return f"Its newest recovery point {newest.id[:8]} does not count: {newest.judgement.reason}"
    before = [point for point in older if point.judgement.counts][:_COMPARED]
    for what in ("bytes", "files") if before else ():
        usual = statistics.median(getattr(point, what) for point in before)
        now = getattr(newest, what)
        if now * _SMALL < usual:
            return f"Its newest recovery point {newest.id[:8]} has {now} {what}, where {usual:.0f} were usual."
    return None
