#!/usr/bin/python
# Copyright: trinity-snap contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: prove that recovery points of a host can be restored."""

from __future__ import annotations

DOCUMENTATION = r"""
module: trinity_snap_drill
short_description: Prove that recovery points can be restored
version_added: 0.2.0
description:
  - Runs C(trinity-snap drill). Recovery points are restored into a scratch place, compared, their SQLite databases
    checked, an optional command run there, and everything is removed again. No agent is touched.
  - It takes an identity. For hosts that have none, run it on the control node with the policy that it has for them.
author:
  - trinity-snap contributors (@abilityai)
extends_documentation_fragment:
  - trinity.snap.command
attributes:
  check_mode:
    support: full
    description: Says which recovery points would be drilled. True on a host without trinity-snap, too.
  diff_mode:
    support: full
    description: What was proved.
  idempotent:
    support: none
    description: Every drill restores anew.
options:
  agents:
    description: Agents to drill. Empty means those that the policy names under C(drill).
    type: list
    elements: str
    default: []
  point:
    description: Id of a recovery point, or the beginning of one. The newest of every agent if not given.
    type: str
  command:
    description: A shell command to run in the scratch place, instead of the policy's. Its exit code decides.
    type: str
  target:
    description: Name of a replica of the policy to restore from, instead of the first target.
    type: str
seealso:
  - module: trinity.snap.trinity_snap_backup
  - module: trinity.snap.trinity_snap_restore
"""

EXAMPLES = r"""
- name: Prove that every agent of the host can be restored
  trinity.snap.trinity_snap_drill:

- name: Prove it of one agent, with its own test
  trinity.snap.trinity_snap_drill:
    agents: [researcher]
    command: test -s agent-researcher-workspace/memory.db
"""

RETURN = r"""
rc:
  description: Exit code of C(trinity-snap drill).
  returned: when it ran
  type: int
drills:
  description: What came of each agent, as C(trinity-snap drill --json) says it.
  returned: when it ran
  type: list
  elements: dict
drill:
  description: The answer of C(trinity-snap drill --json); in check mode, what would be drilled.
  returned: when it ran
  type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trinity.snap.plugins.module_utils.command import (
    COMMON_ARGUMENTS,
    DONE,
    difference,
    fail,
    need_executable,
    run,
)


def drill_arguments(parameters: dict[str, Any], dry_run: bool) -> list[str]:
    """The command line that the parameters ask for."""
    arguments = ["drill", *parameters["agents"]]
    for name in ("point", "command", "target"):
        if parameters[name] is not None:
            arguments += [f"--{name}", parameters[name]]
    return [*arguments, "--dry-run"] if dry_run else arguments


def describe(drill: dict[str, Any]) -> str:
    """One drill in one line."""
    what = "is proved" if drill.get("outcome") == "proved" else f"was not proved: {drill.get('reason')}"
    return f"{drill['agent']}: {drill.get('point')} {what}"


def main() -> None:
    """Drill, or in check mode say what would be drilled."""
    module = AnsibleModule(
        argument_spec=dict(
            COMMON_ARGUMENTS,
            agents={"type": "list", "elements": "str", "default": []},
            point={"type": "str"},
            command={"type": "str"},
            target={"type": "str"},
        ),
        supports_check_mode=True,
    )
    need_executable(module, drills=[])
    result = run(module, drill_arguments(module.params, dry_run=module.check_mode))
    drills = result.data.get("drills") or []
    if module.check_mode:
        report: dict[str, Any] = {"drills": drills, "drill": result.data, "diff": difference(result.data)}
    else:
        shown = difference({"lines": [describe(drill) for drill in drills]})
        report = {"drills": drills, "drill": result.data, "diff": shown}
    if result.rc != DONE:
        bad = "; ".join(describe(drill) for drill in drills if drill.get("outcome") != "proved")
        fail(module, result, detail=bad, **report)
    module.exit_json(changed=bool(drills), rc=result.rc, **report)


if __name__ == "__main__":
    main()
