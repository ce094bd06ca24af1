"""When a host works is in its policy: checked, explained, and what the role makes timers of."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.test_cli_repository import Host, host, make_host, repository
from trinity_snap.policy import schedules

__all__ = ["host", "make_host", "repository"]  # fixtures

ROOT = Path(__file__).resolve().parents[2]
ANSIBLE = Path(sys.executable).with_name("ansible-playbook")
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")

PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.include_vars: %(role)s/defaults/main.yml
    - ansible.builtin.include_vars: %(role)s/vars/main.yml
    - ansible.builtin.template:
        src: %(role)s/templates/timer.j2
        dest: "%(place)s/{{ inventory_hostname }}.{{ _trinity_snap_job }}"
      vars:
        _trinity_snap_job: "{{ item }}"
        __trinity_snap_shown: {stdout: "{{ shown }}"}
        __trinity_snap_found: {files: []}
      loop: "{{ _trinity_snap_wanted }}"
"""


@pytest.mark.skipif(not ANSIBLE.exists(), reason="needs ansible-core")
def test_timers_are_what_the_policy_says_and_else_what_the_role_says(host: Host, tmp_path: Path) -> None:
    host.json("policy", "set", "schedule.backup=*-*-* 0/6:00", "schedule.prune=weekly")
    settings = host.json("policy", "show")
    # A leading newline keeps Ansible from taking the text for the object that it spells.
    hosts = {"said": {"shown": "\n" + json.dumps(settings)}, "silent": {"shown": '\n{"settings": []}'}}
    inventory = tmp_path / "inventory.json"
    inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": {"ansible_connection": "local"}}}))
    play = tmp_path / "play.yml"
    play.write_text(PLAY % {"role": ROOT / "roles/schedule", "place": tmp_path})
    done = subprocess.run(
        [ANSIBLE, play, "-i", inventory, "-e", "ansible_python_interpreter=/usr/bin/python3"],
        capture_output=True, text=True, check=False, env={**os.environ, "ANSIBLE_NOCOLOR": "1"}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    when = {
        path.name: next(line for line in path.read_text().splitlines() if line.startswith("OnCalendar="))
        for name in hosts
        for path in tmp_path.glob(f"{name}.*")
    }
    assert when == {
        "said.backup": "OnCalendar=*-*-* 0/6:00", "said.verify": "OnCalendar=*-*-* 06:00:00",
        "said.prune": "OnCalendar=weekly", "silent.backup": "OnCalendar=*-*-* 02:00:00",
        "silent.verify": "OnCalendar=*-*-* 06:00:00",
    }  # fmt: skip


@needs_systemd
def test_a_schedule_is_checked_wherever_the_policy_is(host: Host) -> None:
    text = host.policy.read_text()
    host.policy.write_text(text.replace("#backup: null", "backup: noonish"))
    assert host.policy.read_text() != text
    refused = host.json("policy", "check", code=2)
    line = host.policy.read_text().splitlines().index("  backup: noonish") + 1
    assert f"policy.yml:{line}: schedule.backup: 'noonish' is no calendar expression" in refused["mistakes"][0]
    host.json("policy", "set", "schedule.backup=daily")
    assert host.json("policy", "check")["good"] is True
    for value in ("'Mon\\nExecStart=/bin/sh'", "'%n'", "7", "' '"):
        assert "schedule.backup" in host.json("policy", "set", f"schedule.backup={value}", code=2)["message"]


@needs_systemd
def test_what_the_timer_of_this_host_says_is_told_where_it_differs(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no schedule" in host.text("policy", "when")
    said = host.text("policy", "set", "schedule.backup=daily", "schedule.verify=weekly", "drill.schedule=monthly")
    assert "Timers follow when the roles are applied" in said
    timers = {"schedule.backup": ["*-*-* 00:00:00"], "schedule.verify": ["*-*-* 06:00:00"]}
    monkeypatch.setattr(schedules, "timer_of", lambda setting: timers.get(setting, []))
    explained = host.json("policy", "when")["schedules"]
    assert [(one["setting"], len(one["next"])) for one in explained] == [
        ("schedule.backup", 5), ("schedule.verify", 5), ("drill.schedule", 5),
    ]  # fmt: skip
    backup, rest = host.text("policy", "when").split("schedule.verify: ")
    verify, drill = rest.split("drill.schedule: ")
    assert "apply the role" not in backup
    assert "The timer of this host says *-*-* 06:00:00; apply the role `schedule`" in verify
    assert "This host has no timer of it; apply the role `install`" in drill
