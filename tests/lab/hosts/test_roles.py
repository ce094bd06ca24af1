"""The roles that put policies and timers on a host that systemd runs, and the playbook that takes trinity-snap away."""

from __future__ import annotations

import pytest

from tests.lab.hosts.agents import AgentHost, takes_minutes
from tests.lab.hosts.machine import Host

pytestmark = [pytest.mark.lab, pytest.mark.fleet]
UNITS = "ls /etc/systemd/system/ | grep ^trinity-snap- || true"


def units(host: Host) -> list[str]:
    return host.run(UNITS).output.split()


@takes_minutes
def test_timers_come_and_go_as_the_variables_say_and_check_mode_is_true(agents: AgentHost) -> None:
    host = agents.host
    before = units(host)
    planned = agents.play("schedule", "--check")
    assert planned.code == 0 and planned.changed >= 1, planned.output
    assert units(host) == before
    played = agents.play("schedule")
    assert played.code == 0, played.output
    assert set(units(host)) - set(before) == {
        "trinity-snap-backup.timer", "trinity-snap-verify.timer", "trinity-snap-verify.service",
    }  # fmt: skip
    timers = "trinity-snap-backup.timer trinity-snap-verify.timer"
    verified = host.run(f"systemd-analyze verify {timers} trinity-snap-verify.service")
    assert verified.output + verified.errors == ""
    assert host.run(f"systemctl is-active {timers}").output.split() == ["active", "active"]
    assert host.run(f"systemctl is-enabled {timers}").output.split() == ["enabled", "enabled"]
    shown = host.run(
        "systemctl show --property Persistent,FixedRandomDelay,RandomizedDelayUSec trinity-snap-backup.timer"
    )
    assert set(shown.output.split("\n")) >= {"Persistent=yes", "FixedRandomDelay=yes", "RandomizedDelayUSec=45min"}
    for options in ((), ("--check",)):
        again = agents.play("schedule", *options)
        assert (again.code, again.changed) == (0, 0), again.output
    assert host.run("systemctl start trinity-snap-verify.service").code == 0
    gone = agents.play("schedule", trinity_snap_schedule_verify="", trinity_snap_schedule_backup="")
    assert gone.code == 0, gone.output
    assert units(host) == before
    assert agents.play("schedule", trinity_snap_schedule_verify="", trinity_snap_schedule_backup="").changed == 0


def test_a_policy_with_a_mistake_never_replaces_the_one_that_is_there(agents: AgentHost) -> None:
    host = agents.host
    before = host.run("cat /etc/trinity-snap/policy.yml").output
    refused = agents.play("policy", trinity_snap_settings={"target": "/mnt/x", "quiesce": {"budget": "much"}})
    assert refused.code == 2 and "quiesce" in refused.output, refused.output
    assert host.run("cat /etc/trinity-snap/policy.yml").output == before


@takes_minutes
def test_uninstalling_leaves_policy_keys_and_repository_and_nothing_else(agents: AgentHost) -> None:
    host = agents.host
    assert agents.play("schedule").code == 0
    kept = "find /etc/trinity-snap /var/backups/trinity-snap -type f | sort | sha256sum"
    before = host.run(kept).output
    planned = agents.play("uninstall", "--check")
    assert planned.code == 0, planned.output
    assert host.run("command -v trinity-snap").code == 0
    played = agents.play("uninstall")
    assert played.code == 0, played.output
    assert units(host) == [] and host.run("command -v trinity-snap || ls -d /opt/trinity-snap", check=False).code != 0
    assert host.run("systemctl list-timers --all").output.count("trinity-snap") == 0
    assert host.run(kept).output == before
    assert (again := agents.play("uninstall")).changed == 0 and again.code == 0, again.output
    assert (back := agents.play("install")).code == 0, back.output
