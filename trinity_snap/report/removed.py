"""Agents that nobody backs up any more, and whose points are still kept: gone from this host, or left out by the policy."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trinity_snap.policy.schema import Policy

__all__ = ["agents_here", "removed_agents"]


def removed_agents(policy: Policy, names: Iterable[str]) -> dict[str, str]:
    """Of these agents, those that cannot become older than they are, each with a sentence that says why.

    What is gone this host's journal knows, and Docker is asked whether it is back. Where there is neither, as on a control
    node, only what the policy leaves out is known. Raise nothing.
    """
    from trinity_snap.events import load_facts

    chosen = set(names)
    known = load_facts(policy.state.directory).agents
    # One that this host only drilled, as a control node does, was never here to be removed.
    gone = {
        name: found.gone
        for name in chosen
        if (found := known.get(name)) is not None and found.gone is not None and found.was_here
    }
    if gone:
        here = agents_here(policy)
        gone = {name: since for name, since in gone.items() if here is None or name not in here}
    stays = "What is kept of it stays until `forget` lets it go (`retention.removed_agents`)."
    sentences = {name: f"It is no longer on this host, since {since}. {stays}" for name, since in gone.items()}
    for name in chosen:
        if any(fnmatchcase(name, pattern) for pattern in policy.agents.exclude):
            sentences[name] = f"The policy leaves it out (`agents.exclude`). {stays}"
    return sentences


def agents_here(policy: Policy) -> set[str] | None:
    """The names of the agents with something to back up that are on this host now; None if Docker cannot say. Raise nothing."""
    from trinity_snap.agents import connect, discover
    from trinity_snap.errors import TrinitySnapError

    try:
        return {agent.name for agent in discover(connect(), policy).agents if agent.sources}
    except TrinitySnapError:
        return None
