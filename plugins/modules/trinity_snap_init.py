#!/usr/bin/python
# Copyright: trinity-snap contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: make a policy, keys and a repository on a host that has none."""

from __future__ import annotations

DOCUMENTATION = r"""
module: trinity_snap_init
short_description: Make a host's policy, keys and repository
version_added: 0.1.0
description:
  - Runs C(trinity-snap init) on a host that has no policy. A host that has one is left as it is.
  - The result holds the recovery words, once. Use C(no_log) on the task and put them where only the operator
    reads them.
author:
  - trinity-snap contributors (@abilityai)
extends_documentation_fragment:
  - trinity.snap.command
attributes:
  check_mode:
    support: full
    description: Says whether the host would get a policy. True on a host without trinity-snap, too.
  diff_mode:
    support: none
    description: What it makes is secret.
  idempotent:
    support: full
    description: Does nothing where a policy exists.
options:
  target:
    description: Where the repository goes. Without it, the default of C(trinity-snap init).
    type: str
"""

EXAMPLES = r"""
- name: Make a policy, keys and a repository
  trinity.snap.trinity_snap_init:
    target: /mnt/backup/trinity-snap
  register: result
  no_log: true
"""

RETURN = r"""
policy:
  description: Path of the policy.
  returned: always
  type: str
init:
  description: The answer of C(trinity-snap init --json), with the recovery words.
  returned: when it ran
  type: dict
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trinity.snap.plugins.module_utils.command import (
    COMMON_ARGUMENTS,
    DONE,
    fail,
    need_executable,
    run,
)

DEFAULT_POLICY = "/etc/trinity-snap/policy.yml"


def main() -> None:
    """Make what is missing, unless there is a policy."""
    module = AnsibleModule(argument_spec=dict(COMMON_ARGUMENTS, target={"type": "str"}), supports_check_mode=True)
    policy = module.params["policy"] or os.environ.get("TRINITY_SNAP_POLICY") or DEFAULT_POLICY
    if os.path.exists(policy):
        module.exit_json(changed=False, policy=policy)
    need_executable(module, policy=policy)
    if module.check_mode:
        module.exit_json(changed=True, policy=policy)
    target = module.params["target"]
    result = run(module, ["init", *(["--target", target] if target else [])])
    if result.rc != DONE:
        fail(module, result, policy=policy)
    module.exit_json(changed=True, policy=policy, init=result.data)


if __name__ == "__main__":
    main()
