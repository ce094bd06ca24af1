"""Many hosts from one control node: the playbooks of the collection, driven through ansible-runner, and an outcome per host.

Nothing here works on a host itself. Ansible is found and ansible-runner is imported when a play begins, not before.
"""

from __future__ import annotations

from trinity_snap.fleet.limits import Threshold, parse_batches, parse_threshold
from trinity_snap.fleet.model import FleetResult, HostResult
from trinity_snap.fleet.request import ACTIONS, FleetRequest
from trinity_snap.fleet.run import run_fleet
from trinity_snap.fleet.signals import Stop

__all__ = [
    "ACTIONS",
    "FleetRequest",
    "FleetResult",
    "HostResult",
    "Stop",
    "Threshold",
    "parse_batches",
    "parse_threshold",
    "run_fleet",
]
