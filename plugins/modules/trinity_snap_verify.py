#!/usr/bin/python
# Copyright: trinity-snap contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: check that the recovery points of a host can be restored."""

from __future__ import annotations

DOCUMENTATION = r"""
module: trinity_snap_verify
short_description: Check that the recovery points of a host can be restored
version_added: 0.2.0
description:
  - Runs C(trinity-snap verify). It needs an identity to open recovery points; without one it looks whether everything that was
    stored is there.
author:
  - trinity-snap contributors (@abilityai)
extends_documentation_fragment:
  - trinity.snap.command
attributes:
  check_mode:
    support: full
    description: Changes nothing, so it does the same in check mode.
  diff_mode:
    support: none
    description: Changes nothing.
options:
  points:
    description: Only these recovery points, by id or the beginning of one. Empty means all.
    type: list
    elements: str
    default: []
  agents:
    description: Only recovery points of these agents. Empty means those of all.
    type: list
    elements: str
    default: []
  read_data:
    description:
      - Read and check data, not only that everything is there.
      - A share such as V(5%) or V(10GiB) reads what was not checked for the longest time, so that a daily V(5%) has read
        everything in twenty days; V(all), or V(true), reads every byte.
      - Empty, or V(false), reads none.
    type: str
    default: ""
  hashes:
    description: Compare every pack with the hash that is its name. Needs no identity.
    type: bool
    default: false
seealso:
  - module: trinity.snap.trinity_snap_info
"""

EXAMPLES = r"""
- name: Look whether everything is there
  trinity.snap.trinity_snap_verify:

- name: Read a twentieth of the data, what was not read for the longest time
  trinity.snap.trinity_snap_verify:
    read_data: 5%

- name: Read every byte that one agent's recovery points need
  trinity.snap.trinity_snap_verify:
    read_data: all
    agents: [researcher]

- name: Compare every pack of a sealed host's repository with its name
  trinity.snap.trinity_snap_verify:
    hashes: true
"""

RETURN = r"""
rc:
  description: Exit code of C(trinity-snap verify).
  returned: when it ran
  type: int
verify:
  description: The answer of C(trinity-snap verify --json).
  returned: when it ran
  type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.parsing.convert_bool import BOOLEANS_FALSE, BOOLEANS_TRUE
from ansible_collections.trinity.snap.plugins.module_utils.command import (
    COMMON_ARGUMENTS,
    DONE,
    fail,
    find_executable,
    need_executable,
    run,
)


def damage(answer: dict[str, Any]) -> str:
    """Which points and objects are not as they should be."""
    bad = [f"{point['id'][:8]} of {point['agent']}" for point in answer.get("points") or [] if not point["good"]]
    bad += [f"{point['id'][:8]}: {point['reason']}" for point in answer.get("unreadable") or []]
    return "; ".join(bad + [f"{one['name']}: {one['reason']}" for one in answer.get("damaged_objects") or []])


def wanted_share(text: str) -> list[str]:
    """The switch for `read_data`: the share for the command to judge, or none."""
    if text.strip().lower() in ("", *(str(word) for word in BOOLEANS_FALSE)):
        return []
    every = text.strip().lower() in {str(word) for word in BOOLEANS_TRUE}
    return [f"--read-data={'all' if every else text.strip()}"]


def main() -> None:
    """Verify, and fail if anything is not good."""
    module = AnsibleModule(
        argument_spec=dict(
            COMMON_ARGUMENTS,
            points={"type": "list", "elements": "str", "default": []},
            agents={"type": "list", "elements": "str", "default": []},
            read_data={"type": "str", "default": ""},
            hashes={"type": "bool", "default": False},
        ),
        supports_check_mode=True,
    )
    if module.check_mode and find_executable(module) is None:
        missing = f"There is no `{module.params['executable']}` on this host, and so nothing to verify yet."
        module.exit_json(changed=False, msg=missing)
    need_executable(module)
    switches = ["--hashes"] * module.params["hashes"] + wanted_share(module.params["read_data"])
    switches += [f"--agent={name}" for name in module.params["agents"]]
    result = run(module, ["verify", *switches, *module.params["points"]])
    if result.rc != DONE:
        fail(module, result, detail=damage(result.data), verify=result.data)
    module.exit_json(changed=False, rc=result.rc, verify=result.data)


if __name__ == "__main__":
    main()
