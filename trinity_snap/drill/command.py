"""The operator's command in the scratch place of a drill."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from trinity_snap.drill.result import CommandRun

__all__ = ["run_command"]

_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "DOCKER_HOST")
_OUTPUT_BYTES = 4096
_KILL_SECONDS = 10
_SLACK_SECONDS = 5.0


def run_command(command: str, data: Path, output: Path, variables: Mapping[str, str], seconds: float) -> CommandRun:
    """Run `command` by a shell in `data`, for so many seconds at most. Nothing that it starts outlives it.

    `output` is a file for what it says. Only harmless variables of ours are passed on, and `variables`: no keys, no
    credentials. `timeout` ends it even if this process is killed. Raise OSError.
    """
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | dict(variables)
    limit = f"{max(1.0, seconds):.0f}"
    argv = ["timeout", "-k", str(_KILL_SECONDS), limit, "/bin/sh", "-c", command]
    started = time.monotonic()
    with output.open("xb") as file:
        process = subprocess.Popen(
            argv, cwd=data, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            code: int | None = process.wait(float(limit) + _KILL_SECONDS + _SLACK_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    took = time.monotonic() - started
    if took >= float(limit):
        code = None
    with output.open("rb") as file:
        file.seek(max(0, output.stat().st_size - _OUTPUT_BYTES))
        said = file.read().decode("utf-8", "replace")
    return CommandRun(command, code, round(took, 3), said)
