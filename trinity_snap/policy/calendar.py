"""Schedules: what systemd makes of a calendar expression, and the next times it means."""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime

from trinity_snap.errors import TrinitySnapError, UsageError

__all__ = ["next_times"]

_SECONDS = 20


def next_times(expression: str, count: int = 5) -> tuple[str, list[datetime]]:
    """The expression in systemd's own form, and its next times. Raise UsageError, TrinitySnapError without systemd."""
    command = ["systemd-analyze", "calendar", f"--iterations={count}", "--", expression]
    environment = {"LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TrinitySnapError(
            f"systemd cannot be asked about {expression!r:.60}: {error}.",
            next_step="Schedules are systemd's: it needs to be here.",
        ) from error
    if done.returncode != 0:
        raise UsageError(
            f"{expression!r:.60} is no calendar expression of systemd's.",
            next_step="Write `daily`, `Mon..Fri 03:30` or `*-*-* 0/6:00`; `man systemd.time` explains them.",
        )
    form = re.search(r"Normalized form: (.*)", done.stdout)
    shown = re.findall(r"(?:Next elapse|Iteration #[0-9]+|Iter\. #[0-9]+): \w+ ([0-9-]+ [0-9:]+) (\S+)", done.stdout)
    utc = re.findall(r"\(in UTC\): \w+ ([0-9-]+ [0-9:]+) UTC", done.stdout)
    texts = [text for text, zone in shown] if all(zone == "UTC" for _, zone in shown) else utc
    times = [datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) for text in texts]
    return (form[1] if form else expression), times
