"""Metrics for the textfile collector of Prometheus' node exporter, written so that it never sees half a file."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from trinity_snap.durable import write_file_durably
from trinity_snap.monitor.conditions import moment
from trinity_snap.monitor.sinks import SinkFailed

if TYPE_CHECKING:
    from prometheus_client import Gauge

    from trinity_snap.events import AgentFacts, Facts
    from trinity_snap.monitor.conditions import Condition
    from trinity_snap.monitor.room import Room
    from trinity_snap.policy.schema import Policy

__all__ = ["render_metrics", "write_metrics"]

_PREFIX = "trinity_snap"
_OUTCOMES = ("done", "downgraded", "incomplete", "failed")


class _Make(Protocol):
    """Makes a metric of the registry."""

    def __call__(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge: ...


def write_metrics(path: Path, text: bytes) -> None:
    """Put the text in place at once, readable by all, as the collector is not root. Raise SinkFailed."""
    try:
        write_file_durably(path, text, mode=0o644)
    except OSError as error:
        raise SinkFailed(f"The metrics could not be written to {path}: {error.strerror or error}.") from error


def render_metrics(
    facts: Facts, policy: Policy, conditions: Iterable[Condition], room: Room | None, now: datetime
) -> bytes:
    """All metrics, in Prometheus' text format (docs/monitoring.md). What never happened has no sample."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()

    def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"{_PREFIX}_{name}", text, labels, registry=registry)

    _agents(facts, policy, gauge)
    succeeded = gauge("run_last_success_timestamp_seconds", "When a run of this kind last ended well.", ("run",))
    ended = gauge("run_last_timestamp_seconds", "When a run of this kind last ended, well or not.", ("run",))
    good = gauge("run_last_good", "1 if the last run of this kind ended well, 0 if not.", ("run",))
    took = gauge("run_last_duration_seconds", "How long the last run of this kind took.", ("run",))
    runs = gauge("run_ended", "How many runs of this kind have ended, as far as the journal goes back.", ("run",))
    failures = gauge("run_failed", "How many of them ended badly.", ("run",))
    for what, run in facts.runs.items():
        ended.labels(what).set(_unix(run.ended))
        good.labels(what).set(run.outcome in ("done", "downgraded"))
        took.labels(what).set(run.duration_seconds)
        runs.labels(what).set(run.runs)
        failures.labels(what).set(run.failures)
        if run.succeeded is not None:
            succeeded.labels(what).set(_unix(run.succeeded))
    _target(facts, policy, room, gauge)
    active = gauge("alarm", "1 for everything that is wrong.", ("kind", "subject", "severity"))
    for condition in conditions:
        active.labels(condition.kind, condition.subject, condition.severity).set(1)
    gauge("held", "1 while something is left paused or stopped.").set(facts.held is not None)
    gauge("monitor_timestamp_seconds", "When these metrics were written.").set(now.timestamp())
    return generate_latest(registry)


def _agents(facts: Facts, policy: Policy, gauge: _Make) -> None:
    one = ("agent",)
    known = gauge("agent", "1 for every agent of this host, backed up or not.", one)
    rpo = gauge("agent_rpo_seconds", "How old its last recovery point may be.", one)
    point = gauge("agent_last_point_timestamp_seconds", "The instant of its last recovery point.", one)
    success = gauge("agent_last_success_timestamp_seconds", "When it was last backed up without anything missing.", one)
    outcome = gauge("agent_last_outcome", "1 for what came of its last run, 0 for what did not.", ("agent", "outcome"))
    figures = {
        "bytes": gauge("agent_bytes", "The size of its last recovery point.", one),
        "files": gauge("agent_files", "The files in its last recovery point.", one),
        "stored": gauge("agent_stored_bytes", "What its last recovery point added to the target.", one),
        "pause_seconds": gauge("agent_pause_seconds", "How long it was paused for its last recovery point.", one),
        "duration_seconds": gauge("agent_duration_seconds", "How long its last recovery point took.", one),
    }
    consistency = gauge("agent_consistency", "1 with the consistency of its last point.", ("agent", "consistency"))
    drilled = gauge("agent_last_drill_timestamp_seconds", "When it was last drilled, well or not.", one)
    proved = gauge("agent_last_proved_timestamp_seconds", "When it was last proved that it can be restored.", one)
    failures = gauge("agent_failed_runs", "How many runs gave it no recovery point, or one that lacks something.", one)
    for name, agent in facts.agents.items():
        if agent.gone is not None:
            continue
        known.labels(name).set(1)
        rpo.labels(name).set(policy.rpo_of(name).total_seconds())
        failures.labels(name).set(agent.failures)
        for which in _OUTCOMES if agent.outcome is not None else ():
            outcome.labels(name, which).set(agent.outcome == which)
        for metric, when in (
            (point, agent.created),
            (success, agent.succeeded),
            (drilled, agent.drilled),
            (proved, agent.proved),
        ):
            if when is not None:
                metric.labels(name).set(_unix(when))
        if agent.point is not None:
            _figures(name, agent, figures)
            consistency.labels(name, agent.consistency).set(1)


def _figures(name: str, agent: AgentFacts, figures: dict[str, Gauge]) -> None:
    for field, metric in figures.items():
        metric.labels(name).set(getattr(agent, field))


def _target(facts: Facts, policy: Policy, room: Room | None, gauge: _Make) -> None:
    gauge("target_full", "1 while the target has no room.").set(facts.full is not None)
    gauge("target_damaged_objects", "Objects that were damaged when the repository was verified last.").set(
        facts.damaged
    )
    if facts.verified is not None:
        gauge("target_last_verified_timestamp_seconds", "When the repository was last verified.").set(
            _unix(facts.verified)
        )
    if room is not None:
        gauge("target_free_bytes", "Room at a target in a directory of this host.").set(room.free_bytes)
        gauge("target_total_bytes", "The size of the filesystem that it is on.").set(room.total_bytes)
    replicas = gauge("replica_last_success_timestamp_seconds", "When the replica was last up to date.", ("replica",))
    for replica in policy.replicas:
        known = facts.replicas.get(replica.name)
        if known is not None and known.succeeded is not None:
            replicas.labels(replica.name).set(_unix(known.succeeded))


def _unix(text: str) -> float:
    return moment(text).timestamp()
