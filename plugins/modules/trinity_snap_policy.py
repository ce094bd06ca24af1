#!/usr/bin/python
# Copyright: trinity-snap contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: put a policy on a host, if the host finds no mistake in it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: trinity_snap_policy
short_description: Put a policy on a host, once the host has found it good
version_added: 0.2.0
description:
  - Writes the policy beside the present one, has the host's own C(trinity-snap policy check) look at it, and only then puts it in
    the place of the present one, in one step. With a mistake the present one stays, and the mistakes are named.
  - A policy with which the next C(trinity-snap forget) would remove recovery points that stay as it is now is refused, with
    their number, unless O(accept_removals) is set.
  - Keeps the policies before it in the directory C(previous) beside it.
author:
  - trinity-snap contributors (@abilityai)
extends_documentation_fragment:
  - trinity.snap.command
attributes:
  check_mode:
    support: full
    description: The host looks at the policy, too. A host without trinity-snap cannot, and would get it.
  diff_mode:
    support: full
    description: The policy before and after.
  idempotent:
    support: full
    description: Does nothing where the policy is there already, byte for byte.
options:
  content:
    description: The whole policy, in YAML.
    type: str
    required: true
  keep:
    description: How many policies before this one are kept.
    type: int
    default: 5
  accept_removals:
    description:
      - Put it there also if recovery points would go, here or at a replica. Check mode says how many.
      - Where the host cannot know, as one without an identity, which never removes any, this is not needed; a warning says so.
    type: bool
    default: false
seealso:
  - module: trinity.snap.trinity_snap_init
"""

EXAMPLES = r"""
- name: Put the fleet's policy on a host
  trinity.snap.trinity_snap_policy:
    content: "{{ lookup('ansible.builtin.template', 'policy.yml.j2') }}"
"""

RETURN = r"""
policy:
  description: Path of the policy.
  returned: always
  type: str
previous:
  description: Where the policy before it is kept, if there was one.
  returned: when it was changed, except in check mode
  type: str
points_going:
  description: How many more recovery points the next C(trinity-snap forget) would remove; null if the host cannot know.
  returned: when it is changed and there was one before
  type: int
mistakes:
  description: What the host found wrong.
  returned: on failure
  type: list
  elements: str
"""

import os
import time
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

DEFAULT_POLICY = "/etc/trinity-snap/policy.yml"
PREVIOUS = "previous"


def read(path: str) -> str | None:
    """The text of a file, or None if there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def write(path: str, text: str) -> None:
    """Write a file of mode 0600 that survives a power cut; it must not be there."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def judge(module: Any, candidate: str, policy: str, *, replaces: bool) -> dict[str, Any]:
    """Have the host's command look at a policy; fail with its mistakes if it has any. Give what it says of it."""
    given = module.params["policy"]
    module.params["policy"] = None
    result = run(module, ["policy", "check", candidate, *(["--instead-of", policy] if replaces else [])])
    if replaces and "--instead-of" in result.message and result.data.get("error") == "UsageError":
        result = run(module, ["policy", "check", candidate])  # an earlier version
    module.params["policy"] = given
    if result.rc != DONE:
        mistakes = [str(one).replace(candidate, policy) for one in result.data.get("mistakes") or []]
        os.unlink(candidate)
        fail(module, result, policy=policy, mistakes=mistakes, changed=False)
    said: dict[str, Any] = result.data
    return said


def consider(module: Any, said: dict[str, Any], report: dict[str, Any]) -> None:
    """Note how many recovery points would go; fail, unless that is accepted or nothing is changed yet."""
    report["points_going"] = said.get("points_going")
    announced = said.get("announced")
    if not announced:
        return
    if report["points_going"] and not module.params["accept_removals"] and not module.check_mode:
        report["changed"] = False
        module.fail_json(
            msg=f"{announced} The policy on the host was left as it is. If it is meant so, set accept_removals.",
            **report,
        )
    module.warn(announced)


def keep_previous(module: Any, policy: str, text: str) -> str:
    """Keep the policy that is replaced, and no more of its kind than wanted. Give where it is."""
    directory = os.path.join(os.path.dirname(policy), PREVIOUS)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + f".{time.time_ns() % 10**9:09d}Z"
    kept = os.path.join(directory, f"{os.path.basename(policy)}.{stamp}")
    write(kept, text)
    mine = sorted(name for name in os.listdir(directory) if name.startswith(os.path.basename(policy) + "."))
    for name in mine[: max(0, len(mine) - max(1, module.params["keep"]))]:
        os.unlink(os.path.join(directory, name))
    sync_directory(directory)
    return kept


def main() -> None:
    """Compare, have it looked at, keep the previous one, replace."""
    module = AnsibleModule(
        argument_spec=dict(
            COMMON_ARGUMENTS,
            content={"type": "str", "required": True},
            keep={"type": "int", "default": 5},
            accept_removals={"type": "bool", "default": False},
        ),
        supports_check_mode=True,
    )
    policy = module.params["policy"] or os.environ.get("TRINITY_SNAP_POLICY") or DEFAULT_POLICY
    wanted = module.params["content"].rstrip("\n") + "\n"
    present = read(policy)
    if present == wanted:
        module.exit_json(changed=False, policy=policy)
    report: dict[str, Any] = {"changed": True, "policy": policy, "diff": {"before": present or "", "after": wanted}}
    if module.check_mode and find_executable(module) is None:
        module.exit_json(**report)
    need_executable(module, **report)
    directory = os.path.dirname(policy)
    if not module.check_mode:
        os.makedirs(directory, mode=0o700, exist_ok=True)
    # What a policy names relative to itself has to be found from where it is looked at.
    beside = directory if os.path.isdir(directory) else module.tmpdir
    candidate = os.path.join(beside, f".policy-{os.getpid()}-{time.time_ns()}.yml")
    write(candidate, wanted)
    try:
        said = judge(module, candidate, policy, replaces=present is not None)
        if present is not None:
            consider(module, said, report)
        if not module.check_mode:
            if present is not None:
                report["previous"] = keep_previous(module, policy, present)
            os.replace(candidate, policy)
            sync_directory(directory)
    finally:
        if os.path.exists(candidate):
            os.unlink(candidate)
    module.exit_json(**report)


if __name__ == "__main__":
    main()
