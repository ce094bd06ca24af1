#!/usr/bin/python
# Copyright: trinity-snap contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: restore an agent from a recovery point."""

from __future__ import annotations

DOCUMENTATION = r"""
module: trinity_snap_restore
short_description: Restore an agent, or some of its files
version_added: 0.1.0
description:
  - Runs C(trinity-snap restore) for one agent on the host.
  - Without O(to) and O(as_name), the agent's volumes are restored beside the present ones, verified, and
    swapped in while the agent is stopped. The previous data is kept until it is released.
author:
  - trinity-snap contributors (@abilityai)
extends_documentation_fragment:
  - trinity.snap.command
attributes:
  check_mode:
    support: full
    description: Makes the plan and shows it. True on a host without trinity-snap, too.
  diff_mode:
    support: full
    description: The steps of the plan.
  idempotent:
    support: none
    description: A restore is done every time it is asked for.
options:
  agent:
    description: The agent to restore.
    type: str
    required: true
  state:
    description:
      - V(restored) restores the agent.
      - V(released) gives up the previous data that an earlier restore of the agent kept.
    type: str
    choices: [restored, released]
    default: restored
  point:
    description: Id of a recovery point, the beginning of one, or V(latest).
    type: str
  at:
    description: Take the newest recovery point that is not younger than this time (RFC 3339).
    type: str
  paths:
    description: Only these files or directories.
    type: list
    elements: str
    default: []
  to:
    description: Restore into this directory on the host and leave the agent alone.
    type: path
  as_name:
    description: Restore under another name, as a new set of volumes.
    type: str
  in_place:
    description: Write only what differs, straight into the present volumes. Nothing previous is kept.
    type: bool
    default: false
  containers:
    description: Make the agent's container from its recorded definition if there is none.
    type: bool
    default: false
seealso:
  - module: trinity.snap.trinity_snap_backup
  - module: trinity.snap.trinity_snap_info
"""

EXAMPLES = r"""
- name: Give an agent its newest data back
  trinity.snap.trinity_snap_restore:
    agent: researcher

- name: Give an agent and its container back on a fresh host
  trinity.snap.trinity_snap_restore:
    agent: researcher
    containers: true

- name: Look at one database as it was on Monday
  trinity.snap.trinity_snap_restore:
    agent: researcher
    at: "2026-09-07T09:00:00Z"
    paths: [data/papers.db]
    to: /root/monday

- name: Give up the data that the restore replaced
  trinity.snap.trinity_snap_restore:
    agent: researcher
    state: released
"""

RETURN = r"""
rc:
  description: Exit code of C(trinity-snap restore).
  returned: when it ran
  type: int
restore:
  description: The answer of C(trinity-snap restore --json); in check mode, the plan.
  returned: when it ran
  type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trinity.snap.plugins.module_utils.command import (
    COMMON_ARGUMENTS,
    DONE,
    fail,
    need_executable,
    run,
)


def restore_arguments(parameters: dict[str, Any], dry_run: bool) -> list[str]:
    """The command line that the parameters ask for."""
    arguments = ["restore", parameters["agent"]]
    for option, name in (("--point", "point"), ("--at", "at"), ("--to", "to"), ("--as", "as_name")):
        if parameters[name] is not None:
            arguments += [option, parameters[name]]
    for path in parameters["paths"]:
        arguments += ["--path", path]
    switches = (
        ("--in-place", parameters["in_place"]),
        ("--containers", parameters["containers"]),
        ("--release", parameters["state"] == "released"),
        ("--dry-run", dry_run),
        ("--yes", not dry_run),
    )
    return arguments + [switch for switch, wanted in switches if wanted]


def describe(answer: dict[str, Any]) -> str:
    """The steps of a plan, one per line, for the diff."""
    plan = answer.get("plan")
    holder = plan if isinstance(plan, dict) else answer
    lines = holder.get("steps") or holder.get("lines") or []
    return "".join(f"{line}\n" for line in lines)


def main() -> None:
    """Restore, or in check mode plan to."""
    module = AnsibleModule(
        argument_spec=dict(
            COMMON_ARGUMENTS,
            agent={"type": "str", "required": True},
            state={"type": "str", "choices": ["restored", "released"], "default": "restored"},
            point={"type": "str"},
            at={"type": "str"},
            paths={"type": "list", "elements": "str", "default": []},
            to={"type": "path"},
            as_name={"type": "str"},
            in_place={"type": "bool", "default": False},
            containers={"type": "bool", "default": False},
        ),
        mutually_exclusive=[("point", "at"), ("to", "as_name"), ("to", "in_place"), ("as_name", "in_place")],
        supports_check_mode=True,
    )
    need_executable(module)
    result = run(module, restore_arguments(module.params, dry_run=module.check_mode))
    report = {"restore": result.data, "diff": {"before": "", "after": describe(result.data)}}
    if result.rc != DONE:
        fail(module, result, **report)
    module.exit_json(changed=True, rc=result.rc, **report)


if __name__ == "__main__":
    main()
