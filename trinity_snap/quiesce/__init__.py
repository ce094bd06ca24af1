"""Holding agents still for an instant, and letting them go again whatever happens."""

from trinity_snap.quiesce.critical import critical_section
from trinity_snap.quiesce.drain import Drain
from trinity_snap.quiesce.journal import Journal
from trinity_snap.quiesce.lock import HostLock
from trinity_snap.quiesce.outcome import CriticalResult, Pause
from trinity_snap.quiesce.recover import RecoverReport, recover

__all__ = [
    "CriticalResult",
    "Drain",
    "HostLock",
    "Journal",
    "Pause",
    "RecoverReport",
    "critical_section",
    "recover",
]
