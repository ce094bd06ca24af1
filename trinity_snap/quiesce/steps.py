"""Crash points, for tests only.

Each step of a run that a crash could interrupt calls `step(name)`. That does nothing, unless one of these
environment variables names the step:

- `TRINITY_SNAP_CRASH_AT=<name>`: the process kills itself with SIGKILL, as if the machine's OOM killer had
  come by;
- `TRINITY_SNAP_HANG_AT=<name>`: the process stops itself with SIGSTOP, as if it hung.

A test can thus show what becomes of paused containers and half-made snapshots at every one of `STEPS`.
Neither variable has any use outside of tests.
"""

from __future__ import annotations

import os
import signal
import threading

STEPS = (
    "journal-started",
    "prepared",
    "guardian-ready",
    "pause-noted",
    "first-paused",
    "all-paused",
    "first-snapshot",
    "snapshots-made",
    "first-resumed",
    "all-resumed",
    "guardian-released",
    "before-release",
    "half-released",
    "released",
)
"""Every step until the views are there, and after. The critical section is from `guardian-ready` to `guardian-released`."""

MOUNT_STEPS = ("before-mount", "mounted", "unmounted")
"""Further steps of providers whose snapshots have to be mounted."""

HOOK_STEPS = ("hook-noted", "hooks-run", "after-hook-starting", "after-hooks-run")
"""Mode `hooks` only: before `pause-noted`, and after `all-resumed`."""

STOP_STEPS = ("stop-noted", "first-stopped", "all-stopped", "first-started", "all-started")
"""Mode `stop` only: after the before-hooks, and before the after-hooks."""

BEGINNING_STEPS = ("discovered",)
"""Before all others, in a whole run: the agents are known, and no provider is chosen."""

SHIPPING_STEPS = ("shipping", "before-commit", "committed", "shipped")
"""The steps in between, while the views are shipped (`trinity_snap.backup.run`); restores have their own."""

AUTONOMY_STEPS = ("autonomy-noted", "autonomy-held", "autonomy-given-back")
"""With `trinity: hold_schedules` only: the first two before `prepared`, the last after `guardian-released`."""

KEEPING_STEPS = ("before-keep", "keep-noted", "half-kept", "kept")
"""The steps after shipping, if the snapshots are kept on this host."""

REPLICATING_STEPS = ("before-replication",)
"""After all that: the run has let go of the host, and the replicas come next."""


_once = threading.Lock()


def step(name: str) -> None:
    """Say that the run has come to this step; crash or hang here, once, if a test asks for it (see the module)."""
    if os.environ.get("TRINITY_SNAP_CRASH_AT") == name:
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get("TRINITY_SNAP_HANG_AT") == name and _once.acquire(blocking=False):
        os.kill(os.getpid(), signal.SIGSTOP)
