"""trinity-snap on a host that systemd runs, as its role installs it: whatever is killed, agents run and nothing is left."""

from __future__ import annotations

import pytest

from tests.lab.hosts.agents import DONE, PROVIDERS, RUNNING, SLOW, Aftermath, AgentHost
from tests.lab.hosts.machine import Host

pytestmark = [pytest.mark.lab, pytest.mark.fleet]
HELD_SECONDS = 10


def test_a_host_of_the_lab_is_like_a_rented_server(host: Host) -> None:
    # Other tests kill runs, and may have left the last one as it failed; nothing else on the host may fail, at no boot.
    failed = host.run("systemctl list-units --failed --plain --no-legend").output
    assert {line.split()[0] for line in failed.splitlines()} <= {"trinity-snap-backup.service"}
    host.run("systemctl reset-failed trinity-snap-backup.service", check=False)
    assert host.run("systemctl is-system-running", check=False).output.strip() == "running"
    assert host.run("stat --file-system --format %T /sys/fs/cgroup").output.strip() == "cgroup2fs"
    assert host.run("docker info --format '{{.CgroupVersion}}'").output.strip() == "2"


def test_systemd_finds_no_fault_with_the_units_and_runs_one_of_them_at_boot(agents: AgentHost) -> None:
    services = "trinity-snap-backup.service trinity-snap-recover.service trinity-snap-drill.service"
    units = f"{services} trinity-snap-monitor.service trinity-snap-monitor.timer"
    verified = agents.host.run(f"systemd-analyze verify {units}")
    assert verified.output + verified.errors == ""
    enabled = agents.host.run(f"systemctl is-enabled {units}", check=False)
    assert enabled.output.split() == ["static", "enabled", "static", "static", "enabled"]


def test_installing_again_changes_nothing(agents: AgentHost) -> None:
    played = agents.play("install")
    assert (played.code, played.changed) == (0, 0), played.output


def test_the_units_can_be_removed_and_check_mode_says_what_will_happen(agents: AgentHost) -> None:
    there = "ls /etc/systemd/system/trinity-snap-* /etc/systemd/system/multi-user.target.wants/trinity-snap-*"
    before = agents.host.run(there).output
    planned = agents.play("install", "--check", trinity_snap_units=False)
    assert (planned.code, planned.changed) == (0, 3), planned.output
    assert agents.host.run(there).output == before
    for expected in (3, 0):
        played = agents.play("install", trinity_snap_units=False)
        assert (played.code, played.changed) == (0, expected), played.output
    assert agents.host.run(there, check=False).output == ""
    assert agents.host.run("systemctl cat trinity-snap-backup", check=False).code != 0
    played = agents.play("install")
    assert (played.code, played.changed) == (0, 3), played.output
    assert agents.host.run(there).output == before


_CHANGE = """python3 - <<'END'
import json, pathlib
path = pathlib.Path("/etc/trinity-snap/policy.yml")
path.write_text(json.dumps({**json.loads(path.read_text()), "drill": %s}))
END
"""


def proved(agents: AgentHost) -> dict[str, str | None]:
    """When the last drill of each agent was good."""
    return {
        one["agent"]: None if one["drill"] is None else one["drill"]["proved"]
        for one in agents.snap("status")["agents"]
    }


def test_drills_have_a_timer_when_the_policy_says_so(agents: AgentHost) -> None:
    assert agents.back_up() in DONE, agents.journal()
    agents.host.run(_CHANGE % '{"schedule": "weekly", "agents": ["one"]}')
    try:
        for changed in (2, 0):
            played = agents.play("install")
            assert (played.code, played.changed) == (0, changed), played.output
        timer = agents.host.run("systemctl show --property ActiveState,TimersCalendar trinity-snap-drill.timer").output
        assert "ActiveState=active" in timer and "OnCalendar=Mon" in timer
        before = proved(agents)
        agents.host.run("systemctl start trinity-snap-drill.service")
        after = proved(agents)
        assert after["one"] is not None and after["one"] != before.get("one")
        assert after["two"] == before.get("two")
        played = agents.play("drill")
        assert played.code == 0 and "one: " in played.output, played.output
    finally:
        agents.host.run(_CHANGE % "{}")
    for changed in (2, 0):
        played = agents.play("install")
        assert (played.code, played.changed) == (0, changed), played.output
    assert agents.host.run("systemctl cat trinity-snap-drill.timer", check=False).code != 0


