"""Run the host's `trinity-snap` and turn what it prints and returns into a module's result.

Only the standard library is used here: `trinity-snap --json` is the whole contract with the host.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import tempfile
from typing import Any

DONE = 0
HOST_BUSY = 3
SOME_FAILED = 10
LEFT_QUIESCED = 11
GUARANTEE_NOT_MET = 12

OUTCOMES = {
    1: "failed",
    2: "wrong usage or policy",
    HOST_BUSY: "another run holds this host",
    SOME_FAILED: "some agents or replicas failed",
    LEFT_QUIESCED: "something was left quiesced: run `trinity-snap recover` on the host now",
    GUARANTEE_NOT_MET: "done, but a guarantee was not met",
    20: "not entitled",
    90: "the repository is damaged or was tampered with",
}

COMMON_ARGUMENTS: dict[str, dict[str, Any]] = {
    "policy": {"type": "path"},
    "executable": {"type": "str", "default": "trinity-snap"},
    "docker_host": {"type": "str"},
}

_PLACES = ["/usr/local/bin", "/usr/local/sbin"]


class CommandResult:
    """What one call of `trinity-snap` gave: `rc`, the parsed JSON `data`, `stderr`, and `cmd` for the log."""

    def __init__(self, rc: int, data: dict[str, Any], stderr: str, cmd: str) -> None:
        self.rc = rc
        self.data = data
        self.stderr = stderr
        self.cmd = cmd

    @property
    def message(self) -> str:
        """One sentence for the operator: the command's own, or else what its exit code means."""
        parts = [str(self.data.get(key) or "") for key in ("message", "untouched", "next_step")]
        own = " ".join(part for part in parts if part)
        if own:
            return own
        meaning = OUTCOMES.get(self.rc, f"failed with exit code {self.rc}")
        last = self.stderr.strip().splitlines()[-1:]
        return ". ".join([f"trinity-snap: {meaning}", *last])


def find_executable(module: Any) -> str | None:
    """Give the absolute path of the command, or None if the host has none."""
    name = module.params["executable"]
    if os.path.sep in name:
        path = os.path.expanduser(name)
        return path if os.access(path, os.X_OK) else None
    found: str | None = module.get_bin_path(name, opt_dirs=_PLACES)
    return found


def need_executable(module: Any, **virgin: Any) -> str:
    """Give the path of the command.

    On a host without it, fail; in check mode end as changed with `virgin` as the result, because what the
    command would do cannot be known before it is installed, except that it would do something.
    """
    path = find_executable(module)
    if path is not None:
        return path
    missing = f"There is no `{module.params['executable']}` on this host."
    if module.check_mode:
        module.exit_json(
            changed=True,
            msg=missing + " It would run after the role trinity.snap.install.",
            **virgin,
        )
    module.fail_json(msg=missing + " Apply the role trinity.snap.install first.", rc=127)
    raise SystemExit(127)


def run(module: Any, arguments: list[str], data: str | None = None) -> CommandResult:
    """Run `trinity-snap ARGUMENTS --json` and give a CommandResult. Never fails on an exit code.

    `data` goes to the standard input. A command that prints no JSON object and fails is a result with empty
    `data`; one that prints none and claims success makes the module fail.
    """
    path = need_executable(module)
    argv = [path, *arguments, "--json"]
    if module.params.get("policy"):
        argv += ["--policy", module.params["policy"]]
    environment = {}
    if module.params.get("docker_host"):
        environment["DOCKER_HOST"] = module.params["docker_host"]
    rc, stdout, stderr = module.run_command(
        argv, data=data, binary_data=True, environ_update=environment, handle_exceptions=True
    )
    cmd = " ".join(shlex.quote(part) for part in argv)
    parsed = parse(stdout)
    if parsed is None:
        if rc == DONE:
            module.fail_json(msg=f"`{cmd}` did not answer with JSON.", rc=rc, stderr=stderr)
        parsed = parse(stderr) or {}
    return CommandResult(rc, parsed, stderr, cmd)


def write_files(module: Any, texts: list[str], suffix: str) -> list[str]:
    """Write texts to files that go away with the module, and give their paths."""
    directory = tempfile.mkdtemp(dir=module.tmpdir)
    paths = []
    for number, text in enumerate(texts):
        path = os.path.join(directory, f"{number}{suffix}")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        paths.append(path)
    return paths


def parse(text: str) -> dict[str, Any] | None:
    """Give the JSON object in `text`, or None. Lines before it, such as a library's warning, are skipped."""
    for candidate in (text, text[text.find("\n{") + 1 :]):
        try:
            value = json.loads(candidate)
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return None


def accepted(result: CommandResult, accept_downgraded: bool) -> bool:
    """Whether the exit code is a success: 0, and 12 if a downgraded guarantee is accepted."""
    return result.rc == DONE or (accept_downgraded and result.rc == GUARANTEE_NOT_MET)


def fail(module: Any, result: CommandResult, detail: str = "", **extra: Any) -> None:
    """Fail with the command's own sentence, the `detail`, its exit code and what else is known."""
    sentence = f"{result.message} ({detail})" if detail else result.message
    module.fail_json(msg=sentence, rc=result.rc, cmd=result.cmd, stderr=result.stderr, **extra)


def difference(answer: dict[str, Any]) -> dict[str, str]:
    """What diff mode shows of a command that goes by a plan: its lines."""
    return {"before": "", "after": "".join(f"{line}\n" for line in answer.get("lines") or [])}


def carry_out(module: Any, key: str, arguments: list[str]) -> None:
    """Run a command that changes the host by a plan, or in check mode plans only, and end the module with `key` as the result."""
    need_executable(module)
    result = run(module, arguments)
    report: dict[str, Any] = {key: result.data, "diff": difference(result.data)}
    if result.rc != DONE:
        fail(module, result, **report)
    module.exit_json(changed=True, rc=result.rc, **report)


def human_size(count: int) -> str:
    """`count` bytes for people: `1536` gives `1.5 KiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return re.sub(r"\.0$", "", f"{size:.1f}") + " " + unit
        size /= 1024
    return f"{size:.1f} TiB"
