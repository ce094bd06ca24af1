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
  - Runs C(trinity-snap init) on a host that has no policy, or has one and no host key yet. Any other host is left as it is.
  - With O(recipients) the host is a sealed one. It gets no identity and there are no recovery words; only the identities of
    those recipients open what it backs up, and they never leave the place where they are.
  - Otherwise the result holds the recovery words, once. Use C(no_log) on the task and put them where only the operator
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
    description: Does nothing where there are a policy and a host key.
options:
  target:
    description: Where the repository goes. Without it, the default of C(trinity-snap init).
    type: str
  recipients:
    description:
      - The content of recipient files, as C(trinity-snap key new) writes them, at least two. They are public.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Make a policy, keys and a repository
  trinity.snap.trinity_snap_init:
    target: /mnt/backup/trinity-snap
  register: result
  no_log: true

- name: Make a host that cannot read its own backups
  trinity.snap.trinity_snap_init:
    target: /mnt/backup/trinity-snap
    recipients: "{{ query('ansible.builtin.file', 'keys/operator.recipient', 'keys/recovery.recipient') }}"
"""

RETURN = r"""
policy:
  description: Path of the policy.
  returned: always
  type: str
init:
  description: The answer of C(trinity-snap init --json), with the recovery words if there are any.
  returned: when it ran
  type: dict
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trinity.snap.plugins.module_utils.command import (
    COMMON_ARGUMENTS,
    DONE,
    fail,
    find_executable,
    need_executable,
    run,
    write_files,
)

DEFAULT_POLICY = "/etc/trinity-snap/policy.yml"


def main() -> None:
    """Make what is missing, unless there are a policy and a host key."""
    module = AnsibleModule(
        argument_spec=dict(COMMON_ARGUMENTS, target={"type": "str"}, recipients={"type": "list", "elements": "str"}),
        supports_check_mode=True,
    )
    policy = module.params["policy"] or os.environ.get("TRINITY_SNAP_POLICY") or DEFAULT_POLICY
    if os.path.exists(policy) and (find_executable(module) is None or has_host_key(module)):
        module.exit_json(changed=False, policy=policy)
    need_executable(module, policy=policy)
    if module.check_mode:
        module.exit_json(changed=True, policy=policy)
    target = module.params["target"]
    arguments = ["init", *(["--target", target] if target else [])]
    for path in write_files(module, module.params["recipients"] or [], ".recipient"):
        arguments += ["--recipient", path]
    result = run(module, arguments)
    if result.rc != DONE:
        fail(module, result, policy=policy)
    module.exit_json(changed=True, policy=policy, init=result.data)


def has_host_key(module: AnsibleModule) -> bool:
    """Whether the host key that the policy names is there. A policy that cannot be read is left as it is."""
    result = run(module, ["policy", "show"])
    if result.rc != DONE:
        fail(module, result)
    values = {row["setting"]: row["value"] for row in result.data["settings"]}
    return os.path.exists(values["keys.host_key"])


if __name__ == "__main__":
    main()
