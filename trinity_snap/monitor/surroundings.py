"""What the monitor finds out that no run says: which agents there are, and what others checked in the repository."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.errors import DockerUnavailable, TrinitySnapError
from trinity_snap.events import EventJournal, Facts, load_facts
from trinity_snap.events.history import take_over
from trinity_snap.monitor.conditions import moment
from trinity_snap.report.times import timestamp

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy

__all__ = ["look_around"]

_LOOK_AGAIN = timedelta(hours=6)


def look_around(policy: Policy) -> list[str]:
    """Note which agents are here if those are others than before and, a few times a day, what receipts say of the repository.

    Return sentences on what could not be looked at. Raise OSError if the state directory cannot be written.
    """
    state_dir = policy.state.directory
    take_over(state_dir)
    facts = load_facts(state_dir)
    return [*_agents(policy, facts), *_repository(policy, facts)]


def _agents(policy: Policy, facts: Facts) -> list[str]:
    from trinity_snap.agents import connect, discover
    from trinity_snap.agents.platform import platform_agent

    try:
        found = discover(connect(), policy).agents
    except DockerUnavailable as error:
        if policy.agents.discover.trinity or policy.agents.rules:
            return [f"Which agents are here could not be looked up: {error.message}"]
        found = (platform_agent([Path(path) for path in policy.platform.paths]),) if policy.platform.paths else ()
    except TrinitySnapError as error:
        return [f"Which agents are here could not be looked up: {error.message}"]
    names = {agent.name for agent in found if agent.sources}
    if names != {name for name, agent in facts.agents.items() if agent.gone is None}:
        _append(policy, "agents", agents=sorted(names), whole=True)
    return []


def _repository(policy: Policy, facts: Facts) -> list[str]:
    now = datetime.now(UTC)
    if facts.looked is not None and timedelta() <= now - moment(facts.looked) < _LOOK_AGAIN:
        return []
    from trinity_snap.repository.checks import data_checked
    from trinity_snap.repository.identity import load_host_key
    from trinity_snap.repository.receipts import read_receipts
    from trinity_snap.repository.repository import Repository
    from trinity_snap.targets import open_target

    try:
        repository = Repository.open(open_target(policy.target.settings()), host=load_host_key(policy.keys.host_key))
        receipts = read_receipts(repository.target, repository.host)
        checked = data_checked(repository, receipts, time.time_ns())
    except (TrinitySnapError, OSError) as error:
        return [f"What was checked in the repository could not be looked up: {error}"]
    newest_ns = min(max(receipts.checked.values(), default=0), time.time_ns())
    newest = timestamp(datetime.fromtimestamp(newest_ns / 1e9, UTC)) if newest_ns else None
    damaged = facts.damaged if checked is None else checked.damaged
    _append(policy, "checked", verified=newest, damaged=damaged)
    return []


def _append(policy: Policy, what: str, **besides: object) -> None:
    event = {"time": timestamp(datetime.now(UTC)), "event": what, "host": policy.host_name, **besides}
    EventJournal(policy.state.directory).append(event)
