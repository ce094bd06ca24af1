"""Instant rollback: an agent's volumes, back as they are in a local snapshot.

`plan_rollback` says what would happen, `execute` does it, `forget_undone` tidies up after one that was undone.
"""

from __future__ import annotations

from trinity_snap.rollback.listing import LocalListing, list_local, remove
from trinity_snap.rollback.plan import RollbackPlan, RollbackVolume, plan_rollback
from trinity_snap.rollback.run import RollbackResult, execute, forget_undone

__all__ = [
    "LocalListing",
    "RollbackPlan",
    "RollbackResult",
    "RollbackVolume",
    "execute",
    "forget_undone",
    "list_local",
    "plan_rollback",
    "remove",
]
