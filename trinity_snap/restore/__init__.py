"""Restoring: from a recovery point to volumes, paths and directories.

`plan_restore` says what would happen, `execute` does it. `resume_restores` ends what a crash left half done,
`list_kept` and `release` deal with the data that restores replaced.
"""

from __future__ import annotations

from trinity_snap.restore.finish import KeptData, ResumedRestore, list_kept, release, resume_restores
from trinity_snap.restore.plan import RestorePlan, Space, VolumePlan
from trinity_snap.restore.planner import plan_restore
from trinity_snap.restore.result import RestoreResult
from trinity_snap.restore.run import execute

__all__ = [
    "KeptData",
    "RestorePlan",
    "RestoreResult",
    "ResumedRestore",
    "Space",
    "VolumePlan",
    "execute",
    "list_kept",
    "plan_restore",
    "release",
    "resume_restores",
]
