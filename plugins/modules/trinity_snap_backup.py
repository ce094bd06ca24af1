#!/usr/bin/python
# Copyright: trinity-snap contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible module: one backup run of `trinity-snap` on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: trinity_snap_backup
short_description: Back up the agents of a host
version_added: 0.1.0
description:
  - Runs C(trinity-snap backup) once on the host. All agents are held at one instant, a snapshot is made, they
    go on, and one recovery point per agent is stored.
  - Holding and resuming happen in one process on the host, never across tasks, so losing the connection
    leaves nothing paused.
author:
  - trinity-snap contributors (@abilityai)
extends_documentation_fragment:
  - trinity.snap.command
attributes:
  check_mode:
    support: full
    description: Says which agents would be backed up. True on a host without trinity-snap, too.
  diff_mode:
    support: full
    description: The recovery points that are new.
  idempotent:
    support: none
    description: Every run makes recovery points.
options:
  agents:
    description: Agents to back up. Empty means all that the policy protects.
    type: list
    elements: str
    default: []
  accept_downgraded:
    description:
      - Whether a run that kept its data but not its guarantee counts as done, for example when the pause
        budget was exceeded and the policy falls back (exit code 12).
    type: bool
    default: false
  run_id:
    description: Id of the run, 32 hexadecimal digits, for one that several hosts share. Each run has its own if not given.
    type: str
seealso:
  - module: trinity.snap.trinity_snap_restore
  - module: trinity.snap.trinity_snap_info
"""

EXAMPLES = r"""
- name: Back up every agent of the host
  trinity.snap.trinity_snap_backup:
  register: result

- name: Back up two agents before an upgrade
  trinity.snap.trinity_snap_backup:
    agents: [researcher, writer]

- name: Back up, and go on although some agents could not be backed up
  trinity.snap.trinity_snap_backup:
  register: result
  failed_when: result.rc | default(0) not in [0, 10]
"""

RETURN = r"""
rc:
  description: Exit code of C(trinity-snap backup).
  returned: when it ran
  type: int
run_id:
  description: Id of the run, shared by its recovery points.
  returned: when it ran
  type: str
outcome:
  description: Outcome of the whole run.
  returned: when it ran
  type: str
agents:
  description: One element per agent. In check mode, only its name.
  returned: when it ran
  type: list
  elements: dict
  contains:
    agent:
      description: Name of the agent.
      type: str
    point:
      description: Id of the new recovery point.
      type: str
    outcome:
      description: What became of this agent.
      type: str
    consistency:
      description: The guarantee of the recovery point.
      type: str
    pause_seconds:
      description: How long the agent was frozen.
      type: float
    stopped_seconds:
      description: How long the agent was shut down, in mode C(stop).
      type: float
    files:
      description: Files in the recovery point.
      type: int
    bytes_read:
      description: Bytes read from the snapshot.
      type: int
    bytes_stored:
      description: Bytes that were new to the repository.
      type: int
    duration_seconds:
      description: How long this agent took.
      type: float
    error:
      description: What went wrong, if anything.
      type: str
replicas:
  description: What became of each replica that the policy wants up to date after a run, as C(trinity-snap replicate) says it.
  returned: when it ran
  type: list
  elements: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trinity.snap.plugins.module_utils.command import (
    COMMON_ARGUMENTS,
    DONE,
    accepted,
    fail,
    human_size,
    need_executable,
    run,
)


def describe(agents: list[dict[str, Any]]) -> str:
    """One line per agent, for the diff."""
    lines = []
    for agent in agents:
        if agent.get("point"):
            stored = human_size(int(agent.get("bytes_stored") or 0))
            lines.append(f"{agent['agent']}: {agent['point']} ({agent.get('files', 0)} files, {stored} stored)")
        else:
            lines.append(f"{agent['agent']}: {agent.get('error') or 'a new recovery point'}")
    return "".join(line + "\n" for line in lines)


def troubles(agents: list[dict[str, Any]], replicas: list[dict[str, Any]]) -> str:
    """Which agents and replicas have errors, and which."""
    said = [f"{agent['agent']}: {agent['error']}" for agent in agents if agent.get("error")]
    said += [f"replica {replica['name']}: {replica['error']}" for replica in replicas if replica.get("error")]
    return "; ".join(said)


def wanted_agents(module: Any) -> list[dict[str, Any]]:
    """What a run would back up, without running: the discovered agents that were asked for."""
    result = run(module, ["agents"])
    if result.rc != DONE:
        fail(module, result)
    names = [str(agent.get("agent") or agent.get("name")) for agent in result.data.get("agents", [])]
    wanted = module.params["agents"] or names
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        module.fail_json(msg=f"No such agent on this host: {', '.join(unknown)}. There are: {', '.join(names)}.", rc=2)
    return [{"agent": name} for name in wanted]


def main() -> None:
    """Run one backup and report it per agent."""
    module = AnsibleModule(
        argument_spec=dict(
            COMMON_ARGUMENTS,
            agents={"type": "list", "elements": "str", "default": []},
            accept_downgraded={"type": "bool", "default": False},
            run_id={"type": "str"},
        ),
        supports_check_mode=True,
    )
    need_executable(module, agents=[])
    if module.check_mode:
        agents = wanted_agents(module)
        module.exit_json(changed=bool(agents), agents=agents, diff={"before": "", "after": describe(agents)})
    run_id = ["--run-id", module.params["run_id"]] if module.params["run_id"] else []
    result = run(module, ["backup", *run_id, *module.params["agents"]])
    agents = result.data.get("agents") or []
    replicas = result.data.get("replicas") or []
    report = {
        "changed": any(agent.get("point") for agent in agents),
        "run_id": result.data.get("run_id"),
        "outcome": result.data.get("outcome"),
        "agents": agents,
        "replicas": replicas,
        "diff": {"before": "", "after": describe(agents)},
    }
    if not accepted(result, module.params["accept_downgraded"]):
        fail(module, result, detail=troubles(agents, replicas), **report)
    if result.rc != DONE:
        module.warn(result.message)
    module.exit_json(rc=result.rc, **report)


if __name__ == "__main__":
    main()
