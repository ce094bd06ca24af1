"""A backup of a fleet costs two host-tasks per host, and one call of each host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("ansible_runner")
from tests.bench.fleet import TASKS, Simulated

ANSIBLE = Path(sys.executable).with_name("ansible-playbook")
if not ANSIBLE.exists():
    pytest.skip("needs ansible-core", allow_module_level=True)
HOSTS = 4


def test_a_fleet_backup_is_two_host_tasks_and_one_call_per_host(tmp_path: Path) -> None:
    fleet = Simulated(tmp_path / "fleet", HOSTS)
    calls = tmp_path / "calls"
    command = fleet.fleet_command(forks=2)
    environment = os.environ | command.environment | {"ANSIBLE_REPLAY_CALLS": str(calls)}
    done = subprocess.run(
        command.arguments, env=environment, cwd=command.directory, capture_output=True, text=True, check=False
    )
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["counts"]["done"]) == (0, HOSTS), done.stderr
    assert all(len(host["answer"]["agents"]) == 5 for host in answer["hosts"])
    asked = Counter(calls.read_text().splitlines())
    assert len(asked) == HOSTS and set(asked.values()) == {1}

    # The same playbook with the same switches, by Ansible itself, which counts tasks.
    played = subprocess.run(
        [ANSIBLE, "trinity.snap.backup", "-i", fleet.inventory, "--skip-tags", "say"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    recaps = [line for line in played.stdout.splitlines() if "unreachable=0" in line]
    assert len(recaps) == HOSTS, played.stdout + played.stderr
    assert all(f"ok={TASKS} " in line and "skipped=0" in line for line in recaps), recaps
