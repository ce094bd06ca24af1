"""The parameters of the module and the action plugin `trinity_snap_restore_fleet`."""

from __future__ import annotations

from typing import Any

from ansible_collections.trinity.snap.plugins.module_utils.command import COMMON_ARGUMENTS

ARGUMENTS: dict[str, dict[str, Any]] = dict(
    COMMON_ARGUMENTS,
    onto={"type": "list", "elements": "str", "required": True},
    agents={"type": "list", "elements": "str", "default": []},
    run={"type": "str", "default": ""},
    at={"type": "str", "default": ""},
    containers={"type": "bool", "default": False},
    start={"type": "bool", "default": True},
    grant={
        "type": "dict",
        "required": True,
        "options": {
            "command": {"type": "str", "default": "trinity-snap"},
            "policy": {"type": "str", "required": True},
            "identity": {"type": "str"},
            "passphrase_file": {"type": "str"},
            "valid": {"type": "str", "default": "1h"},
            "target": {"type": "str"},
        },
    },
)
