# Copyright: trinity-snap contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Ansible action: a restore with a grant, which goes from the control node into the host's command through a pipe.

A parameter of a module is written to a file on the host, and may be shown; so a grant is never one. It is made here, by
`trinity-snap grant`, kept in the memory of this process, and sent to the standard input of `trinity-snap restore --grant -`.
"""

from __future__ import annotations

import shlex
import subprocess
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action.normal import ActionModule as RunModule
from ansible_collections.trinity.snap.plugins.module_utils.command import CommandResult, difference, parse
from ansible_collections.trinity.snap.plugins.module_utils.restore import (
    ARGUMENTS,
    MUTUALLY_EXCLUSIVE,
    grant_arguments,
    restore_arguments,
)

_NOT_FOUND = 127


class ActionModule(RunModule):  # type: ignore[misc]  # ansible has no types
    """Runs the module, unless there is a grant to be made."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The result of the module, or of a restore with a grant."""
        if not self._task.args.get("grant"):
            answer: dict[str, Any] = super().run(tmp, task_vars)
            return answer
        if self._task.async_val:
            raise AnsibleActionFail("A restore with a grant cannot be `async`: the grant goes through the connection.")
        parameters = self.validate_argument_spec(ARGUMENTS, mutually_exclusive=MUTUALLY_EXCLUSIVE)[1]
        if parameters["state"] != "restored":
            raise AnsibleActionFail("`grant` goes with `state: restored` only.")
        self._need_a_pipe()
        grant, made = self._make(parameters)
        return self._restore(parameters, grant, made)

    def _need_a_pipe(self) -> None:
        """Fail if the connection or the way to become root cannot give a command a standard input, or would echo it."""
        connection, become = self._connection, self._connection.become
        terminal = getattr(connection, "_is_tty_requested", None)
        carries = connection.has_pipelining and not (terminal is not None and terminal())
        if become is not None and (become.require_tty or not become.pipelining):
            carries = False
        if not carries:
            raise AnsibleActionFail(
                f"A grant goes through the standard input, which the connection `{connection.transport}` or the way to become "
                "root cannot carry here: use `ssh` without a terminal, with `sudo` or as root."
            )

    def _make(self, parameters: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
        """The grant, and what its maker says of it. On the control node, as the user who runs Ansible."""
        argv = [parameters["grant"]["command"], *grant_arguments(parameters), "--json"]
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        except OSError as error:
            raise AnsibleActionFail(f"`{argv[0]}` cannot be run on the control node: {error.strerror}.") from None
        said = done.stderr.decode("utf-8", "replace")
        if done.returncode:
            result = CommandResult(done.returncode, parse(done.stdout.decode("utf-8", "replace")) or {}, said, "")
            raise AnsibleActionFail(
                f"No grant on the control node: {result.message}",
                result={"rc": done.returncode, "cmd": shlex.join(argv), "changed": False},
            )
        return done.stdout, parse(said) or {}

    def _restore(self, parameters: dict[str, Any], grant: bytes, made: dict[str, Any]) -> dict[str, Any]:
        dry_run = bool(self._task.check_mode)
        argv = [parameters["executable"], *restore_arguments(parameters, dry_run), "--json"]
        if parameters["policy"]:
            argv += ["--policy", parameters["policy"]]
        environment = [self._compute_environment_string(), 'PATH="$PATH:/usr/local/bin:/usr/local/sbin"']
        if parameters["docker_host"]:
            environment.append(f"DOCKER_HOST={shlex.quote(parameters['docker_host'])}")
        cmd = shlex.join(argv)
        done = self._low_level_execute_command(" ".join([*filter(None, environment), cmd]), in_data=grant)
        result = CommandResult(done["rc"], parse(done["stdout"]) or {}, done["stderr"], cmd)
        answer: dict[str, Any] = {
            "rc": result.rc,
            "changed": result.rc == 0,
            "grant": made,
            "restore": result.data,
            "diff": difference(result.data),
        }
        if result.rc == _NOT_FOUND:
            missing = f"There is no `{parameters['executable']}` on this host."
            if dry_run:
                return {
                    **answer,
                    "changed": True,
                    "msg": f"{missing} It would run after the role trinity.snap.install.",
                }
            return {**answer, "failed": True, "msg": f"{missing} Apply the role trinity.snap.install first."}
        if result.rc or not result.data:
            said = result.message if result.rc else f"`{cmd}` did not answer with JSON."
            return {**answer, "failed": True, "msg": said, "cmd": cmd, "stderr": result.stderr}
        return answer
