"""What came of a restore, in the words and the JSON of `restore --json` (docs/json.md)."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trinity_snap.restore.plan import RestorePlan
from trinity_snap.restore.tree import TreeResult

__all__ = ["RestoreResult", "make_result"]


@dataclass(frozen=True)
class RestoreResult:
    """What a restore did. `previous` are the directories with the previous data; `notes` what the operator should know."""

    plan: RestorePlan
    files: int
    bytes: int
    entries: int
    seconds: float
    downtime_seconds: float
    previous: tuple[Path, ...]
    created_container: str
    notes: tuple[str, ...]
    skipped: int

    def to_json(self) -> dict[str, Any]:
        """As `--json` shows it: the plan, and what came of it."""
        return {
            **self.plan.to_json(),
            "outcome": "restored",
            "files": self.files,
            "bytes": self.bytes,
            "entries": self.entries,
            "duration_seconds": round(self.seconds, 3),
            "downtime_seconds": round(self.downtime_seconds, 3),
            "previous": [str(path) for path in self.previous],
            "created_container": self.created_container or None,
            "notes": list(self.notes),
            "skipped": self.skipped,
        }


def make_result(
    plan: RestorePlan,
    written: Iterable[TreeResult],
    started: float,
    downtime_seconds: float,
    previous: Iterable[Path],
    created_container: str,
    notes: Iterable[str],
) -> RestoreResult:
    """Sum up what was written."""
    results = list(written)
    all_notes = [note for result in results for note in result.losses.notes]
    more = sum(result.losses.count for result in results) - len(all_notes)
    if more:
        all_notes.append(f"And {more} more of the kind.")
    return RestoreResult(
        plan,
        sum(result.files for result in results),
        sum(result.bytes for result in results),
        sum(result.entries for result in results),
        time.monotonic() - started,
        downtime_seconds,
        tuple(previous),
        created_container,
        (*all_notes, *notes),
        sum(len(result.skipped) for result in results),
    )
