#!/usr/bin/python
# Copyright: trinity-snap contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: bring an agent's volumes back from a local snapshot."""

from __future__ import annotations

DOCUMENTATION = r"""
module: trinity_snap_rollback
short_description: Bring an agent's volumes back from a local snapshot, in seconds
version_added: 0.2.0
description:
  - Runs C(trinity-snap rollback) for one agent on the host.
  - The agent's containers stop while its data is exchanged. The state before is kept as a local snapshot, whose id is
    in the result, so that the rollback can be undone.
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
    description: A rollback is done every time it is asked for.
options:
  agent:
    description: The agent to roll back.
    type: str
    required: true
  local:
    description: Id of a local snapshot, or the beginning of one. The newest that a backup kept if not given.
    type: str
seealso:
  - module: trinity.snap.trinity_snap_backup
  - module: trinity.snap.trinity_snap_restore
"""

EXAMPLES = r"""
- name: Undo what an agent did since the last backup
  trinity.snap.trinity_snap_rollback:
    agent: researcher
  register: rolled_back

- name: Change one's mind
  trinity.snap.trinity_snap_rollback:
    agent: researcher
    local: "{{ rolled_back.rollback.before }}"
"""

RETURN = r"""
rc:
  description: Exit code of C(trinity-snap rollback).
  returned: when it ran
  type: int
rollback:
  description: The answer of C(trinity-snap rollback --json); in check mode, the plan.
  returned: when it ran
  type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trinity.snap.plugins.module_utils.command import COMMON_ARGUMENTS, carry_out


def rollback_arguments(parameters: dict[str, Any], dry_run: bool) -> list[str]:
    """The command line that the parameters ask for."""
    arguments = ["rollback", parameters["agent"]]
    if parameters["local"] is not None:
        arguments += ["--to", parameters["local"]]
    return [*arguments, "--dry-run" if dry_run else "--yes"]


def main() -> None:
    """Roll back, or in check mode plan to."""
    module = AnsibleModule(
        argument_spec=dict(
            COMMON_ARGUMENTS,
            agent={"type": "str", "required": True},
            local={"type": "str"},
        ),
        supports_check_mode=True,
    )
    carry_out(module, "rollback", rollback_arguments(module.params, dry_run=module.check_mode))


if __name__ == "__main__":
    main()
