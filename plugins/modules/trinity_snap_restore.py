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
    description: Write only what differs, straight into the present volumes. Only what that replaces or removes is kept.
    type: bool
    default: false
  containers:
    description: Make the agent's container from its recorded definition if there is none.
    type: bool
    default: false
  grant:
    description:
      - Make a grant on the control node, where the identity is, and restore with it; the host needs no identity then.
      - The grant goes from C(trinity-snap grant) into C(trinity-snap restore) through the connection, and is in no variable,
        argument, environment, log or file.
      - Needs a connection that gives commands a standard input, such as P(ansible.builtin.ssh#connection).
    type: dict
    suboptions:
      command:
        description: The C(trinity-snap) command on the control node.
        type: str
        default: trinity-snap
      policy:
        description: A policy on the control node, with C(target) and C(keys.identity) of this host's repository.
        type: path
      identity:
        description: The identity file on the control node, if the policy does not name it.
        type: path
      passphrase_file:
        description: File on the control node with the identity's passphrase.
        type: path
      repository_id:
        description: Refuse every repository but the one with this id.
        type: str
      valid:
        description: For how long the grant is valid. The restore has to read all packs within that time.
        type: str
        default: 1h
      target:
        description: Where the repository is for the host, if the target can sign no addresses and the host's policy does not say.
        type: str
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

- name: Give an agent back on a host that has no identity
  trinity.snap.trinity_snap_restore:
    agent: researcher
    containers: true
    grant:
      policy: /etc/trinity-snap/hosts/host1.yml

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
grant:
  description: What was granted, without the keys; see C(trinity-snap grant --json).
  returned: with O(grant)
  type: dict
restore:
  description: The answer of C(trinity-snap restore --json); in check mode, the plan.
  returned: when it ran
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trinity.snap.plugins.module_utils.command import carry_out
from ansible_collections.trinity.snap.plugins.module_utils.restore import (
    ARGUMENTS,
    MUTUALLY_EXCLUSIVE,
    restore_arguments,
)


def main() -> None:
    """Restore, or in check mode plan to. A grant never gets here: the action plugin of the same name deals with it."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        mutually_exclusive=MUTUALLY_EXCLUSIVE,
        supports_check_mode=True,
    )
    if module.params["grant"]:
        module.fail_json(msg="A grant needs the action plugin trinity.snap.trinity_snap_restore.")
    carry_out(module, "restore", restore_arguments(module.params, dry_run=module.check_mode))


if __name__ == "__main__":
    main()
