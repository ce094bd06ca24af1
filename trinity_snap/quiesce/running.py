"""What is going on on this host right now, without disturbing it."""

from __future__ import annotations

import json
import os
from pathlib import Path


def running(state_directory: Path) -> dict[str, object] | None:
    """Who holds the host: `what`, `run_id`, `pid`, `since`; None if nobody does.

    The lock itself is only looked at (in /proc/locks), never taken, so that a run that begins meanwhile gets it.
    """
    path = state_directory / "lock"
    try:
        holder = json.loads(path.read_bytes())
        inode = os.stat(path).st_ino
        locks = Path("/proc/locks").read_text("ascii").splitlines()
    except (OSError, ValueError):
        return None
    held = any(line.split()[1:2] == ["FLOCK"] and f":{inode} " in line for line in locks)
    if not held or not isinstance(holder, dict):
        return None
    return {key: holder.get(key) for key in ("what", "run_id", "pid", "since")}