def test_when_everything_of_a_run_is_killed_systemd_recovers(agents: AgentHost) -> None:
    after = agents.kill("all-paused", "unit")
    assert after.result == "signal"
    assert_all_is_well(agents, after)


def test_so_it_does_with_snapshots_of_every_kind_and_the_next_run_has_all_agents_in_one_pause(
    all_agents: AgentHost,
) -> None:
    after = all_agents.kill("shipping", "unit")
    assert after.result == "signal"
    assert_all_is_well(all_agents, after, len(PROVIDERS))
    newest = {point["agent"]: point for point in reversed(all_agents.snap("list")["points"])}
    assert {agent: point["provider"] for agent, point in newest.items()} == PROVIDERS
    assert len({point["created"] for point in newest.values()}) == 1


def test_when_only_the_run_is_killed_its_guardian_resumes_and_systemd_recovers(agents: AgentHost) -> None:
    after = agents.kill("first-snapshot", "run")
    assert after.result == "signal"
    assert '"guardian"' in agents.host.run("cat $(ls -t /var/lib/trinity-snap/journal/* | head -n 1)").output
    assert_all_is_well(agents, after)


def test_when_only_the_guardian_is_killed_the_run_resumes_and_fails(agents: AgentHost) -> None:
    after = agents.kill("all-paused", "guardian")
    assert after.result == "exit-code"
    assert "The guardian process died" in agents.journal()
    assert_all_is_well(agents, after)


def test_when_run_and_guardian_are_killed_systemd_recovers(agents: AgentHost) -> None:
    after = agents.kill("first-paused", "both")
    assert after.result == "signal"
    assert_all_is_well(agents, after)


def test_stopping_the_unit_in_the_pause_ends_the_run_after_the_pause(agents: AgentHost) -> None:
    assert_all_is_well(agents, agents.kill("all-paused", "stop"))


_ANOTHER = """
mkdir -p /run/systemd/system/trinity-snap-backup.service.d
printf '[Service]\\nExecStart=\\nExecStart=/bin/true\\n' >/run/systemd/system/trinity-snap-backup.service.d/test.conf
systemctl daemon-reload
systemd-run --quiet --unit another --setenv TRINITY_SNAP_HANG_AT=shipping trinity-snap backup
until grep -q '^State:.T' /proc/$(systemctl show --property MainPID --value another)/status; do sleep 0.1; done
"""
_NO_OTHER = """
systemctl kill --signal KILL another
rm -r /run/systemd/system/trinity-snap-backup.service.d
systemctl daemon-reload
systemctl reset-failed
trinity-snap recover --wait 1m
"""


def test_a_run_after_which_another_holds_the_host_has_not_failed_for_that(agents: AgentHost) -> None:
    agents.host.run(_ANOTHER)
    try:
        assert agents.back_up() == 0, agents.journal()
        assert agents.host.run("systemctl is-failed trinity-snap-backup", check=False).output.strip() == "inactive"
        assert "It undid what dead runs had left before it began" in agents.journal()
    finally:
        agents.host.run(_NO_OTHER)
    assert agents.aftermath().left == []


def assert_all_is_well(agents: AgentHost, after: Aftermath, points: int = len(PROVIDERS) - len(SLOW)) -> None:
    """Agents are as they were within ten seconds, nothing is left, and the next run makes a point of each."""
    assert after.held < HELD_SECONDS
    assert after.left == []
    assert after.states == dict.fromkeys(RUNNING, "running") | {"agent-paused": "paused", "agent-stopped": "exited"}
    assert agents.back_up() in DONE, agents.journal()
    following = agents.aftermath()
    assert following.left == []
    assert after.points <= following.points
    assert len(following.points - after.points) == points
