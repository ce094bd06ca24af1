"""What is wrong at a moment: the facts, judged by the policy. Nothing is remembered here, and nobody is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from statistics import median
from typing import TYPE_CHECKING, Literal

from trinity_snap.agents.model import PLATFORM_AGENT

if TYPE_CHECKING:
    from trinity_snap.events import AgentFacts, Facts
    from trinity_snap.monitor.room import Room
    from trinity_snap.policy.schema import Policy

__all__ = ["Condition", "find_conditions"]

Severity = Literal["warning", "critical"]

_SMALL_BYTES = 1 << 20
_FEW_FILES = 20
_FEWEST_SIZES = 2


@dataclass(frozen=True)
class Condition:
    """Something that is wrong. `kind` and `subject` (an agent, a kind of run, a replica, or `target`) make it the same episode.

    `sentence` says what is wrong, `advice` what to do.
    """

    kind: str
    subject: str
    severity: Severity
    sentence: str
    advice: str

    @property
    def key(self) -> str:
        """What makes two conditions one episode."""
        return f"{self.kind}:{self.subject}"


def find_conditions(
    facts: Facts, policy: Policy, now: datetime, room: Room | None = None, seen: Iterable[Condition] = ()
) -> list[Condition]:
    """Everything that is wrong, the worst first. `room` is what is free at a target in a directory of this host.

    `seen` is what is not in the facts, and was found by looking at the host.
    """
    found = [
        *_of_host(facts),
        *_emptied(facts, policy),
        *_of_target(facts, policy, now, room),
        *_of_replicas(facts, policy, now),
    ]
    found += seen
    for name, agent in sorted(facts.agents.items()):
        found += _of_agent(name, agent, policy, now)
    return sorted(found, key=lambda one: one.severity != "critical")


def _of_agent(name: str, agent: AgentFacts, policy: Policy, now: datetime) -> Iterator[Condition]:
    if agent.gone is None:
        yield from _age(name, agent, policy, now)
        if agent.outcome == "failed":
            yield Condition(
                "failed", name, "critical", f"{name} was not backed up: {agent.error or 'no reason was noted'}",
                f"Mend that, then run `trinity-snap backup {name}`.",
            )  # fmt: skip
        elif agent.outcome == "incomplete":
            yield Condition(
                "incomplete", name, "warning", f"The recovery point of {name} lacks something: {agent.error}",
                f"`trinity-snap show {(agent.point or '')[:8]} --json` names what; exclude it, or mend it.",
            )  # fmt: skip
        yield from _shrunk(name, agent, policy)
    yield from _drill(name, agent, policy, now)


def _age(name: str, agent: AgentFacts, policy: Policy, now: datetime) -> Iterator[Condition]:
    limit = policy.rpo_of(name)
    if agent.created is None:
        if now - moment(agent.first_seen) > limit:
            yield Condition(
                "never", name, "critical", f"{name} has never been backed up; it is here since {agent.first_seen}.",
                f"Run `trinity-snap backup {name}`, and see that a timer does.",
            )  # fmt: skip
    elif now - moment(agent.created) > limit:
        yield Condition(
            "late", name, "critical",
            f"The last recovery point of {name} is of {agent.created}, longer ago than {_words(limit)}.",
            "See in `systemctl list-timers` and `trinity-snap status` why no run came after it.",
        )  # fmt: skip


def _shrunk(name: str, agent: AgentFacts, policy: Policy) -> Iterator[Condition]:
    *before, last = agent.sizes or [(0, 0)]
    if len(before) < _FEWEST_SIZES:
        return
    kept = 1 - policy.monitor.shrunk_percent / 100
    for position, what, least in ((0, "bytes", _SMALL_BYTES), (1, "files", _FEW_FILES)):
        usual = median(size[position] for size in before)
        if usual >= least and last[position] < usual * kept:
            yield Condition(
                "shrunk", name, "critical",
                f"The last recovery point of {name} has {last[position]} {what}; the ones before usually had {usual:.0f}.",
                f"See with `trinity-snap diff --agent {name}` what is gone; the earlier points still have it: `hold` one.",
            )  # fmt: skip
            return


def _drill(name: str, agent: AgentFacts, policy: Policy, now: datetime) -> Iterator[Condition]:
    if agent.drill_outcome == "failed":
        yield Condition(
            "drill", name, "critical", f"The last drill of {name} failed: {agent.drill_reason or 'no reason was noted'}",
            f"`trinity-snap verify --agent {name} --read-data 100%`, and back it up anew.",
        )  # fmt: skip
        return
    limit = policy.drill.longest_age
    wanted = any(fnmatchcase(name, pattern) for pattern in policy.drill.agents)
    if limit is None or not wanted or agent.gone is not None or agent.created is None:
        return
    if now - moment(agent.proved or agent.first_seen) > limit:
        last = "never" if agent.proved is None else f"last on {agent.proved}"
        yield Condition(
            "unproved", name, "warning", f"That {name} can be restored was {last} proved.", "Run `trinity-snap drill`."
        )


def _of_host(facts: Facts) -> Iterator[Condition]:
    if facts.held is not None:
        yield Condition(
            "held", "host", "critical", f"Something is left paused or stopped since {facts.held}.",
            "Run `trinity-snap recover`.",
        )  # fmt: skip
    for what, run in sorted(facts.runs.items()):
        # What became of single agents and replicas has conditions of its own.
        if (run.outcome == "failed" and what != "restore") or (run.outcome == "interrupted" and what == "backup"):
            yield Condition(
                "run", what, "critical" if what == "backup" else "warning",
                f"The last {what} {'failed' if run.outcome == 'failed' else 'did not end'}: {run.error or 'no reason was noted'}",
                f"Mend that, then run `trinity-snap {what}` again.",
            )  # fmt: skip


def _emptied(facts: Facts, policy: Policy) -> Iterator[Condition]:
    """One agent that is gone was removed; if all are, it is rather Docker that has lost its data, or shows another's."""
    known = [agent for name, agent in facts.agents.items() if name != PLATFORM_AGENT and agent.created is not None]
    if known and all(agent.gone is not None for agent in known) and not _any_here(facts) and _looks_for_agents(policy):
        yield Condition(
            "emptied", "host", "critical",
            f"Not one of the {len(known)} agents that were backed up here is on this host any more.",
            "See in `docker volume ls` whether Docker has its data: its disk may not be mounted. If it is meant so: `policy set "
            "agents.discover.trinity=false`.",
        )  # fmt: skip


