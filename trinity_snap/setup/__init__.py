"""Making a host ready: policy, keys and repository; taking over the repository of a lost host; changing keys."""

from __future__ import annotations

from trinity_snap.setup.adopt import adopt
from trinity_snap.setup.initialise import Initialised, initialise
from trinity_snap.setup.rotate import Rotated, add, retire, rotate_identity, rotate_recovery

__all__ = [
    "Initialised",
    "Rotated",
    "add",
    "adopt",
    "initialise",
    "retire",
    "rotate_identity",
    "rotate_recovery",
]
