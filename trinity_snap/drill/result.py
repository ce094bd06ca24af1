"""What came of a drill, and how this host remembers it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from trinity_snap.durable import make_directory_durably, write_file_durably

__all__ = ["CommandRun", "DatabaseCheck", "DrillResult", "remember", "remembered"]


@dataclass(frozen=True)
class DatabaseCheck:
    """One SQLite database. `result`: `sound`, `damaged`, or `unchecked`, with the reason in `detail`."""

    path: str
    result: Literal["sound", "damaged", "unchecked"]
    detail: str = ""


@dataclass(frozen=True)
class CommandRun:
    """The operator's command: its exit code (None if it was killed by its time limit), and the end of what it said."""

    command: str
    exit_code: int | None
    seconds: float
    output: str


@dataclass
class DrillResult:
    """One drill of one agent. `outcome` is `proved` or `failed`; `reason` is a sentence then.

    `point` and `created` are the recovery point's id and instant. Times are RFC 3339. `databases` counts those that are
    sound; `damaged_databases` and `unchecked_databases` name the others. `skipped` counts devices, which are not made.
    """

    drill_id: str
    agent: str
    point: str | None
    created: str | None
    consistency: str | None
    started: str
    outcome: Literal["proved", "failed"] = "failed"
    reason: str | None = None
    damaged: bool = False
    files: int = 0
    bytes: int = 0
    skipped: int = 0
    databases: int = 0
    damaged_databases: list[DatabaseCheck] = field(default_factory=list)
    unchecked_databases: list[DatabaseCheck] = field(default_factory=list)
    command: CommandRun | None = None
    kept: str | None = None
    target: str | None = None
    recorded: bool = False
    duration_seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As `--json` shows it."""
        return asdict(self)

    def summary(self) -> dict[str, object]:
        """The small part of it that is put into the repository, sealed."""
        return {
            "drill_id": self.drill_id,
            "agent": self.agent,
            "point": self.point,
            "created": self.created,
            "started": self.started,
            "outcome": self.outcome,
            "reason": (self.reason or "")[:500] or None,
            "files": self.files,
            "bytes": self.bytes,
            "databases": self.databases,
            "command": self.command is not None,
        }


def remember(state_dir: Path, summary: Mapping[str, object]) -> None:
    """Keep the last drill of an agent on this host, and the last that proved something. Raise OSError."""
    directory = state_dir / "drills"
    make_directory_durably(directory)
    agent = str(summary["agent"])
    path = directory / f"{hashlib.sha256(agent.encode()).hexdigest()[:32]}.json"
    kept = _read(path)
    if summary.get("outcome") == "proved":
        kept["proved"] = dict(summary)
    kept["last"] = dict(summary)
    write_file_durably(path, json.dumps(kept, indent=1).encode() + b"\n")


def remembered(state_dir: Path) -> list[dict[str, object]]:
    """The summaries that this host remembers, at most two of every agent. Files that cannot be read are passed over."""
    found = []
    for path in sorted((state_dir / "drills").glob("*.json")):
        found += [one for one in _read(path).values() if isinstance(one, dict)]
    return found


def _read(path: Path) -> dict[str, Any]:  # JSON as it was written
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
