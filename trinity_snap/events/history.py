"""What this host remembers from before there was a journal: its first events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from trinity_snap.events.journal import EventJournal
from trinity_snap.report.times import timestamp

__all__ = ["take_over"]


def take_over(state_dir: Path) -> None:
    """If the journal has no event yet, begin it with the runs and drills that are remembered. Raise OSError."""
    journal = EventJournal(state_dir)
    if journal.last_seq():
        return
    from trinity_snap.backup.result import last_runs
    from trinity_snap.drill.result import remembered

    events = [*_runs(last_runs(state_dir)), *_drills(remembered(state_dir))]
    for event in sorted(events, key=lambda one: str(one["time"])):
        journal.append(event)


def _runs(runs: list[dict[str, object]]) -> Iterator[Mapping[str, object]]:
    for run in runs:
        try:
            yield _event(run)
        except (KeyError, TypeError, ValueError):
            continue


def _event(run: Mapping[str, Any]) -> Mapping[str, object]:
    ended = datetime.fromisoformat(run["started"]) + timedelta(seconds=float(run["duration_seconds"]))
    error = run.get("error") or {}
    return {
        "time": timestamp(ended),
        "event": "backup",
        "host": run.get("host"),
        "outcome": run["outcome"],
        "started": timestamp(datetime.fromisoformat(run["started"])),
        "duration_seconds": run["duration_seconds"],
        "run_id": run.get("run_id"),
        "created": run.get("created"),
        "whole": False,
        "agents": [
            {
                "agent": part["agent"],
                "outcome": part["outcome"],
                "point": part.get("point"),
                "files": part["files"],
                "bytes": part["bytes"],
                "stored": part["bytes_stored"],
                "pause": part["pause_seconds"],
                "seconds": part["duration_seconds"],
                "consistency": part["consistency"],
                "error": part.get("error"),
            }
            for part in run["agents"]
        ],
        "error": error.get("message"),
        "kind": error.get("error"),
    }


def _drills(drills: list[dict[str, object]]) -> Iterator[Mapping[str, object]]:
    for one in drills:
        if isinstance(one.get("started"), str) and isinstance(one.get("agent"), str):
            good = one.get("outcome") == "proved"
            yield {
                "time": one["started"],
                "event": "drill",
                "outcome": "done" if good else "some-failed",
                "started": one["started"],
                "duration_seconds": 0,
                "drills": [one],
            }
