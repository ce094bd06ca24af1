"""What a fleet costs its control node, beside what Ansible itself costs there.

    python -m tests.bench.fleet [--hosts 500,2000] [--agents 5] [--forks 20] [--rounds 1] [--json FILE]

The hosts are simulated: a connection plugin answers at once, for every host, with what our module printed when it was really run
against a command that answered like docs/json.md. Everything on the control node is real. The floor is `ansible-playbook` with a
play of as many host-tasks, the cheapest of the two kinds: one that only the control node does, and one that a host answers.
Processor time is of all processes of the control node; memory is the largest process's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.measure import Cost, run
from tests.bench.tools import Command

ROOT = Path(__file__).resolve().parents[2]
ANSIBLE = Path(sys.executable).with_name("ansible-playbook")
TASKS = 2
"""Host-tasks per host of a fleet backup: the role's arguments are checked, and the module runs."""

_CONNECTION = '''
from ansible.plugins.connection import ConnectionBase
import os

DOCUMENTATION = """
name: replay
short_description: Answers at once
description: Every command of every host gets one answer.
options: {}
"""

with open(os.environ["ANSIBLE_REPLAY_ANSWER"], "rb") as file:
    ANSWER = file.read()
CALLS = os.environ.get("ANSIBLE_REPLAY_CALLS")


class Connection(ConnectionBase):
    transport = "replay"
    has_pipelining = True

    def _connect(self):
        return self

    def exec_command(self, cmd, in_data=None, sudoable=True):
        if CALLS:
            with open(CALLS, "a") as file:
                file.write(self._play_context.remote_addr + "\\n")
        return 0, ANSWER, b""

    def put_file(self, in_path, out_path):
        pass

    def fetch_file(self, in_path, out_path):
        pass

    def close(self):
        pass
'''
_FLOOR = """\
- hosts: all
  gather_facts: false
  become: true
  tasks:
    - ansible.builtin.assert: {that: true, quiet: true}
    - ansible.builtin.ping:
"""


@dataclass(frozen=True)
class Row:
    """One size of fleet: medians of the rounds."""

    hosts: int
    floor: Cost
    fleet: Cost

    @property
    def over_floor_milliseconds(self) -> float:
        """Processor time of the control node for each host-task, over Ansible's own."""
        return 1000 * (self.fleet.cpu_seconds - self.floor.cpu_seconds) / (self.hosts * TASKS)


class Simulated:
    """A fleet of hosts that answer at once, in a directory."""

    def __init__(self, directory: Path, hosts: int, agents: int = 5) -> None:
        self.directory = directory
        plugins = directory / "connection_plugins"
        plugins.mkdir(parents=True)
        (plugins / "replay.py").write_text(_CONNECTION)
        place = directory / "collections/ansible_collections/trinity"
        place.mkdir(parents=True)
        (place / "snap").symlink_to(ROOT)
        names: dict[str, dict[str, str]] = {f"host{number:05}": {} for number in range(hosts)}
        common = {"ansible_connection": "replay", "ansible_python_interpreter": "/usr/bin/python3"}
        self.inventory = directory / "inventory.json"
        self.inventory.write_text(json.dumps({"all": {"hosts": names, "vars": common}}))
        self.floor = directory / "floor.yml"
        self.floor.write_text(_FLOOR)
        self.pong = directory / "pong.json"
        self.pong.write_text('{"ping": "pong", "changed": false}\n')
        self.answer = directory / "answer.json"
        self.answer.write_bytes(self._real_answer(agents))

    def environment(self, answer: Path) -> dict[str, str]:
        """What Ansible needs to be told."""
        return {
            "ANSIBLE_CONNECTION_PLUGINS": str(self.directory / "connection_plugins"),
            "ANSIBLE_COLLECTIONS_PATH": str(self.directory / "collections"),
            "ANSIBLE_PIPELINING": "True",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_REPLAY_ANSWER": str(answer),
        }

    def floor_command(self, forks: int) -> Command:
        """Ansible alone."""
        arguments = [str(ANSIBLE), "-i", str(self.inventory), "-f", str(forks), str(self.floor)]
        return Command(arguments, self.environment(self.pong), self.directory)

    def fleet_command(self, forks: int) -> Command:
        """`trinity-snap fleet backup`."""
        words = ["-m", "trinity_snap", "fleet", "backup", "-i", str(self.inventory), "--forks", str(forks), "--json"]
        return Command(
            [sys.executable, *words], {**self.environment(self.answer), "PYTHONPATH": str(ROOT)}, self.directory
        )

    def _real_answer(self, agents: int) -> bytes:
        """What the module prints on a host with so many agents, byte for byte."""
        page = (ROOT / "docs/json.md").read_text("utf-8").partition("\n## `backup`\n")[2]
        said = json.loads(re.findall(r"```json\n(.*?)```", page, re.DOTALL)[0])
        one = said["agents"][0]
        said["agents"] = [{**one, "agent": f"agent-{number}", "error": None} for number in range(agents)]
        (self.directory / "said.json").write_text(json.dumps({**said, "outcome": "done", "replicas": []}))
        command = self.directory / "trinity-snap"
        command.write_text(f"#!/bin/sh\nexec cat {self.directory}/said.json\n")
        command.chmod(0o755)
        (self.directory / "arguments.json").write_text(
            json.dumps({"ANSIBLE_MODULE_ARGS": {"executable": str(command)}})
        )
        module = ROOT / "plugins/modules/trinity_snap_backup.py"
        done = subprocess.run(
            [sys.executable, str(module), str(self.directory / "arguments.json")], check=True, capture_output=True,
            env={**os.environ, "PYTHONPATH": str(self.directory / "collections")},
        )  # fmt: skip
        return done.stdout


def measure(hosts: int, agents: int, forks: int, rounds: int) -> Row:
    """One size of fleet, floor and fleet in turn."""
    with tempfile.TemporaryDirectory() as name, open(Path(name) / "log", "w+b") as log:
        fleet = Simulated(Path(name) / "fleet", hosts, agents)
        pairs = [(run(fleet.floor_command(forks), log), run(fleet.fleet_command(forks), log)) for _ in range(rounds)]
    return Row(hosts, _median([pair[0] for pair in pairs]), _median([pair[1] for pair in pairs]))


def _median(costs: list[Cost]) -> Cost:
    return Cost(
        statistics.median(one.wall_seconds for one in costs),
        statistics.median(one.cpu_seconds for one in costs),
        int(statistics.median(one.peak_bytes for one in costs)),
    )


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", default="500,2000")
    parser.add_argument("--agents", type=int, default=5)
    parser.add_argument("--forks", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = [measure(int(size), given.agents, given.forks, given.rounds) for size in given.hosts.split(",")]
    if given.json:
        given.json.write_text(
            json.dumps([{**asdict(row), "over": row.over_floor_milliseconds} for row in rows], indent=2)
        )
    lines = ["| hosts | floor: CPU, clock, memory | fleet: CPU, clock, memory | CPU over the floor, per host-task |"]
    lines.append("|---|---|---|---|")
    for row in rows:
        cells = (
            f"{one.cpu_seconds:.1f} s, {one.wall_seconds:.1f} s, {one.peak_bytes / 2**20:.0f} MiB"
            for one in (row.floor, row.fleet)
        )
        lines.append(f"| {row.hosts} | {' | '.join(cells)} | {row.over_floor_milliseconds:.1f} ms |")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
