"""`trinity-snap agents`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.cli.context import load
from trinity_snap.cli.group import new_app
from trinity_snap.cli.options import JsonOption, PolicyOption, QuietOption
from trinity_snap.cli.output import emit
from trinity_snap.errors import DockerUnavailable, TrinitySnapError

if TYPE_CHECKING:
    from trinity_snap.agents import Agent, Discovery, Source
    from trinity_snap.policy.schema import Policy

app = new_app()


@app.command()
def agents(policy: PolicyOption = None, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """What is protected on this host, from which volumes and how, and what is not and why."""
    settings = load(policy)
    found = _discover(settings)
    notes = [*found.notes, *_watchers(found, settings)]
    choices = _choices([source for agent in found.agents for source in agent.sources], settings)
    answer = {
        "agents": [
            {
                "agent": agent.name,
                "container": agent.container_name or None,
                "state": agent.state,
                "rule": agent.rule,
                "mode": settings.for_agent(agent.name).quiesce.mode,
                "volumes": [_source(source, choices[id(source)]) for source in agent.sources],
                "shared": [mount._asdict() for mount in agent.shared],
                "not_covered": [left._asdict() for left in agent.not_covered],
            }
            for agent in found.agents
        ],
        "quiesce_set": [
            {"container": held.name, "state": held.state, "agents": sorted(held.agents)} for held in found.quiesce_set
        ],
        "ignored": [ignored._asdict() for ignored in found.ignored],
        "notes": notes,
    }
    emit(answer, lambda: _lines(found, settings, choices, notes), as_json)


def _watchers(found: Discovery, policy: Policy) -> list[str]:
    """Warnings of what may restart agents that are paused."""
    from trinity_snap.agents import watcher_notes

    paused = [agent for agent in found.agents if policy.for_agent(agent.name).quiesce.mode in ("pause", "hooks")]
    return watcher_notes(found.autoheal if paused else (), paused, policy.quiesce.budget_seconds)


def _discover(policy: Policy) -> Discovery:
    from trinity_snap.agents import Discovery, connect, discover
    from trinity_snap.agents.platform import platform_agent

    try:
        return discover(connect(), policy)
    except DockerUnavailable:
        if policy.agents.discover.trinity or policy.agents.rules or not policy.platform.paths:
            raise
        return Discovery((platform_agent([Path(path) for path in policy.platform.paths]),), ())


def _choices(sources: list[Source], policy: Policy) -> dict[int, tuple[str | None, str, str]]:
    """For each source, by identity: its provider, why, and what would be better."""
    from trinity_snap.snapshot.select import Storage, explain

    storage = Storage()
    found: dict[int, tuple[str | None, str, str]] = {}
    for source in sources:
        try:
            choice = explain(source, policy.snapshot.provider, storage, policy.snapshot.lvm)
            found[id(source)] = choice.provider, choice.why, choice.better
        except (TrinitySnapError, OSError) as error:
            found[id(source)] = None, str(error), ""
    return found


def _source(source: Source, choice: tuple[str | None, str, str]) -> dict[str, object]:
    provider, why, better = choice
    return {
        "name": source.name,
        "kind": source.kind,
        "path": str(source.path),
        "destination": source.destination,
        "driver": source.driver or None,
        "provider": provider,
        "why": why,
        "better": better or None,
    }


def _lines(
    found: Discovery, policy: Policy, choices: dict[int, tuple[str | None, str, str]], notes: list[str]
) -> Iterator[str]:
    for agent in found.agents:
        yield from _agent_lines(agent, policy.for_agent(agent.name).quiesce.mode, choices)
    if not found.agents:
        yield "No agents."
    others = [held for held in found.quiesce_set if held.name not in {agent.container_name for agent in found.agents}]
    if others:
        yield ""
        yield "Held during the snapshot although no agents, because they write to agents' volumes:"
        yield from (f"  {held.name} ({held.state}): {', '.join(sorted(held.agents))}" for held in others)
    if found.ignored:
        yield ""
        yield "Not protected:"
        yield from (f"  {ignored.container}: {ignored.why}" for ignored in found.ignored)
    reasons = sorted(
        f"{provider}: {why}"
        for provider, why in _reasons([s for agent in found.agents for s in agent.sources], choices)
    )
    if reasons:
        yield ""
        yield from reasons
    yield from (f"Better: {better}" for better in sorted({better for _, _, better in choices.values() if better}))
    yield from notes


def _reasons(sources: list[Source], choices: dict[int, tuple[str | None, str, str]]) -> set[tuple[str, str]]:
    """Each provider with each reason for it, which many sources share: without their paths."""
    found = set()
    for source in sources:
        provider, why, _ = choices[id(source)]
        if provider:
            found.add((provider, why.removeprefix(f"{source.path} is ")))
    return found


def _agent_lines(agent: Agent, mode: str, choices: dict[int, tuple[str | None, str, str]]) -> Iterator[str]:
    container = f"container {agent.container_name}, {agent.state}" if agent.container_name else agent.state
    yield f"{agent.name} ({container}; rule {agent.rule}; mode {mode})"
    for source in agent.sources:
        provider, why, _ = choices[id(source)]
        place = f" at {source.destination}" if source.destination and source.destination != source.name else ""
        yield f"  {source.kind} {source.name}{place}: {provider or f'no provider: {why}'}"
    for mount in agent.shared:
        yield f"  volume {mount.volume} at {mount.destination}: backed up with its owner, {mount.owner}"
    for left in agent.not_covered:
        yield f"  NOT covered: {left.kind} {left.what}: {left.why}"
