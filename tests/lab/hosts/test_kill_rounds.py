"""Runs that are killed again and again, at steps and at moments that chance picks."""

from __future__ import annotations

import json
import os
import secrets

import pytest

from tests.lab.hosts.agents import DONE, AgentHost

pytestmark = [pytest.mark.lab, pytest.mark.slow]
ROUNDS = int(os.environ.get("TRINITY_SNAP_KILL_ROUNDS", "3"))
SECONDS_OF_A_ROUND = 60
MANY = 20


@pytest.mark.timeout(120 + ROUNDS * SECONDS_OF_A_ROUND)
def test_no_agent_stays_held_and_nothing_is_left_however_often_runs_are_killed(
    request: pytest.FixtureRequest,
) -> None:
    # With LVM's snapshots a round takes twice as long.
    agents: AgentHost = request.getfixturevalue("all_agents" if ROUNDS >= MANY else "agents")
    seed = secrets.randbits(32)
    done = agents.host.run(
        f"python3 /usr/local/lib/on_host.py rounds {ROUNDS} {seed}", check=False, seconds=ROUNDS * SECONDS_OF_A_ROUND
    )
    rounds = [json.loads(line) for line in done.output.splitlines()]
    assert done.code == 0, (seed, rounds[-1:], done.errors)
    assert len(rounds) == ROUNDS
    assert [each for each in rounds if each["left"] or each["held"] > 10] == [], seed
    assert agents.back_up() in DONE, agents.journal()
    agents.snap("verify", "--read-data")
