#!/usr/bin/python
# Copyright: trinity-snap contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: bring back what is missing or damaged in a host's repository."""

from __future__ import annotations

DOCUMENTATION = r"""
module: trinity_snap_repair
short_description: Bring back what is missing or damaged in a host's repository
version_added: 0.2.0
description:
  - Runs C(trinity-snap repair). What is missing or was found damaged is taken from replicas, and from what is there. It only
    adds, and deletes nothing.
  - It knows of damage what M(trinity.snap.trinity_snap_verify) has noted, so verify with
    O(trinity.snap.trinity_snap_verify#module:read_data) first.
  - It needs an identity. For sealed hosts run it on the control node.
author:
  - trinity-snap contributors (@abilityai)
extends_documentation_fragment:
  - trinity.snap.command
attributes:
  check_mode:
    support: full
    description: Says what would be brought back, and changes nothing.
  diff_mode:
    support: full
    description: Shows what comes back, and what cannot.
options:
  from_replicas:
    description: Take from these replicas of the policy only. Empty means all.
    type: list
    elements: str
    default: []
seealso:
  - module: trinity.snap.trinity_snap_verify
"""

EXAMPLES = r"""
- name: Bring back what verification found damaged
  trinity.snap.trinity_snap_repair:

- name: Take from one replica only
  trinity.snap.trinity_snap_repair:
    from_replicas: [offsite]
"""

RETURN = r"""
rc:
  description: Exit code of C(trinity-snap repair); 90 if something could not be repaired.
  returned: when it ran
  type: int
repair:
  description: The answer of C(trinity-snap repair --json).
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

CHANGES = ("brought_back", "stored_anew", "recommitted", "indexed_packs")


def describe(answer: dict[str, Any]) -> str:
    """What comes back, one line each."""
    lines = [f"bring back {one['name']} from {one['from']}" for one in answer.get("brought_back") or []]
    lines += [f"store anew what {one['name']} held, from {one['from']}" for one in answer.get("stored_anew") or []]
    lines += [f"store recovery point {one['id'][:8]} anew" for one in answer.get("recommitted") or []]
    if answer.get("indexed_packs"):
        lines.append(f"take {answer['indexed_packs']} packs into the index again")
    return "".join(f"{line}\n" for line in lines)


def main() -> None:
    """Repair, or in check mode say what would be; fail if something cannot be brought back."""
    module = AnsibleModule(
        argument_spec=dict(COMMON_ARGUMENTS, from_replicas={"type": "list", "elements": "str", "default": []}),
        supports_check_mode=True,
    )
    need_executable(module)
    dry_run = ["--dry-run"] if module.check_mode else []
    result = run(module, ["repair", *dry_run, *(f"--from={name}" for name in module.params["from_replicas"])])
    report = {
        "changed": any(result.data.get(key) for key in CHANGES),
        "repair": result.data,
        "diff": {"before": "", "after": describe(result.data)},
    }
    if result.rc != DONE:
        lost = [f"{one['name']}: {one['reason']}" for one in result.data.get("unrepaired") or []]
        fail(module, result, detail="; ".join(lost), **report)
    module.exit_json(rc=result.rc, **report)


if __name__ == "__main__":
    main()
