"""Telling a process from a later one that got the same number."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessIdentity:
    """A process: its number, when it started (clock ticks since boot), and in which boot of the machine."""

    pid: int
    start_ticks: int
    boot_id: str

    def is_alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        if self.boot_id != boot_id():
            return False
        state, start = _stat(self.pid)
        return start == self.start_ticks and state not in ("Z", "X")


def this_process() -> ProcessIdentity:
    """The identity of the calling process."""
    return identify(os.getpid())


def identify(pid: int) -> ProcessIdentity:
    """The identity of the process that has this number now."""
    return ProcessIdentity(pid, _stat(pid)[1], boot_id())


def boot_id() -> str:
    """The kernel's random name for this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def session_of(pid: int) -> int:
    """The number of a process's session. Raise OSError if there is no such process."""
    return int(_fields(pid)[3])


def _stat(pid: int) -> tuple[str, int]:
    """State and start time of a process; `("X", -1)` if there is none."""
    try:
        fields = _fields(pid)
    except OSError:
        return "X", -1
    return fields[0], int(fields[19])


def _fields(pid: int) -> list[str]:
    """What proc_pid_stat(5) says, from the state on. The field before is the command's name, and may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
