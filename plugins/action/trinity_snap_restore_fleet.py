# Copyright: trinity-snap contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible action: agents of lost hosts come to the host of this task, with grants made on the control node.

One task does all of a host, so that what was done is known when something fails, and containers start once every volume is there.
A grant goes from `trinity-snap grant` into `trinity-snap restore --grant -` as in the action trinity_snap_restore.
"""

from __future__ import annotations

import shlex
import subprocess
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.trinity.snap.plugins.action.trinity_snap_restore import ActionModule as RestoreModule
from ansible_collections.trinity.snap.plugins.module_utils.command import SOME_FAILED, CommandResult, parse
from ansible_collections.trinity.snap.plugins.module_utils.onto import (
    PLATFORM,
    Mistake,
    Move,
    choose_points,
    destinations,
    in_order,
    is_done,
    named_elsewhere,
    parse_onto,
)
from ansible_collections.trinity.snap.plugins.module_utils.restore_fleet import ARGUMENTS

_NOT_FOUND = 127
_COMPLETE = (0, 90)  # of `list`: with 90 some points are damaged, and the others are listed


class ActionModule(RestoreModule):  # type: ignore[misc]  # ansible has no types
    """Restores whatever the mapping sends to this host."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """What came of each agent. Nothing is begun on a host if the mapping, or a point, is not there."""
        given = self.validate_argument_spec(ARGUMENTS)[1]
        facts = task_vars or {}
        host = str(facts.get("inventory_hostname", ""))
        try:
            if given["run"] and given["at"]:
                raise Mistake("`run` and `at` exclude each other.")
            moves = parse_onto(given["onto"])
            self._check_destinations(moves, facts)
            mine = [move for move in moves if move.new == host]
            if not mine:
                return {"changed": False, "restore_fleet": {"agents": []}, "msg": f"Nothing comes to {host}."}
            if self._task.async_val:
                raise AnsibleActionFail("Grants go through the connection, so this cannot be `async`.")
            self._need_a_pipe()
            chosen = in_order([(move, point) for move in mine for point in self._points(given, moves, move)])
        except Mistake as mistake:
            raise AnsibleActionFail(f"Nothing was restored on {host}: {mistake}") from None
        return self._carry_out(given, chosen, dry_run=bool(self._task.check_mode))

    def _check_destinations(self, moves: list[Move], facts: dict[str, Any]) -> None:
        known = facts.get("groups", {}).get("all", [])
        strangers = [name for name in destinations(moves) if name not in known]
        if strangers:
            raise Mistake(f"The inventory has no host {', '.join(strangers)}.")

    def _points(self, given: dict[str, Any], moves: list[Move], move: Move) -> list[dict[str, Any]]:
        """The points that a move is about, from the old host's repository. On the control node."""
        grant = given["grant"]
        argv = [grant["command"], "list", "--json", "--policy", grant["policy"].replace("{host}", move.old)]
        for option, name in (("--identity", "identity"), ("--passphrase-file", "passphrase_file")):
            if grant[name]:
                argv += [option, grant[name].replace("{host}", move.old)]
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        except OSError as error:
            raise AnsibleActionFail(f"`{argv[0]}` cannot be run on the control node: {error.strerror}.") from None
        result = CommandResult(done.returncode, parse(done.stdout) or {}, done.stderr, shlex.join(argv))
        if result.rc not in _COMPLETE or "points" not in result.data:
            raise Mistake(f"The repository of {move.old} cannot be read: {result.message}")
        elsewhere = named_elsewhere(moves, move)
        points = result.data["points"]
        found: list[dict[str, Any]] = choose_points(points, move, elsewhere, given["agents"], given["run"], given["at"])
        return found

    def _carry_out(
        self, given: dict[str, Any], chosen: list[tuple[Move, dict[str, Any]]], *, dry_run: bool
    ) -> dict[str, Any]:
        agents: list[dict[str, Any]] = []
        lines: list[str] = []
        report = {"restore_fleet": {"agents": agents, "lines": lines}}
        if not dry_run:
            recovered = self._ask(given, "recover", "--wait", "5m")
            if recovered.rc:
                return self._failed(recovered, report)
        there = self._ask(given, "restored")
        if there.rc == _NOT_FOUND and dry_run:
            lines += [f"Restore {point['agent']} of {move.old} from {point['id'][:8]}" for move, point in chosen]
            said = (
                f"There is no `{given['executable']}` on this host. It would run after the role trinity.snap.install."
            )
            return {**report, "changed": True, "diff": _shown(lines), "msg": said}
        if there.rc:
            return self._failed(there, report)
        for move, point in chosen:
            if is_done(there.data["agents"], point):
                agents.append(_outcome(move, point, "there"))
                continue
            agent, plan = self._restore_one(given, move, point)
            agents.append(agent)
            lines += plan
            if agents[-1]["error"] and point["agent"] == PLATFORM:
                agents += [_outcome(other, one, "not-begun") for other, one in chosen[len(agents) :]]
                break
        changed = any(one["outcome"] in ("restored", "planned") for one in agents)
        if given["start"] and not dry_run:
            changed = self._bring_up(given, agents) or changed
        failed = [f"{one['agent']}: {one['error']}" for one in agents if one["error"]]
        answer = {**report, "changed": changed, "diff": _shown(lines), "rc": SOME_FAILED if failed else 0}
        return {**answer, "failed": True, "msg": " ".join(failed)} if failed else answer

    def _restore_one(
        self, given: dict[str, Any], move: Move, point: dict[str, Any]
    ) -> tuple[dict[str, Any], list[str]]:
        """Restore one agent's volumes with a grant of its own. What came of it, and its plan."""
        names = {key: (value or "").replace("{host}", move.old) or None for key, value in given["grant"].items()}
        parameters = {
            "agent": point["agent"], "state": "restored", "point": point["id"], "at": None, "paths": [], "to": None,
            "as_name": None, "in_place": False, "containers": given["containers"], "later": given["containers"],
            "grant": {"repository_id": None, **names}, "executable": given["executable"], "policy": given["policy"],
            "docker_host": given["docker_host"],
        }  # fmt: skip
        try:
            grant, made = self._make(parameters)
        except AnsibleActionFail as error:
            return _outcome(move, point, "failed", error=str(error)), []
        said = self._restore(parameters, grant, made)
        answer = said["restore"]
        if said.get("failed"):
            return _outcome(move, point, "failed", error=said["msg"]), []
        outcome = "planned" if answer.get("outcome") == "planned" else "restored"
        return _outcome(move, point, outcome, answer), answer.get("lines") or []

    def _bring_up(self, given: dict[str, Any], agents: list[dict[str, Any]]) -> bool:
        """Make and start containers, and note in `agents` what came of each. Whether that changed anything."""
        ready = {one["agent"]: one for one in agents if one["outcome"] in ("restored", "there")}
        if not ready:
            return False
        said = self._ask(given, "restored", "--start", *ready)
        for one in said.data.get("agents") or []:
            ready[one["agent"]].update(container=one["container"], state=one["state"], error=one["error"])
        if said.rc and not said.data.get("agents"):
            for agent in ready.values():
                agent["error"] = said.message
        return any(one["made"] or one["started"] for one in said.data.get("agents") or [])

    def _ask(self, given: dict[str, Any], *words: str) -> CommandResult:
        """Run the host's command."""
        argv = [given["executable"], *words, "--json"]
        if given["policy"]:
            argv += ["--policy", given["policy"]]
        environment = [self._compute_environment_string(), 'PATH="$PATH:/usr/local/bin:/usr/local/sbin"']
        if given["docker_host"]:
            environment.append(f"DOCKER_HOST={shlex.quote(given['docker_host'])}")
        cmd = shlex.join(argv)
        done = self._low_level_execute_command(" ".join([*filter(None, environment), cmd]))
        data = parse(done["stdout"]) or parse(done["stderr"]) or {}
        return CommandResult(done["rc"], data, done["stderr"], cmd)

    def _failed(self, result: CommandResult, report: dict[str, Any]) -> dict[str, Any]:
        said = result.message
        if result.rc == _NOT_FOUND:
            said = "There is no `trinity-snap` on this host. Apply the role install, or set trinity_snap_onto_install."
        return {**report, "failed": True, "changed": False, "rc": result.rc, "cmd": result.cmd, "msg": said}


def _outcome(
    move: Move, point: dict[str, Any], outcome: str, answer: dict[str, Any] | None = None, error: str | None = None
) -> dict[str, Any]:
    answer = answer or {}
    if outcome == "not-begun":
        error = "It was not begun, since platform could not be restored."
    return {
        "agent": point["agent"],
        "of": move.old,
        "outcome": outcome,
        "point": point["id"],
        "created": point["created"],
        "consistency": point.get("consistency"),
        "files": answer.get("files", point.get("files")),
        "bytes": answer.get("bytes", point.get("bytes")),
        "duration_seconds": answer.get("duration_seconds"),
        "container": None,
        "state": None,
        "error": error,
    }


def _shown(lines: list[str]) -> dict[str, str]:
    return {"before": "", "after": "".join(f"{line}\n" for line in lines)}
