"""The control node dies at any moment of a fleet backup: no agent stays held, nothing is left, and the next run is clean.

TRINITY_SNAP_LONG_TESTS=1 TRINITY_SNAP_CONTROLLER_KILL_ROUNDS=30 python -m pytest tests/lab/hosts/test_controller_kills.py
"""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.lab.hosts.agents import CHECKOUT, DONE, RUNNING, AgentHost, takes_minutes

pytestmark = [pytest.mark.lab, pytest.mark.fleet, pytest.mark.slow, takes_minutes]
ROUNDS = int(os.environ.get("TRINITY_SNAP_CONTROLLER_KILL_ROUNDS", "3"))
MANY = 10
"""From so many rounds on there is a whole run after each, and not only after the last."""
HELD_SECONDS = 10
SECONDS_OF_A_ROUND = 120

# Notes each time for which some container was frozen that nobody had paused before, from the kernel itself.
_WATCH = """
import glob, os, time
own = open("/run/held", "w")
places = "/sys/fs/cgroup/system.slice/docker-*.scope/cgroup.freeze"
paused = {path for path in glob.glob(places) if open(path).read().strip() == "1"}
since = {}
while True:
    for path in set(glob.glob(places)) - paused | set(since):
        try:
            held = open(path).read().strip() == "1"
        except OSError:
            held = False
        if held:
            since.setdefault(path, time.time())
            open("/run/held.now", "w").close()
        elif path in since:
            own.write(f"{since.pop(path)} {time.time()}\\n")
            own.flush()
    time.sleep(0.05)
"""


def fleet(inventory: Path, action: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        command(inventory, action, *arguments), cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("{"), done.stdout + done.stderr
    return done.returncode, json.loads(done.stdout)


def command(inventory: Path, action: str, *arguments: str) -> list[str]:
    words = [sys.executable, "-m", "trinity_snap", "fleet", action, "-i", str(inventory), "--json", "-q"]
    return [*words, *(["-e", "trinity_snap_accept_downgraded=true"] if action == "backup" else []), *arguments]


def descendants(process: int) -> list[int]:
    found, waiting = [], [process]
    while waiting:
        number = waiting.pop()
        with suppress(OSError):
            for task in os.listdir(f"/proc/{number}/task"):
                children = [int(one) for one in Path(f"/proc/{number}/task/{task}/children").read_text().split()]
                found += children
                waiting += children
    return found


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """As if the power of the control node was cut; what the hosts do, they go on with."""
    for number in [*descendants(process.pid), process.pid]:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    process.wait()


def runs_alive(agents: AgentHost) -> bool:
    asked = agents.host.run("pgrep -f '[t]rinity-snap backup|[t]rinity_snap.*backup' || true")
    return bool(asked.output.split())


@pytest.mark.timeout(180 + ROUNDS * SECONDS_OF_A_ROUND)
def test_whenever_the_control_node_dies_no_agent_stays_held_and_the_next_run_is_clean(
    agents: AgentHost, tmp_path: Path
) -> None:
    inventory = tmp_path / "inventory.json"
    inventory.write_text(json.dumps(agents.lab.inventory()))
    seed = secrets.randbits(32)
    chance = random.Random(seed)
    agents.host.run(f"nohup python3 -c '{_WATCH}' </dev/null >/dev/null 2>&1 & echo $! >/run/held.pid")
    try:
        code, answer = fleet(inventory, "backup")
        assert code == 0, answer
        longest = 15.0
        kills = []
        for number in range(ROUNDS):
            # Half of them, and the first, in the pause; the others at any moment of a run.
            in_pause = number == 0 or chance.random() < 0.5
            until_held = subprocess.Popen(
                [*agents.host.ssh(), "rm -f /run/held.now; until [ -e /run/held.now ]; do sleep 0.05; done"],
                stdin=subprocess.DEVNULL,
            )
            began = time.monotonic()
            process = subprocess.Popen(
                command(inventory, "backup"), cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
            delay = chance.uniform(0.0, 1.0) if in_pause else chance.uniform(0.5, longest)
            if in_pause:
                until_held.wait(SECONDS_OF_A_ROUND)
            with suppress(subprocess.TimeoutExpired):
                process.wait(delay)
            over = process.poll() is not None
            longest = min(longest, time.monotonic() - began) if over else longest
            kill_all(process)
            until_held.kill()
            until_held.wait()
            kills.append({"delay": round(delay, 1), "in_pause": in_pause, "over": over, "at": time.time()})
            until = time.monotonic() + SECONDS_OF_A_ROUND
            while runs_alive(agents):
                assert time.monotonic() < until, (seed, kills)
                time.sleep(0.2)
            code, answer = fleet(inventory, "recover")
            assert (code, answer["outcome"]) == (0, "done"), (seed, kills, answer)
            after = agents.aftermath()
            assert after.left == [], (seed, kills, after.left)
            assert {name: after.states[name] for name in RUNNING} == dict.fromkeys(RUNNING, "running"), (seed, kills)
            if ROUNDS >= MANY or number == ROUNDS - 1:
                code, answer = fleet(inventory, "backup")
                assert code in DONE and answer["outcome"] == "done", (seed, kills, answer)
        times = [tuple(map(float, line.split())) for line in agents.host.run("cat /run/held").output.splitlines()]
        held = [end - start for start, end in times]
        cut = [end - kill["at"] for start, end in times for kill in kills if start < kill["at"] < end]
        sys.stdout.write(
            f"seed {seed}: {ROUNDS} kills, {sum(not one['over'] for one in kills)} before the end of a run, "
            f"{len(cut)} while agents were held; longest held {max(held):.2f} s, after a kill {max(cut, default=0):.2f} s\n"
        )
        assert held and max(held) < HELD_SECONDS, (seed, kills, held)
        agents.snap("verify", "--read-data")
    finally:
        agents.host.run("kill $(cat /run/held.pid)", check=False)
