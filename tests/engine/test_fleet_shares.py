"""A share of the data reaches the host's command, from `trinity-snap fleet verify` and from the timers that the role writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.test_fleet_command import Fleet

pytest.importorskip("ansible_runner")
ROOT = Path(__file__).resolve().parents[2]
ANSIBLE = Path(sys.executable).with_name("ansible-playbook")
if not ANSIBLE.exists():
    pytest.skip("needs ansible-core", allow_module_level=True)


def said_to(fleet: Fleet, host: str) -> list[str]:
    return (fleet.hosts[host].directory / "calls").read_text().splitlines()


def test_a_fleet_reads_a_share_of_what_some_agents_need_and_repairs(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {})
    fleet.add("host1", "done")
    shared = fleet.run("verify", "--read-data", "5%", "--agent", "web", "--agent", "db", "--json")
    every = fleet.run("verify", "--read-data", "--json")
    planned = fleet.run("repair", "--from", "offsite", "--dry-run", "--json")
    assert [one.outcomes for one in (shared, every, planned)] == [{"host1": "done"}] * 3
    policy = "--json --policy /etc/trinity-snap/policy.yml"
    assert said_to(fleet, "host1") == [
        f"verify --read-data=5% --agent=web --agent=db {policy}",
        f"verify --read-data=all {policy}",
        f"repair --dry-run --from=offsite {policy}",
    ]


def test_what_is_no_share_is_refused_before_any_host_is_asked(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, {})
    fleet.add("host1", "done")
    process = fleet.start("verify", "--read-data=150%", "--json")
    said = "".join(process.communicate(timeout=60))
    assert process.returncode == 2 and "is no share of the data" in said
    assert not (fleet.hosts["host1"].directory / "calls").exists()


PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.include_vars: {file: %(role)s/defaults/main.yml, name: given}
    - ansible.builtin.include_vars: %(role)s/defaults/main.yml
    - ansible.builtin.include_vars: %(role)s/vars/main.yml
    - ansible.builtin.template:
        src: %(role)s/templates/service.j2
        dest: "%(place)s/{{ inventory_hostname }}.service"
      vars:
        _trinity_snap_job: verify
        __trinity_snap_shown: {stdout: "{{ shown }}"}
"""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_timer_reads_a_share_where_an_identity_is_and_looks_only_where_none_is(tmp_path: Path) -> None:
    def shown(identity: str | None) -> str:
        # A leading newline keeps Ansible from taking the text for the object that it spells.
        return "\n" + json.dumps({"settings": [{"setting": "keys.identity", "value": identity}]})

    hosts = {"open": {"shown": shown("/etc/identity.key")}, "sealed": {"shown": shown(None)}, "none": {"shown": ""}}
    inventory = tmp_path / "inventory.json"
    inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": {"ansible_connection": "local"}}}))
    play = tmp_path / "play.yml"
    play.write_text(PLAY % {"role": ROOT / "roles/schedule", "place": tmp_path})
    done = subprocess.run(
        [ANSIBLE, play, "-i", inventory, "-e", "ansible_python_interpreter=/usr/bin/python3"],
        capture_output=True, text=True, check=False, env={**os.environ, "ANSIBLE_NOCOLOR": "1"}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    policy = "--policy /etc/trinity-snap/policy.yml"
    wanted = {"open": f"verify --read-data=5%% {policy}", "sealed": f"verify {policy}", "none": f"verify {policy}"}
    for host, line in wanted.items():
        unit = (tmp_path / f"{host}.service").read_text()
        assert f"ExecStart=/usr/local/bin/trinity-snap {line}\n" in unit
