"""Running one command and knowing what it cost."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.bench.tools import Command


@dataclass(frozen=True)
class Cost:
    """What a command took: seconds on the clock and of CPU (with its children), peak memory."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


def run(command: Command, log: IO[bytes]) -> Cost:
    """Run a command to its end. Raise RuntimeError with the end of its output if it fails."""
    os.sync()  # what the command before it left to be written is not this one's burden
    start = log.tell()
    environment = os.environ | command.environment
    began = time.perf_counter()
    process = subprocess.Popen(
        command.arguments,
        env=environment,
        cwd=command.directory,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    log.seek(0, os.SEEK_END)
    if process.returncode:
        log.flush()
        tail = Path(log.name).read_bytes()[start:][-2000:].decode(errors="replace")
        raise RuntimeError(f"{command.arguments} ended with {process.returncode}:\n{tail}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
