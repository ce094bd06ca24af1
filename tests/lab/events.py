"""Events as runs leave them, for tests: number N is of day N, counted from the first of January 2026."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from trinity_snap.report.times import timestamp

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def day(number: float) -> datetime:
    return BEGIN + timedelta(days=number)


def part(agent: str, outcome: str = "done", size: int = 5 << 20, files: int = 100) -> dict[str, object]:
    made = outcome != "failed"
    return {
        "agent": agent, "outcome": outcome, "point": "point" if made else None, "files": files, "bytes": size,
        "stored": size // 10, "pause": 0.05, "seconds": 1.5, "consistency": "host-crash-consistent",
        "error": None if outcome == "done" else "The disk is on fire.",
    }  # fmt: skip


def backup(
    number: int, parts: list[dict[str, object]], outcome: str = "done", *, whole: bool = True, **besides: object
) -> Iterator[dict[str, object]]:
    when = timestamp(day(number))
    yield {
        "seq": number, "time": when, "event": "backup", "host": "host", "outcome": outcome, "started": when,
        "duration_seconds": 3.0, "run_id": f"{number:032x}", "created": when, "whole": whole, "agents": parts, **besides,
    }  # fmt: skip


def drill(number: int, agent: str, outcome: str) -> Iterator[dict[str, object]]:
    when = timestamp(day(number))
    one = {
        "agent": agent,
        "started": when,
        "outcome": outcome,
        "reason": None if outcome == "proved" else "It is torn.",
    }
    yield {"seq": number, "time": when, "event": "drill", "outcome": "done", "duration_seconds": 1.0, "drills": [one]}


def verify(number: int, damaged: int = 0) -> Iterator[dict[str, object]]:
    when = timestamp(day(number))
    yield {
        "seq": number, "time": when, "event": "verify", "outcome": "done", "whole": True, "damaged": damaged,
        "duration_seconds": 1.0,
    }  # fmt: skip
