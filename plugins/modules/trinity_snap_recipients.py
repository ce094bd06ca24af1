#!/usr/bin/python
# Copyright: trinity-snap contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: pin to whom a host may seal."""

from __future__ import annotations

DOCUMENTATION = r"""
module: trinity_snap_recipients
short_description: Pin the recipients that a host seals to
version_added: 0.2.0
description:
  - Runs C(trinity-snap key pin) on a host whose policy has a place for pins, as C(trinity-snap init --recipient) writes it.
  - The host then makes recovery points only while the repository has just these recipients. The repository itself is changed
    where an identity is, with C(trinity-snap key add) and C(trinity-snap key retire).
author:
  - trinity-snap contributors (@abilityai)
extends_documentation_fragment:
  - trinity.snap.command
attributes:
  check_mode:
    support: full
    description: Says whether other recipients would be pinned. True on a host without trinity-snap, too.
  diff_mode:
    support: full
    description: Shows the ids of the recipients that will be pinned.
  idempotent:
    support: full
    description: Does nothing where these recipients are pinned already, in whatever order.
options:
  recipients:
    description: The content of recipient files, as C(trinity-snap key new) writes them, at least two. They are public.
    type: list
    elements: str
    required: true
  next:
    description:
      - The content of the recipient files of those that take their place. Until the module runs without them, the host accepts a
        repository with all of the present ones or all of the next, and nobody else.
    type: list
    elements: str
    default: []
seealso:
  - module: trinity.snap.trinity_snap_init
"""

EXAMPLES = r"""
- name: Let hosts go on while their repositories get another recipient
  trinity.snap.trinity_snap_recipients:
    recipients: "{{ query('ansible.builtin.file', 'keys/operator.recipient', 'keys/recovery.recipient') }}"
    next: "{{ query('ansible.builtin.file', 'keys/operator2.recipient', 'keys/recovery.recipient') }}"
"""

RETURN = r"""
pins:
  description: The answer of C(trinity-snap key pin --json).
  returned: always, except in check mode on a host without trinity-snap or a policy
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
    write_files,
)

DEFAULT_POLICY = "/etc/trinity-snap/policy.yml"


def main() -> None:
    """Pin, or say whether that would change anything."""
    texts = {"type": "list", "elements": "str"}
    module = AnsibleModule(
        argument_spec=dict(COMMON_ARGUMENTS, recipients={**texts, "required": True}, next={**texts, "default": []}),
        supports_check_mode=True,
    )
    policy = module.params["policy"] or os.environ.get("TRINITY_SNAP_POLICY") or DEFAULT_POLICY
    need_executable(module)
    if module.check_mode and not os.path.exists(policy):
        module.exit_json(changed=False, msg="There is no policy yet; making one pins the recipients.")
    arguments = ["key", "pin", *write_files(module, module.params["recipients"], ".recipient")]
    for path in write_files(module, module.params["next"], ".recipient"):
        arguments += ["--next", path]
    result = run(module, [*arguments, *(["--dry-run"] if module.check_mode else [])])
    if result.rc != DONE:
        fail(module, result)
    shown = [f"{group}: {one['id']} {one['label']}" for group in ("recipients", "next") for one in result.data[group]]
    changed = bool(result.data["changed"])
    diff = {"before": "", "after": "\n".join(shown) + "\n"} if changed else {"before": "", "after": ""}
    module.exit_json(changed=changed, pins=result.data, diff=diff)


if __name__ == "__main__":
    main()
