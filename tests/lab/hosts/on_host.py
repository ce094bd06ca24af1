"""Runs on a host of the lab, with nothing but Python: starts runs, kills them, and looks at what becomes of the agents.

    on_host.py hang STEP            start a run as the unit, and wait until it has stopped itself at that step
    on_host.py kill STEP VICTIM     the same, then kill `run`, `guardian`, `both`, or `unit` (all of it), or `stop` the unit;
                                    wait until the unit is over, and say what came of it
    on_host.py aftermath            what is left of runs, and what the agents do
    on_host.py rounds NUMBER SEED   so many runs, each killed at some step or at some moment

Each prints one JSON document, `rounds` one line for each round.
"""

from __future__ import annotations

import glob
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

UNIT = "trinity-snap-backup.service"
STATE = "/var/lib/trinity-snap"
REPOSITORY = "/var/backups/trinity-snap"
HANG = "TRINITY_SNAP_HANG_AT"
STEPS = (
    "journal-started", "prepared", "guardian-ready", "pause-noted", "first-paused", "all-paused", "first-snapshot",
    "snapshots-made", "first-resumed", "all-resumed", "guardian-released", "shipping", "before-commit", "committed",
    "shipped", "before-release", "half-released",
)  # fmt: skip
PATIENCE_SECONDS = 120.0


class NotReached(Exception):
    """The run ended, or took too long, before it came to the step."""


def main() -> int:
    """Do what the command line says."""
    verb, *words = sys.argv[1:]
    if verb == "rounds":
        for report in rounds(int(words[0]), int(words[1])):
            sys.stdout.write(json.dumps(report) + "\n")
            sys.stdout.flush()
        return 0
    verbs: dict[str, Callable[[], object]] = {
        "hang": lambda: hang(words[0]),
        "kill": lambda: killed(words[0], words[1]),
        "aftermath": aftermath,
    }
    try:
        sys.stdout.write(json.dumps(verbs[verb]()))
    except NotReached as error:
        raise SystemExit(str(error)) from error
    return 0


# -- looking ----------------------------------------------------------------------------------------------------------


def frozen() -> list[str]:
    """The names of containers that are frozen and were not before, from the kernel itself."""
    held = []
    for container, name in _containers().items():
        try:
            with open(f"/sys/fs/cgroup/system.slice/docker-{container}.scope/cgroup.freeze") as file:
                if file.read().strip() == "1" and name != "agent-paused":
                    held.append(name)
        except OSError:
            continue  # it does not run
    return sorted(held)


def aftermath() -> dict[str, object]:
    """What is left of runs, the state of each container, and the recovery points."""
    states = _output("docker", "ps", "--all", "--format", "{{.Names}} {{.State}}").splitlines()
    points = [os.path.basename(path) for path in glob.glob(f"{REPOSITORY}/points/" + "?" * 32)]
    return {"left": leftovers(), "states": dict(line.split() for line in states), "points": points}


def leftovers() -> list[str]:
    """Whatever a run must not leave: snapshots, staging, mounts, processes, held agents."""
    found = glob.glob("/var/lib/docker/.trinity-snap/*") + glob.glob("/var/lib/docker/volumes/.trinity-snap*")
    found += glob.glob(f"{STATE}/staging/*") + glob.glob("/dev/mapper/*trinity*") + frozen()
    with open("/proc/mounts") as mounts:
        found += [line.split()[1] for line in mounts if "trinity-snap" in line]
    return found + [f"guardian {pid}" for pid in _guardians()]


def _containers() -> dict[str, str]:
    if not _known:
        for line in _output("docker", "ps", "--no-trunc", "--format", "{{.ID}} {{.Names}}").splitlines():
            container, name = line.split()
            _known[container] = name
    return _known


_known: dict[str, str] = {}


def _guardians() -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    if b"trinity_snap.quiesce.guardian" in file.read():
                        found.append(int(name))
            except OSError:
                continue
    return found


def _process_state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def _members() -> list[int]:
    """The unit's processes. Asking systemd instead costs a process each time."""
    try:
        with open(f"/sys/fs/cgroup/system.slice/{UNIT}/cgroup.procs") as file:
            return [int(line) for line in file]
    except OSError:
        return []