def _any_here(facts: Facts) -> bool:
    return any(name != PLATFORM_AGENT and agent.gone is None for name, agent in facts.agents.items())


def _looks_for_agents(policy: Policy) -> bool:
    return policy.agents.discover.trinity or bool(policy.agents.rules)


def _of_target(facts: Facts, policy: Policy, now: datetime, room: Room | None) -> Iterator[Condition]:
    if facts.full is not None:
        yield Condition(
            "full", "target", "critical", f"The target has no room since {facts.full}.",
            "Make room, or let old points go: `trinity-snap forget` and `prune`.",
        )  # fmt: skip
    elif room is not None and room.free_percent < policy.monitor.free_percent:
        yield Condition(
            "full", "target", "critical", f"The target is nearly full: {room.free_percent:.1f}% of its disk is free.",
            "Make room, or let old points go: `trinity-snap forget` and `prune`.",
        )  # fmt: skip
    if facts.damaged:
        yield Condition(
            "damaged", "target", "critical", f"{facts.damaged} objects of the repository were damaged when it was verified last.",
            "`trinity-snap verify` says whom that concerns; `trinity-snap repair` brings back what a replica has.",
        )  # fmt: skip
    limit = policy.monitor.verify_max_age
    since = facts.verified or (facts.since if any(agent.created for agent in facts.agents.values()) else None)
    if limit is not None and since is not None and now - moment(since) > _span(limit):
        last = (
            "Nobody has ever verified the repository"
            if facts.verified is None
            else "The repository was last verified on"
        )
        yield Condition(
            "unverified", "target", "warning", f"{last}{'' if facts.verified is None else ' ' + facts.verified}.",
            "Run `trinity-snap verify --read-data 5%`, and let a timer do it.",
        )  # fmt: skip


def _of_replicas(facts: Facts, policy: Policy, now: datetime) -> Iterator[Condition]:
    for replica in policy.replicas:
        known = facts.replicas.get(replica.name)
        since = (known and known.succeeded) or facts.since
        if since is not None and now - moment(since) > replica.longest_age:
            why = f": {known.error}" if known is not None and known.error else "."
            yield Condition(
                "behind", replica.name, "warning", f"The replica {replica.name} is not up to date since {since}{why}",
                f"Run `trinity-snap replicate {replica.name}`.",
            )  # fmt: skip


def moment(text: str) -> datetime:
    """A time of the facts."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _span(text: str) -> timedelta:
    from trinity_snap.report.times import parse_duration

    return parse_duration(text)


def _words(length: timedelta) -> str:
    hours = length.total_seconds() / 3600
    return f"{hours / 24:g} days" if hours >= 48 and hours % 24 == 0 else f"{hours:g} h"
