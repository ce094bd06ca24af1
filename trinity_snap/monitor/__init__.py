"""What is wrong on this host, and telling it: conditions, episodes, and the sinks that alarms and metrics go to."""

from __future__ import annotations

from trinity_snap.monitor.conditions import Condition, find_conditions
from trinity_snap.monitor.telling import Observation, observe

__all__ = ["Condition", "Observation", "find_conditions", "observe"]