def _is_over() -> bool:
    asked = _output("systemctl", "show", "--property", "ActiveState,Job", UNIT)
    found = dict(line.split("=", 1) for line in asked.splitlines())
    return found["ActiveState"] in ("failed", "inactive") and found.get("Job", "0") in ("", "0")


def _unit(name: str) -> str:
    return _output("systemctl", "show", "--property", name, "--value", UNIT).strip()


def _output(*command: str) -> str:
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout


# -- doing ------------------------------------------------------------------------------------------------------------


def hang(step: str) -> int:
    """Start the unit, wait until its run has stopped itself at `step`, and give the run's process."""
    start(step)
    until = time.monotonic() + PATIENCE_SECONDS
    while not (stopped := [pid for pid in _members() if _process_state(pid) == "T"]):
        if time.monotonic() > until or (not _members() and _is_over()):
            raise NotReached(f"The run did not come to {step}: {_output('journalctl', '-n', '20', '-u', UNIT)}")
        time.sleep(0.02)
    subprocess.run(["systemctl", "unset-environment", HANG], check=True)
    return stopped[0]


def start(step: str = "") -> None:
    """Start the unit and do not wait; its run stops itself at `step`."""
    subprocess.run(["systemctl", "reset-failed", UNIT], check=False, capture_output=True)
    change = ["set-environment", f"{HANG}={step}"] if step else ["unset-environment", HANG]
    subprocess.run(["systemctl", *change], check=True)
    subprocess.run(["systemctl", "start", "--no-block", UNIT], check=True)


def wait_until_resumed() -> float:
    """The seconds until no container is held."""
    _containers()
    began = time.monotonic()
    while held := frozen():
        if time.monotonic() - began > PATIENCE_SECONDS:
            raise SystemExit(f"Still held after {PATIENCE_SECONDS} s: {held}")
        time.sleep(0.01)
    return time.monotonic() - began


def wait_until_over() -> str:
    """What systemd says of the unit once it is over, with all its ExecStopPost."""
    until = time.monotonic() + PATIENCE_SECONDS
    while _members() or not _is_over():
        if time.monotonic() > until:
            raise SystemExit(f"{UNIT} is not over after {PATIENCE_SECONDS} s.")
        time.sleep(0.05)
    return _unit("Result")


def rounds(number: int, seed: int) -> Iterator[dict[str, object]]:
    """Kill so many runs at a step or at a moment, and say after each what came of it."""
    chance = random.Random(seed)
    for count in range(1, number + 1):
        step = chance.choice(STEPS) if chance.random() < 0.7 else ""
        victim = chance.choice(("run", "guardian", "both", "unit"))
        try:
            report = killed(step, victim, chance.uniform(0.3, 3.0))
        except NotReached:  # on a busy machine the pause may be over before its steps are
            victim, report = "", {"held": wait_until_resumed(), "result": wait_until_over(), **aftermath()}
        yield {"round": count, "step": step, "victim": victim, **report}


def killed(step: str, victim: str, delay: float = 0.0) -> dict[str, object]:
    """A run that is killed at `step`, or if there is none so many seconds after its start; what came of it.

    `held` is the time from the kill until no agent was held any more, `result` what systemd says of the unit.
    """
    if step:
        run = hang(step)
    else:
        start()
        time.sleep(delay)
        run = int(_unit("MainPID") or 0)
    guardians = _guardians()
    if victim == "unit":
        subprocess.run(["systemctl", "kill", "--signal", "KILL", UNIT], check=False, capture_output=True)
    if victim == "stop":
        subprocess.run(["systemctl", "stop", "--no-block", UNIT], check=True)
    if victim in ("guardian", "both"):
        _kill(guardians, signal.SIGKILL)
    if victim in ("run", "both"):
        _kill([run], signal.SIGKILL)
    _kill([run], signal.SIGCONT)
    held = wait_until_resumed()
    return {"held": round(held, 3), "result": wait_until_over(), **aftermath()}


def _kill(processes: list[int], number: signal.Signals) -> None:
    for pid in processes:
        try:
            if pid:
                os.kill(pid, number)
        except ProcessLookupError:
            pass


if __name__ == "__main__":
    sys.exit(main())
