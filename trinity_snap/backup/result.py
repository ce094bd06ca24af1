"""What came of a run, in the words and the JSON of `backup --json` (docs/json.md)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from trinity_snap.durable import make_directory_durably, write_file_durably
from trinity_snap.errors import GuaranteeNotMet, SomeFailed, TrinitySnapError
from trinity_snap.replication.result import ReplicaResult

__all__ = ["AgentResult", "RunResult", "last_runs", "remember"]

AgentOutcome = Literal["done", "incomplete", "downgraded", "failed", "skipped"]
RunOutcome = Literal["done", "downgraded", "some-failed", "failed"]
_RUNS_KEPT = 100


@dataclass
class AgentResult:
    """One agent's part of a run. `point` is the recovery point's id, None if none was made.

    `outcome`: `done`; `incomplete` (a point without some files, which `problems` names); `downgraded` (a whole point
    with a weaker guarantee); `failed` (no point); `skipped` (it has nothing to back up).
    """

    agent: str
    outcome: AgentOutcome = "failed"
    point: str | None = None
    consistency: str = ""
    provider: str = ""
    pause_seconds: float = 0.0
    stopped_seconds: float = 0.0
    files: int = 0
    bytes: int = 0
    bytes_read: int = 0
    bytes_stored: int = 0
    duration_seconds: float = 0.0
    error: str | None = None
    problems: list[dict[str, str]] = field(default_factory=list)


@dataclass
class RunResult:
    """A whole run. Times are RFC 3339 in UTC; `created` is the instant of the snapshot, None if there was none.

    `left_behind` says, a sentence each, what of the run is still on the host that should not be. `replicas` is what came of
    copying it to further places; the outcome is that of the agents alone.
    """

    run_id: str
    host: str
    started: str
    outcome: RunOutcome = "failed"
    created: str | None = None
    duration_seconds: float = 0.0
    agents: list[AgentResult] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)
    replicas: list[ReplicaResult] = field(default_factory=list)
    error: dict[str, object] | None = None

    def settle(self) -> None:
        """Work out the run's outcome from the agents', and from what was left behind."""
        outcomes = {agent.outcome for agent in self.agents} - {"skipped"}
        if outcomes == {"failed"} or (self.error is not None and not outcomes - {"failed"}):
            self.outcome = "failed"
        elif outcomes & {"failed", "incomplete"}:
            self.outcome = "some-failed"
        elif "downgraded" in outcomes or self.left_behind:
            self.outcome = "downgraded"
        else:
            self.outcome = "done"

    def exit_code(self) -> int:
        """The exit code that says the same."""
        if self.error is not None:
            code = self.error.get("exit_code")
            if isinstance(code, int) and (self.outcome == "failed" or code == 11):
                return code
        if self.outcome != "failed" and not all(replica.good for replica in self.replicas):
            return SomeFailed.exit_code
        return {
            "done": 0,
            "failed": TrinitySnapError.exit_code,
            "some-failed": SomeFailed.exit_code,
            "downgraded": GuaranteeNotMet.exit_code,
        }[self.outcome]

    def to_json(self) -> dict[str, object]:
        """The JSON form."""
        return asdict(self)


def remember(result: RunResult, state_directory: Path, *, with_names: bool = True) -> None:
    """Keep the result on this host, for `status`; forget all but the newest hundred. Raise OSError.

    Without `with_names` the names of files that could not be backed up are left out: the recovery point has them, sealed.
    """
    directory = state_directory / "runs"
    make_directory_durably(directory)
    document = result.to_json() if with_names else asdict(_without_names(result))
    write_file_durably(directory / f"{result.run_id}.json", json.dumps(document, indent=1).encode() + b"\n")
    kept = sorted(directory.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in kept[_RUNS_KEPT:]:
        path.unlink(missing_ok=True)


def _without_names(result: RunResult) -> RunResult:
    agents = [
        replace(agent, problems=[{**problem, "path": ""} for problem in agent.problems]) for agent in result.agents
    ]
    return replace(result, agents=agents)


def last_runs(state_directory: Path) -> list[dict[str, object]]:
    """The remembered results, newest first, in their JSON form. Files that cannot be read are passed over."""
    found = []
    for path in (state_directory / "runs").glob("*.json"):
        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(document, dict) and isinstance(document.get("started"), str):
            found.append(document)
    return sorted(found, key=lambda run: str(run["started"]), reverse=True)
