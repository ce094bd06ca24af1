"""How every agent stands: its last recovery point, and what came of the last run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from trinity_snap.report.times import timestamp

if TYPE_CHECKING:
    from trinity_snap.report.drills import DrillStatus
    from trinity_snap.report.replicas import ReplicaStatus
    from trinity_snap.repository.points import RecoveryPoint

Run = Mapping[str, Any]
"""A run as this host remembers it: the JSON of `backup`."""


@dataclass
class AgentStatus:
    """One agent. `point` is the id of its last recovery point that counts, None if there is none; `stale` if that is too old.

    `points` counts those that count, `void` the others. `removed`: nobody backs it up any more, so that it is never stale.
    """

    agent: str
    point: str | None = None
    created: str | None = None
    age_seconds: float | None = None
    files: int = 0
    bytes: int = 0
    consistency: str | None = None
    provider: str | None = None
    pause_seconds: float | None = None
    duration_seconds: float | None = None
    points: int = 0
    void: int = 0
    last_run: dict[str, object] | None = None
    stale: bool = False
    removed: bool = False
    drill: DrillStatus | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass
class Status:
    """All agents by name. `source` says what it is drawn from: `repository`, or `runs` (this host's own record).

    `unnamed_points` counts points in the repository that the record of runs does not know, if that is the source.
    `running` is who holds the host at the moment, see `trinity_snap.quiesce.running`. `local_snapshots` counts those that
    `trinity-snap rollback` can use. `data_checked` is what receipts say of packs: see `trinity_snap.report.checked`.
    `target_error` says why the target could not be asked; the source is `runs` then, and that their points exist an assumption.
    """

    source: str
    agents: list[AgentStatus]
    warnings: list[str] = field(default_factory=list)
    running: dict[str, object] | None = None
    local_snapshots: int = 0
    unnamed_points: int = 0
    replicas: list[ReplicaStatus] = field(default_factory=list)
    data_checked: dict[str, object] | None = None
    target_error: str | None = None

    @property
    def stale(self) -> list[str]:
        """The agents whose last recovery point is too old, or missing."""
        return [agent.agent for agent in self.agents if agent.stale]

    def to_json(self) -> dict[str, object]:
        """As `--json` shows it."""
        return {
            "source": self.source,
            "agents": [asdict(agent) for agent in self.agents],
            "stale": self.stale,
            "warnings": self.warnings,
            "running": self.running,
            "local_snapshots": self.local_snapshots,
            "unnamed_points": self.unnamed_points,
            "replicas": [asdict(replica) for replica in self.replicas],
            "data_checked": self.data_checked,
            "target_error": self.target_error,
        }


def assemble(
    runs: Sequence[Run],
    *,
    points: Sequence[RecoveryPoint] | None,
    point_ids: Iterable[str] = (),
    void: Mapping[str, str] = MappingProxyType({}),
    max_age: timedelta | None = None,
    removed: Callable[[Iterable[str]], Mapping[str, str]] = lambda names: {},
    now: datetime | None = None,
) -> Status:
    """Put the status together from this host's `runs`, newest first, and the repository's `points`, newest first.

    `void` says of points that do not count why. Without points (nothing here opens them), the runs must do, and `point_ids`
    says which of their points the repository still has. `removed` says which of the agents nobody backs up any more, and why.
    """
    status = Status("runs" if points is None else "repository", [])
    agents: dict[str, AgentStatus] = {}
    for point in points or ():
        agent = agents.setdefault(point.agent, AgentStatus(point.agent))
        if point.id in void:
            if agent.point is None and not agent.void:
                agent.warnings.append(f"Its newest recovery point {point.id[:8]} does not count: {void[point.id]}")
            agent.void += 1
            continue
        agent.points += 1
        if agent.point is None:
            _take_point(agent, point)
    present = set(point_ids) if points is None else {point.id for point in points}
    present |= {point.repacked.original for point in points or () if point.repacked}
    for run in runs:
        for part in _parts(run):
            agent = agents.setdefault(str(part["agent"]), AgentStatus(str(part["agent"])))
            if points is None:
                _take_part(agent, run, part, present)
            else:
                _compare(agent, run, part, present)
            if agent.last_run is None:
                agent.last_run = {
                    "run_id": run.get("run_id"),
                    "started": run.get("started"),
                    "outcome": part.get("outcome"),
                    "error": part.get("error"),
                }
    moment = now or datetime.now(UTC)
    left = removed(agents)
    for agent in agents.values():
        _judge(agent, moment, max_age, left.get(agent.agent))
    if points is None:
        status.unnamed_points = len(present - {part.get("point") for run in runs for part in _parts(run)})
    status.agents = sorted(agents.values(), key=lambda agent: agent.agent)
    status.warnings = list(_run_warnings(runs))
    return status


def points_of(runs: Sequence[Run]) -> set[str]:
    """The ids of all points that these runs made."""
    return {str(part["point"]) for run in runs for part in _parts(run) if isinstance(part.get("point"), str)}


def _take_point(agent: AgentStatus, point: RecoveryPoint) -> None:
    agent.point = point.id
    agent.created = timestamp(point.created)
    agent.files, agent.bytes = point.files, point.bytes
    agent.consistency, agent.provider = point.consistency, point.provider
    agent.pause_seconds = point.pause_ns / 1e9
    if point.problems:
        agent.warnings.append(f"{len(point.problems)} entries could not be backed up.")


def _compare(agent: AgentStatus, run: Run, part: Run, present: set[str]) -> None:
    """Add to a point what only its run knows; note if a run's point is gone. Nothing here ever deletes points."""
    point = part.get("point")
    if point == agent.point and point is not None:
        agent.duration_seconds = _number(part.get("duration_seconds"))
    elif isinstance(point, str) and point not in present:
        _note_missing(agent, run, point)


def _note_missing(agent: AgentStatus, run: Run, point: str) -> None:
    sentence = f"Recovery point {point[:8]} of the run of {run.get('started')} is not in the repository, or unreadable."
    if not any("is not in the repository" in warning for warning in agent.warnings):
        agent.warnings.append(sentence)


def _take_part(agent: AgentStatus, run: Run, part: Run, present: set[str]) -> None:
    """Use a run's part where the repository's points cannot be read."""
    point = part.get("point")
    if not isinstance(point, str):
        return
    if point not in present:
        _note_missing(agent, run, point)
        return
    agent.points += 1
    if agent.point is not None:
        return
    agent.point = point
    created = _moment(run.get("created") or run.get("started"))
    agent.created = None if created is None else timestamp(created)
    agent.files, agent.bytes = int(_number(part.get("files")) or 0), int(_number(part.get("bytes")) or 0)
    agent.consistency, agent.provider = str(part.get("consistency") or ""), str(part.get("provider") or "")
    agent.pause_seconds = _number(part.get("pause_seconds"))
    agent.duration_seconds = _number(part.get("duration_seconds"))
    if part.get("problems"):
        agent.warnings.append(f"{len(part['problems'])} entries could not be backed up.")


def _judge(agent: AgentStatus, now: datetime, max_age: timedelta | None, removed: str | None) -> None:
    created = _moment(agent.created)
    if created is None:
        agent.warnings.append(
            "There is no recovery point that counts." if agent.void else "There is no recovery point."
        )
    else:
        agent.age_seconds = round((now - created).total_seconds(), 3)
    if removed is not None:
        agent.removed = True
        agent.warnings.append(removed)
        return
    if max_age is not None:
        agent.stale = created is None or now - created > max_age
        if agent.stale and created is not None:
            agent.warnings.append("The last recovery point is too old.")
    last = agent.last_run or {}
    if last.get("outcome") == "failed":
        agent.warnings.append(f"The last run failed: {last.get('error') or 'no reason was noted'}")
    elif last.get("outcome") == "downgraded":
        agent.warnings.append(f"The last run gave a weaker guarantee: {last.get('error') or 'no reason was noted'}")


def _run_warnings(runs: Sequence[Run]) -> Iterable[str]:
    if runs and runs[0].get("outcome") == "failed":
        error = runs[0].get("error")
        message = error.get("message") if isinstance(error, Mapping) else None
        yield f"The last run, started {runs[0].get('started')}, failed{f': {message}' if message else '.'}"

    left = runs[0].get("left_behind") if runs else None
    if isinstance(left, list) and left:
        yield f"The last run, started {runs[0].get('started')}, left something behind: {' '.join(map(str, left))}"


def _parts(run: Run) -> Iterable[Run]:
    parts = run.get("agents")
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, Mapping) and isinstance(part.get("agent"), str) and part.get("outcome") != "skipped":
            yield part


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _moment(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
