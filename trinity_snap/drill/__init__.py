"""Drills: restoring a recovery point into a scratch place to prove that it is good, and remembering that it was."""

from __future__ import annotations

from trinity_snap.drill.result import DatabaseCheck, DrillResult
from trinity_snap.drill.run import DrillSettings, drill, scratch_directory
from trinity_snap.drill.scratch import Swept, sweep

__all__ = ["DatabaseCheck", "DrillResult", "DrillSettings", "Swept", "drill", "scratch_directory", "sweep"]
