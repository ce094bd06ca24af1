"""The schedules of a policy: which there are, whether systemd understands them, and what its timers on this host say."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

from trinity_snap.errors import PolicyError, TrinitySnapError, UsageError
from trinity_snap.policy.calendar import next_times

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy

__all__ = ["check_schedules", "schedules_of", "timer_of"]

_JOBS = ("backup", "verify", "prune")
_SECONDS = 20


def schedules_of(policy: Policy) -> dict[str, str]:
    """The policy's schedules by the names of their settings."""
    found = {f"schedule.{job}": getattr(policy.schedule, job) for job in _JOBS}
    found["drill.schedule"] = policy.drill.schedule
    return {name: expression for name, expression in found.items() if expression is not None}


def check_schedules(policy: Policy) -> None:
    """Raise PolicyError naming every schedule that systemd does not understand; without systemd they are believed."""
    mistakes, step = [], ""
    for name, expression in schedules_of(policy).items():
        try:
            next_times(expression, 1)
        except UsageError as error:
            line = policy.sources.get(name)
            where = f"{policy.path}:{line}: " if line is not None else ""
            mistakes.append(f"{where}{name}: {error.message}")
            step = error.next_step
        except TrinitySnapError:
            return
    if mistakes:
        raise PolicyError("\n".join(mistakes), untouched="Nothing was changed.", next_step=step)


def timer_of(setting: str) -> list[str]:
    """The expressions of the timer on this host that a setting is for, in systemd's form; none without one."""
    unit = f"trinity-snap-{'drill' if setting == 'drill.schedule' else setting.partition('.')[2]}.timer"
    command = ["systemctl", "show", unit, "--property=TimersCalendar"]
    environment = {"LC_ALL": "C.UTF-8", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_SECONDS, env=environment, stdin=subprocess.DEVNULL
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"OnCalendar=(.*?) ;", done.stdout)
