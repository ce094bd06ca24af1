#!/usr/bin/python
# Copyright: trinity-snap contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: what `trinity-snap` protects on a host, and what it has."""

from __future__ import annotations

DOCUMENTATION = r"""
module: trinity_snap_info
short_description: Agents, recovery points and backup status of a host
version_added: 0.1.0
description:
  - Asks the C(trinity-snap) that is installed on the host what it protects, which recovery points there are,
    and when which agent was last backed up.
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
  subset:
    description: What to ask for.
    type: list
    elements: str
    choices: [agents, points, status]
    default: [agents, points, status]
  agent:
    description: Only the recovery points of this agent.
    type: str
  max_age:
    description:
      - Call an agent stale whose last recovery point is older, such as V(26h) or V(2d), and a replica that is behind too long.
      - That is no failure. RV(stale) says it.
    type: str
seealso:
  - module: trinity.snap.trinity_snap_backup
"""

EXAMPLES = r"""
- name: Ask when each agent was last backed up
  trinity.snap.trinity_snap_info:
    subset: [status]
  register: result

- name: List the recovery points of one agent
  trinity.snap.trinity_snap_info:
    subset: [points]
    agent: researcher
  register: result
"""

RETURN = r"""
installed:
  description: Whether C(trinity-snap) is there at all.
  returned: always
  type: bool
agents:
  description: The answer of C(trinity-snap agents --json).
  returned: when asked for and C(installed)
  type: dict
points:
  description:
    - Recovery points, newest first, as in C(trinity-snap list --json).
    - A warning names each one that cannot be read.
    - A host without an identity cannot list any; a warning says so, and there are none here.
  returned: when asked for and C(installed), and the host has an identity
  type: list
  elements: dict
  sample:
    - agent: researcher
      bytes: 73400320
      created: "2026-09-01T03:00:00Z"
      files: 1200
      id: 4be1c0ffee
status:
  description: The answer of C(trinity-snap status --json).
  returned: when asked for and C(installed)
  type: dict
stale:
  description: Agents whose last recovery point is older than O(max_age), and replicas that are behind, by name.
  returned: with the status
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trinity.snap.plugins.module_utils.command import (
    COMMON_ARGUMENTS,
    DONE,
    fail,
    find_executable,
    run,
)

# Exit codes that say something about the host although the answer is complete, and the key that the answer then has.
COMPLETE = {"list": ("points", (DONE, 90)), "status": ("agents", (DONE, 1, 10, 11, 12))}


def main() -> None:
    """Ask for every subset and give the answers together."""
    module = AnsibleModule(
        argument_spec=dict(
            COMMON_ARGUMENTS,
            subset={
                "type": "list",
                "elements": "str",
                "choices": ["agents", "points", "status"],
                "default": ["agents", "points", "status"],
            },
            agent={"type": "str"},
            max_age={"type": "str"},
        ),
        supports_check_mode=True,
    )
    if find_executable(module) is None:
        missing = (
            f"There is no `{module.params['executable']}` on this host. Apply the role trinity.snap.install first."
        )
        module.exit_json(changed=False, installed=False, msg=missing)
    answer: dict[str, object] = {"installed": True}
    stale: list[str] = []
    for subset in module.params["subset"]:
        arguments = [{"points": "list"}.get(subset, subset)]
        if subset == "points" and module.params["agent"]:
            arguments.append(module.params["agent"])
        if subset == "status" and module.params["max_age"]:
            arguments += ["--max-age", module.params["max_age"]]
        result = run(module, arguments)
        if result.data.get("error") == "IdentityNeeded":
            module.warn(f"The recovery points of this host are not listed: {result.message}")
            continue
        key, codes = COMPLETE.get(arguments[0], ("agents", (DONE,)))
        if key not in result.data or result.rc not in codes:
            fail(module, result, installed=True)
        for unreadable in result.data.get("unreadable", []) if subset == "points" else []:
            module.warn(f"Recovery point {unreadable['id']} cannot be read: {unreadable['reason']}")
        if subset == "status" and result.data.get("target_error"):
            module.fail_json(
                msg=f"The target could not be asked: {result.data['target_error']}", installed=True, status=result.data
            )
        answer[subset] = result.data["points"] if subset == "points" else result.data
        if subset == "status":
            late = [replica["name"] for replica in result.data.get("replicas", []) if replica.get("stale")]
            stale = [*result.data.get("stale", []), *(f"replica {name}" for name in late)]
            answer["stale"] = stale
    if answer.get("stale"):
        answer["msg"] = f"Not backed up for longer than {module.params['max_age']}: {', '.join(stale)}."
    module.exit_json(changed=False, **answer)


if __name__ == "__main__":
    main()
