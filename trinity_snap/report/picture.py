"""The picture of a host for the report: how every agent stands, how it came to that, and what is to be done.

It is made from events, wherever those come from: the journal, a repository, or the status of a host far away.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from trinity_snap.events.facts import Facts, fold
from trinity_snap.monitor.conditions import Condition, find_conditions, moment
from trinity_snap.report.times import timestamp

if TYPE_CHECKING:
    from trinity_snap.events import AgentFacts, Event
    from trinity_snap.monitor.room import Room
    from trinity_snap.policy.schema import Policy

__all__ = ["AgentPicture", "Failure", "HostPicture", "Wrong", "paint"]

_FAILURES_SHOWN = 3


@dataclass(frozen=True)
class Wrong:
    """Something that is wrong, and what to do."""

    kind: str
    subject: str
    severity: str
    sentence: str
    advice: str


@dataclass(frozen=True)
class Failure:
    """What a run said when it failed."""

    time: str
    what: str
    sentence: str


@dataclass
class AgentPicture:
    """One agent. `state`: `good`, `warning`, `critical`, or `gone` (it is no longer on the host).

    Times are RFC 3339, None if it never happened. `sizes` and `pauses` are (Unix time in s, bytes) and (…, seconds) of its
    recovery points, oldest first; `missed` the Unix times of runs that gave it none. `failures`: the newest few.
    """

    agent: str
    state: str = "good"
    created: str | None = None
    age_seconds: float | None = None
    rpo_seconds: float = 0.0
    point: str | None = None
    bytes: int = 0
    files: int = 0
    consistency: str = ""
    pause_seconds: float | None = None
    proved: str | None = None
    sizes: list[tuple[int, int]] = field(default_factory=list)
    pauses: list[tuple[int, float]] = field(default_factory=list)
    longest_pause: float = 0.0
    missed: list[int] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


@dataclass
class HostPicture:
    """One host at the time `made`. `wrong` is everything that is, the worst first. `free_bytes` is None where it is not known."""

    host: str
    made: str
    target: str
    agents: list[AgentPicture] = field(default_factory=list)
    wrong: list[Wrong] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    verified: str | None = None
    free_bytes: int | None = None
    total_bytes: int | None = None
    replicas: dict[str, str | None] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """As `trinity-snap report --json` shows it."""
        return asdict(self)


def paint(
    events: Iterable[Event],
    policy: Policy,
    now: datetime,
    *,
    host: str,
    room: Room | None = None,
    facts: Facts | None = None,
    seen: Iterable[Condition] = (),
) -> HostPicture:
    """The picture that events make, oldest first. `facts` are better known than from these events, if they are given.

    `seen` is what is wrong besides, found by looking at the host.
    """
    kept = list(events)
    if facts is None:
        facts = Facts()
        fold(facts, kept)
    picture = HostPicture(host, timestamp(now), policy.target.url, verified=facts.verified)
    if room is not None:
        picture.free_bytes, picture.total_bytes = room.free_bytes, room.total_bytes
    for replica in policy.replicas:
        known = facts.replicas.get(replica.name)
        picture.replicas[replica.name] = None if known is None else known.succeeded
    conditions = find_conditions(facts, policy, now, room, seen)
    picture.wrong = [Wrong(one.kind, one.subject, one.severity, one.sentence, one.advice) for one in conditions]
    agents = {name: _agent(name, known, conditions, policy, now) for name, known in sorted(facts.agents.items())}
    for event in kept:
        _trace(event, agents, picture)
    picture.agents = [one for one in agents.values() if one.state != "gone" or one.sizes]
    picture.failures = _newest(picture.failures)
    for agent in picture.agents:
        agent.failures = _newest(agent.failures)
    return picture


def _agent(
    name: str, known: AgentFacts, conditions: Sequence[Condition], policy: Policy, now: datetime
) -> AgentPicture:
    severities = {
        one.severity for one in conditions if one.subject == name and one.kind not in ("run", "held", "behind")
    }
    worst = "critical" if "critical" in severities else "warning" if severities else "good"
    return AgentPicture(
        name,
        worst if known.gone is None or severities else "gone",
        known.created,
        None if known.created is None else round((now - moment(known.created)).total_seconds(), 3),
        policy.rpo_of(name).total_seconds(),
        known.point,
        known.bytes,
        known.files,
        known.consistency,
        None if known.created is None else known.pause_seconds,
        known.proved,
    )


def _trace(event: Event, agents: dict[str, AgentPicture], picture: HostPicture) -> None:
    """Add what an event says to the curves of agents, and to what failed. What makes no sense is passed over."""
    try:
        when, what = str(event["time"]), str(event["event"])
        if event.get("outcome") == "failed" and event.get("error"):
            picture.failures.append(Failure(when, what, str(event["error"])))
        if what == "backup":
            created = int(moment(event.get("created") or when).timestamp())
            for part in event.get("agents") or ():
                _trace_part(part, agents[part["agent"]], when, created)
        elif what == "drill":
            for one in event.get("drills") or ():
                if one["outcome"] != "proved":
                    reason = str(one.get("reason") or "No reason was noted.")
                    agents[one["agent"]].failures.append(Failure(when, what, reason))
    except (AttributeError, KeyError, TypeError, ValueError):
        return


def _newest(failures: list[Failure]) -> list[Failure]:
    return failures[: -_FAILURES_SHOWN - 1 : -1]


def _trace_part(part: dict[str, Any], agent: AgentPicture, when: str, created: int) -> None:
    if part["outcome"] in ("failed", "incomplete"):
        agent.failures.append(Failure(when, "backup", str(part.get("error") or "No reason was noted.")))
    if part.get("point"):
        agent.sizes.append((created, int(part["bytes"])))
        agent.pauses.append((created, float(part["pause"])))
        agent.longest_pause = max(agent.longest_pause, float(part["pause"]))
    elif part["outcome"] != "skipped":
        agent.missed.append(created)
