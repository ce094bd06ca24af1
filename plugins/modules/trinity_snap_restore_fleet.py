#!/usr/bin/python
# Copyright: trinity-snap contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: agents of lost hosts come to this host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: trinity_snap_restore_fleet
short_description: Restore agents of other hosts onto this one
version_added: 0.2.0
description:
  - Restores whatever a mapping of old hosts to new ones sends to the host that it runs for, with a grant for each agent, made on
    the control node, where the identities are. The old hosts need not exist any more.
  - Volumes come first, C(platform) before all others, each checked byte by byte before it counts. Then missing containers are
    made, all of them, and then those are started that ran when they were backed up. No container is made or started whose volumes
    are not all there.
  - What was restored from the same recovery point, and is still there, is not restored again; run it again to go on where it
    stopped.
author:
  - trinity-snap contributors (@abilityai)
extends_documentation_fragment:
  - trinity.snap.command
attributes:
  check_mode:
    support: full
    description: Makes the plans and shows them. True on a host without trinity-snap, too.
  diff_mode:
    support: full
    description: The steps of the plans.
  idempotent:
    support: full
    description: What is restored, and what runs, is left alone, as long as the same recovery points are chosen.
options:
  onto:
    description:
      - Where agents go, as V(OLD=NEW) for all of the host OLD that no other element names, or V(OLD:AGENT,AGENT=NEW). NEW is a
        host of the inventory.
    type: list
    elements: str
    required: true
  agents:
    description: Only these agents. Empty means all.
    type: list
    elements: str
    default: []
  run:
    description: Take the recovery points of this run, which a fleet run shares; the start of its id will do.
    type: str
    default: ""
  at:
    description: Take the newest recovery points that are not younger than this time (RFC 3339). Empty means the newest.
    type: str
    default: ""
  containers:
    description: Make containers that are missing, from their recorded definitions.
    type: bool
    default: false
  start:
    description:
      - Make and start containers, once all volumes of the host are there; those that did not run when they were backed up stay
        stopped.
    type: bool
    default: true
  grant:
    description: How grants are made on the control node. C({host}) in the paths and in the target stands for the old host's name.
    type: dict
    required: true
    suboptions:
      command:
        description: The C(trinity-snap) command on the control node.
        type: str
        default: trinity-snap
      policy:
        description: The policy with C(target) and C(keys.identity) of an old host's repository.
        type: str
        required: true
      identity:
        description: The identity file, if the policy does not name it.
        type: str
      passphrase_file:
        description: File with the identity's passphrase.
        type: str
      valid:
        description: For how long each grant is valid. The restore of one agent has to read everything within that time.
        type: str
        default: 1h
      target:
        description: Where an old host's repository is for the new one, if its target can sign no addresses (a directory).
        type: str
seealso:
  - module: trinity.snap.trinity_snap_restore
"""

EXAMPLES = r"""
- name: Bring everything that was lost back, on other hosts
  trinity.snap.trinity_snap_restore_fleet:
    onto: [host1=new1, "host2:researcher,writer=new2", host2=new3]
    containers: true
    grant:
      policy: /etc/trinity-snap/hosts/{host}.yml
"""

RETURN = r"""
rc:
  description: 0, or 10 if agents failed.
  returned: when something comes to this host
  type: int
restore_fleet:
  description: What came of each agent.
  returned: always
  type: dict
  contains:
    agents:
      description: >-
        Each with C(agent), C(of) (the old host), C(outcome) (C(restored), C(there) if it was done before, C(planned), C(failed),
        C(not-begun)), C(point), its container and what that does, and C(error).
      type: list
      elements: dict
      returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trinity.snap.plugins.module_utils.command import need_executable
from ansible_collections.trinity.snap.plugins.module_utils.restore_fleet import ARGUMENTS


def main() -> None:
    """Fail: grants go through the connection, so the action plugin of the same name does all of it."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    need_executable(module)
    module.fail_json(msg="Grants need the action plugin trinity.snap.trinity_snap_restore_fleet.")


if __name__ == "__main__":
    main()
