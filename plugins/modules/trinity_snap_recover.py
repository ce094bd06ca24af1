#!/usr/bin/python
# Copyright: trinity-snap contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: undo what a dead run of `trinity-snap` left on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: trinity_snap_recover
short_description: Undo what dead runs left on a host
version_added: 0.2.0
description:
  - Runs C(trinity-snap recover) on the host. Containers that a dead run left paused or stopped go on, its snapshots are removed,
    restores that were half done are finished or undone. Runs that are alive are left alone.
author:
  - trinity-snap contributors (@abilityai)
extends_documentation_fragment:
  - trinity.snap.command
attributes:
  check_mode:
    support: partial
    description: Does nothing and reports no change.
    details: What there is to undo is known only while it is being undone.
  diff_mode:
    support: full
    description: What was undone.
  idempotent:
    support: full
    description: Changes nothing where nothing was left.
options:
  wait:
    description:
      - For how long to wait for another process that holds the host, such as V(30s) or V(5m).
      - A backup that holds the host is not waited for, because it has undone what was left before it began.
    type: str
    default: 5m
  strays:
    description: Whether snapshots that look like ours and that nothing on the host noted are removed, if no run is alive.
    type: bool
    default: false
seealso:
  - module: trinity.snap.trinity_snap_backup
"""

EXAMPLES = r"""
- name: Undo what dead runs left
  trinity.snap.trinity_snap_recover:
"""

RETURN = r"""
rc:
  description: Exit code of C(trinity-snap recover).
  returned: when it ran
  type: int
recover:
  description: The answer of C(trinity-snap recover --json).
  returned: when it ran
  type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trinity.snap.plugins.module_utils.command import (
    COMMON_ARGUMENTS,
    DONE,
    fail,
    find_executable,
    need_executable,
    run,
)

UNDONE = (
    ("resumed", "resumed"),
    ("started", "started"),
    ("hooks", "ran the after-hook of"),
    ("autonomy", "autonomy on again:"),
    ("removed", "removed"),
)


def undone(answer: dict[str, Any]) -> list[str]:
    """One line for everything that was undone."""
    lines = [f"{verb} {name}" for key, verb in UNDONE for name in answer.get(key) or []]
    return lines + [f"restore of {one['agent']}: {one['outcome']}" for one in answer.get("restores") or []]


def main() -> None:
    """Recover, and say what that changed."""
    module = AnsibleModule(
        argument_spec=dict(
            COMMON_ARGUMENTS,
            wait={"type": "str", "default": "5m"},
            strays={"type": "bool", "default": False},
        ),
        supports_check_mode=True,
    )
    if module.check_mode:
        there = "" if find_executable(module) else f"There is no `{module.params['executable']}` on this host. "
        module.exit_json(changed=False, msg=f"{there}What there is to undo is known only by undoing it.")
    need_executable(module)
    strays = ["--strays"] if module.params["strays"] else []
    result = run(module, ["recover", "--wait", module.params["wait"], *strays])
    lines = undone(result.data)
    report = {
        "changed": bool(lines or result.data.get("runs")),
        "recover": result.data,
        "diff": {"before": "", "after": "".join(f"{line}\n" for line in lines)},
    }
    if result.rc != DONE:
        fail(module, result, detail="; ".join(result.data.get("problems") or []), **report)
    module.exit_json(rc=result.rc, **report)


if __name__ == "__main__":
    main()
