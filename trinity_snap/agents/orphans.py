"""Volumes with a Trinity name that no container mounts: the agent's container is gone, its data is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from trinity_snap.agents.inventory import Inventory
from trinity_snap.agents.model import PLATFORM_AGENT, Agent, NotCovered, Source
from trinity_snap.trinity import naming


def adopt_orphans(
    agents: Sequence[Agent], inventory: Inventory, instance: str | None, is_excluded: Callable[[str], bool]
) -> list[Agent]:
    """Add the volumes that have a Trinity name and that no container, agent or not, mounts.

    They go to the Trinity agent of that base name, if there is one, else to an agent in state `missing`.
    Trinity builds a missing container again around such volumes. With `instance`, volumes labelled for
    another one are left alone.
    """
    mounted = {mount.name for container in inventory.containers for mount in container.mounts}
    by_name = {agent.name: agent for agent in agents}
    for volume in inventory.volumes.values():
        parsed = naming.parse_volume(volume.name)
        named = naming.instance_of(volume.labels)
        if parsed is None or volume.name in mounted or (instance and named not in (None, instance)):
            continue
        name = parsed.base if parsed.base != PLATFORM_AGENT else f"{PLATFORM_AGENT}-container"
        if is_excluded(name):
            continue
        agent = by_name.get(name) or Agent(name, None, f"{naming.CONTAINER_PREFIX}{parsed.base}", "missing", ())
        if volume.path is None:
            not_covered = NotCovered("volume", volume.name, volume.why_no_path)
            by_name[name] = replace(agent, not_covered=(*agent.not_covered, not_covered))
            continue
        source = Source(
            name=volume.name,
            kind="volume",
            path=volume.path,
            destination=naming.DESTINATIONS[parsed.role],
            driver=volume.driver,
            labels=volume.labels,
            options=volume.options,
        )
        by_name[name] = replace(agent, sources=tuple(sorted((*agent.sources, source), key=lambda each: each.name)))
    return list(by_name.values())
