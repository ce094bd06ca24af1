"""Holding agents still for an instant, and letting them go again whatever happens."""

from trinity_snap.quiesce.critical import CriticalResult, Pause, critical_section
from trinity_snap.quiesce.journal import Journal
from trinity_snap.quiesce.lock import HostLock
from trinity_snap.quiesce.recover import RecoverReport, recover

__all__ = [
    "CriticalResult",
    "HostLock",
    "Journal",
    "Pause",
    "RecoverReport",
    "critical_section",
    "recover",
]
