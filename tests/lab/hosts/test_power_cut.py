"""The plug is pulled in the middle of a run: after the boot all agents run, nothing is left, and earlier points are whole."""

from __future__ import annotations

import pytest

from tests.lab.hosts.agents import DONE, PROVIDERS, RUNNING, SLOW, AgentHost, takes_minutes

pytestmark = [pytest.mark.lab, pytest.mark.slow]


def test_a_power_cut_in_the_pause_costs_nothing_but_the_run(agents: AgentHost) -> None:
    check(agents, "all-paused", len(PROVIDERS) - len(SLOW))


def test_a_power_cut_while_snapshots_of_every_kind_are_shipped_costs_nothing_but_the_run(all_agents: AgentHost) -> None:
    check(all_agents, "shipping", len(PROVIDERS))


def test_agents_that_a_run_had_shut_down_when_the_power_was_cut_run_after_the_boot(agents: AgentHost) -> None:
    agents.choose(*SLOW, one="stop", two="stop")
    check(agents, "all-stopped", len(PROVIDERS) - len(SLOW))
    agents.choose(*SLOW)


@takes_minutes
def test_snapshots_that_a_run_has_removed_stay_away_when_the_power_is_cut_right_after_it(all_agents: AgentHost) -> None:
    assert all_agents.back_up() in DONE
    all_agents.host.power_cut()
    all_agents.boot_after_power_cut()
    after = all_agents.aftermath()
    assert after.left == []
    newest = {point["agent"]: point for point in reversed(all_agents.snap("list")["points"])}
    assert len({point["created"] for point in newest.values()}) == 1  # of that one run
    all_agents.snap("verify", "--read-data")


def check(agents: AgentHost, step: str, points: int) -> None:
    """Back up, cut the power at `step` of a second run, and see that the host is well and backs up again."""
    assert agents.back_up() in DONE, agents.journal()
    before = agents.aftermath()
    agents.ask("hang", step)
    if step == "all-stopped":
        assert [agents.aftermath().states[name] for name in ("agent-one", "agent-two")] == ["exited", "exited"]
    agents.host.power_cut()
    agents.boot_after_power_cut()
    assert agents.host.run("systemctl show --property Result --value trinity-snap-recover").output.strip() == "success"
    after = agents.aftermath()
    assert after.left == []
    assert {name: after.states[name] for name in RUNNING} == dict.fromkeys(RUNNING, "running")
    assert after.states["agent-stopped"] == "exited"
    assert before.points <= after.points
    agents.snap("verify", "--read-data")
    assert agents.back_up() in DONE, agents.journal()
    assert len(agents.aftermath().points - after.points) == points
