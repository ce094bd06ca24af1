#!/usr/bin/python
# Copyright: trinity-snap contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: let old recovery points go, and free their space."""

from __future__ import annotations

DOCUMENTATION = r"""
module: trinity_snap_prune
short_description: Forget old recovery points and free their space
version_added: 0.2.0
description:
  - Runs C(trinity-snap forget) and then C(trinity-snap prune), where an identity is. Hosts that have none cannot delete; do it
    on the control node for them.
  - What a prune condemns, a later one deletes, a day or more afterwards. Backups may go on meanwhile.
author:
  - trinity-snap contributors (@abilityai)
extends_documentation_fragment:
  - trinity.snap.command
attributes:
  check_mode:
    support: full
    description: Says what would go. True on a host without trinity-snap, too.
  diff_mode:
    support: full
    description: What goes, or would.
  idempotent:
    support: full
    description: Changes nothing where there is nothing to forget, condemn or delete.
options:
  forget:
    description: Whether recovery points that the policy does not keep are forgotten first.
    type: bool
    default: true
  accept_missing:
    description: Whether to go on although recovery points are gone that nobody forgot.
    type: bool
    default: false
seealso:
  - module: trinity.snap.trinity_snap_verify
"""

EXAMPLES = r"""
- name: Let old recovery points go
  trinity.snap.trinity_snap_prune:

- name: Let those of a sealed host go, from the control node
  trinity.snap.trinity_snap_prune:
    policy: /etc/trinity-snap/hosts/host1.yml
  delegate_to: localhost
"""

RETURN = r"""
rc:
  description: Exit code of C(trinity-snap prune), or of C(trinity-snap forget) if it was refused.
  returned: when it ran
  type: int
forget:
  description: The answer of C(trinity-snap forget --json).
  returned: when it ran, with O(forget)
  type: dict
prune:
  description: The answer of C(trinity-snap prune --json).
  returned: when it ran
  type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trinity.snap.plugins.module_utils.command import (
    COMMON_ARGUMENTS,
    DONE,
    fail,
    human_size,
    need_executable,
    run,
)

CHANGES = ("deleted_packs", "fenced_packs", "released_packs", "deleted_index_objects")


def describe(forget: dict[str, Any], prune: dict[str, Any]) -> str:
    """What goes, one line each."""
    lines = [f"forget {point}" for point in forget.get("forgotten") or []]
    if prune.get("deleted_packs"):
        lines.append(f"delete {prune['deleted_packs']} packs, {human_size(prune['deleted_bytes'])}")
    if prune.get("fenced_packs"):
        lines.append(f"condemn {prune['fenced_packs']} packs, {human_size(prune['fenced_bytes'])}")
    return "".join(f"{line}\n" for line in lines)


def main() -> None:
    """Forget and prune, or in check mode say what would go."""
    module = AnsibleModule(
        argument_spec=dict(
            COMMON_ARGUMENTS,
            forget={"type": "bool", "default": True},
            accept_missing={"type": "bool", "default": False},
        ),
        supports_check_mode=True,
    )
    need_executable(module)
    dry_run = ["--dry-run"] if module.check_mode else []
    forgotten: dict[str, Any] = {}
    if module.params["forget"]:
        result = run(module, ["forget", *dry_run])
        forgotten = result.data
        if result.rc != DONE:
            refused = [f"{one['agent']}: {one['refused']}" for one in forgotten.get("agents") or [] if one["refused"]]
            done = bool(forgotten.get("forgotten"))
            fail(module, result, detail="; ".join(refused), forget=forgotten, changed=done)
    accept = ["--accept-missing"] if module.params["accept_missing"] else []
    result = run(module, ["prune", *dry_run, *accept])
    report = {
        "changed": bool(forgotten.get("forgotten")) or any(result.data.get(key) for key in CHANGES),
        "prune": result.data,
        "diff": {"before": "", "after": describe(forgotten, result.data)},
        **({"forget": forgotten} if module.params["forget"] else {}),
    }
    if result.rc != DONE:
        fail(module, result, **report)
    module.exit_json(rc=result.rc, **report)


if __name__ == "__main__":
    main()
