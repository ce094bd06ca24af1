"""What all events add up to: how every agent, every kind of run and the target stand.

Kept beside the journal, so that an event that was rotated away still counts: of a hundred runs that failed, the success before
them. `facts.json` names the last event in it; what came after is added when it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trinity_snap.durable import write_file_durably
from trinity_snap.events.journal import Event, EventJournal

__all__ = ["AgentFacts", "Facts", "KindFacts", "ReplicaFacts", "fold", "load_facts"]

_SIZES_KEPT = 8
_POINT_OUTCOMES = ("done", "downgraded", "incomplete")


@dataclass
class AgentFacts:
    """One agent. Times are RFC 3339, None if it never happened.

    `point`, `created` and the figures are of the last recovery point; `succeeded` is when a run last made one that lacks
    nothing. `outcome` and `error` are of the last run, good or not. `sizes` are (bytes, files) of the last points, oldest
    first. `gone`: since when it is no longer on this host. One that was only drilled here was never here.
    """

    first_seen: str
    gone: str | None = None
    was_here: bool = True
    point: str | None = None
    created: str | None = None
    succeeded: str | None = None
    bytes: int = 0
    files: int = 0
    stored: int = 0
    pause_seconds: float = 0.0
    duration_seconds: float = 0.0
    consistency: str = ""
    ran: str | None = None
    outcome: str | None = None
    error: str | None = None
    failures: int = 0
    runs: int = 0
    sizes: list[tuple[int, int]] = field(default_factory=list)
    proved: str | None = None
    drilled: str | None = None
    drill_outcome: str | None = None
    drill_reason: str | None = None


@dataclass
class KindFacts:
    """One kind of run: when it last ended, and how; when it last ended well; how often it ended, and how often badly."""

    ended: str
    outcome: str
    error: str | None = None
    kind: str | None = None
    succeeded: str | None = None
    duration_seconds: float = 0.0
    runs: int = 0
    failures: int = 0


@dataclass
class ReplicaFacts:
    """One replica: what came of the last attempt, and when it was last up to date."""

    outcome: str
    error: str | None = None
    succeeded: str | None = None


@dataclass
class Facts:
    """Everything that the events up to `seq` add up to. `since`: when the first of them was.

    `verified`: when the repository was checked last, by whomever; `damaged`: how many objects were damaged then; `looked`: when
    its receipts were read. `held`: since when something is left quiesced. `full`: since when the target has no room.
    """

    seq: int = 0
    since: str | None = None
    agents: dict[str, AgentFacts] = field(default_factory=dict)
    runs: dict[str, KindFacts] = field(default_factory=dict)
    replicas: dict[str, ReplicaFacts] = field(default_factory=dict)
    verified: str | None = None
    damaged: int = 0
    looked: str | None = None
    held: str | None = None
    full: str | None = None


def load_facts(state_dir: Path) -> Facts:
    """What is known at this moment; a file that is lost or damaged is made anew from the events that there are.

    What was added up is kept, where that is possible. Raise nothing.
    """
    import msgspec

    journal = EventJournal(state_dir)
    path = journal.directory / "facts.json"
    facts = Facts()
    try:
        facts = msgspec.json.decode(path.read_bytes(), type=Facts)
    except (OSError, msgspec.DecodeError):
        pass
    if facts.seq > journal.last_seq():  # the journal was lost, and begins anew: what was known before still holds
        facts.seq = 0
    before = facts.seq
    fold(facts, journal.read(after=before))
    if facts.seq != before:
        try:
            write_file_durably(path, msgspec.json.encode(facts))
        except OSError:  # then it is added up again the next time
            pass
    return facts


def fold(facts: Facts, events: Iterable[Event]) -> None:
    """Add events to the facts. Those that make no sense are passed over."""
    for event in events:
        try:
            _take(facts, event)
        except (AttributeError, KeyError, TypeError, ValueError):
            pass
        facts.seq = int(event["seq"])


def _take(facts: Facts, event: Event) -> None:
    what, when = str(event["event"]), str(event["time"])
    facts.since = facts.since or when
    if what == "agents":
        _seen(facts, event["agents"], when, whole=bool(event.get("whole", True)))
        return
    if what == "checked":
        facts.looked, facts.damaged = when, int(event["damaged"])
        facts.verified = _later(facts.verified, event["verified"]) if event.get("verified") else facts.verified
        return
    if what == "alarm":
        return
    _run(facts, what, event)
    if what == "backup":
        _backup(facts, event)
    elif what == "drill":
        _drills(facts, event)
    elif what == "verify" and event.get("whole"):
        facts.verified, facts.damaged = _later(facts.verified, when), int(event.get("damaged", 0))
    for one in event.get("replicas") or ():
        _replica(facts, one, when)
    if event.get("held"):
        facts.held = facts.held or when
    elif what in ("backup", "recover") and event["outcome"] not in ("failed", "interrupted"):
        facts.held = None


def _run(facts: Facts, what: str, event: Event) -> None:
    when, outcome = event["time"], str(event["outcome"])
    known = facts.runs.setdefault(what, KindFacts(when, outcome))
    known.ended, known.outcome = when, outcome
    known.error, known.kind = event.get("error"), event.get("kind")
    known.duration_seconds = float(event.get("duration_seconds") or 0)
    known.runs += 1
    if outcome in ("done", "downgraded"):
        known.succeeded = when
    else:
        known.failures += 1


def _backup(facts: Facts, event: Event) -> None:
    when = event["time"]
    parts = event.get("agents") or []
    parts = [part for part in parts if part["outcome"] != "skipped"]
    _seen(facts, [part["agent"] for part in parts], when, whole=bool(event.get("whole")))
    for part in parts:
        _part(facts.agents[part["agent"]], part, event)
    if event.get("kind") == "TargetFull":
        facts.full = facts.full or when
    elif any(part.get("point") for part in parts):
        facts.full = None


def _part(agent: AgentFacts, part: Mapping[str, Any], event: Event) -> None:
    agent.ran, agent.outcome, agent.error = event["time"], str(part["outcome"]), part.get("error")
    agent.runs += 1
    if part["outcome"] not in ("done", "downgraded"):
        agent.failures += 1
    if not part.get("point") or part["outcome"] not in _POINT_OUTCOMES:
        return
    agent.point = part["point"]
    agent.created = _normal(event.get("created") or event["time"])
    if part["outcome"] != "incomplete":
        agent.succeeded = event["time"]
    agent.bytes, agent.files, agent.stored = int(part["bytes"]), int(part["files"]), int(part["stored"])
    agent.pause_seconds, agent.duration_seconds = float(part["pause"]), float(part["seconds"])
    agent.consistency = str(part["consistency"])
    agent.sizes = [*agent.sizes, (agent.bytes, agent.files)][-_SIZES_KEPT:]


def _seen(facts: Facts, names: Iterable[str], when: str, *, whole: bool) -> None:
    """These agents are there; with `whole`, no others are."""
    present = set(names)
    for name in present:
        agent = facts.agents.setdefault(name, AgentFacts(when))
        agent.gone, agent.was_here = None, True
    if whole:
        for name in facts.agents.keys() - present:
            facts.agents[name].gone = facts.agents[name].gone or when


def _drills(facts: Facts, event: Event) -> None:
    for one in event.get("drills") or ():
        agent = facts.agents.get(one["agent"])
        if agent is None:  # drilled where nothing is backed up, such as on a control node
            agent = facts.agents[one["agent"]] = AgentFacts(event["time"], gone=event["time"], was_here=False)
        agent.drilled, agent.drill_outcome, agent.drill_reason = one["started"], one["outcome"], one.get("reason")
        if one["outcome"] == "proved":
            agent.proved = _later(agent.proved, one["started"])


def _replica(facts: Facts, one: Mapping[str, Any], when: str) -> None:
    known = facts.replicas.setdefault(one["replica"], ReplicaFacts(one["outcome"]))
    known.outcome, known.error = one["outcome"], one.get("error")
    if one["outcome"] == "done":
        known.succeeded = when


def _later(first: str | None, second: str) -> str:
    return max(first or "", second)


def _normal(moment: str) -> str:
    """A time as all the others are, so that they can be compared as texts."""
    from datetime import datetime

    from trinity_snap.report.times import timestamp

    return timestamp(datetime.fromisoformat(moment))
