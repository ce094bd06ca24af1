"""Which containers are agents, and what the agents are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

from trinity_snap.agents.inventory import Container, Inventory
from trinity_snap.agents.model import PLATFORM_AGENT, Ignored
from trinity_snap.trinity import naming

TRINITY_RULE = "trinity"


class Rule(Protocol):
    """A rule of the policy: containers that fit `container` (glob) and `label` (`key` or `key=value`) are agents.

    Only volumes whose name or destination fits one of `volumes` are taken; None takes all. `agent` is a
    template for the agent's name, in which `{container}` stands for the container's.
    """

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def container(self) -> str:
        """A glob for the name of the container."""

    @property
    def volumes(self) -> Sequence[str] | None:
        """Globs for names or destinations of volumes."""

    @property
    def label(self) -> str | None:
        """A label that the container must have."""

    @property
    def agent(self) -> str:
        """The template of the agent's name."""


@dataclass(frozen=True)
class Claim:
    """A container that is an agent: under which name, by which rule, and which volumes the rule takes."""

    agent: str
    container: Container
    rule: str
    volumes: tuple[str, ...] | None = None

    def takes(self, volume: str, destination: str) -> bool:
        """Whether the rule takes the volume of this name, mounted there."""
        if self.volumes is None:
            return True
        return any(fnmatchcase(volume, glob) or fnmatchcase(destination, glob) for glob in self.volumes)


def claim_containers(
    inventory: Inventory, rules: Sequence[Rule], *, trinity: bool, instance: str | None = None
) -> tuple[list[Claim], list[Ignored]]:
    """Say for each container whether it is an agent.

    The policy's rules go first, in their order; then Trinity's: a name `agent-{name}`, or the label
    `trinity.platform=agent`. With `instance`, agents that name another Trinity installation, on the
    container or on a volume, are ignored. Two containers never get the same agent name: whoever has it as
    its container's name after `agent-` keeps it, and the other gets `{name}-container`, as does one that
    would be called `platform`.
    """
    claims: list[Claim] = []
    ignored: list[Ignored] = []
    for container in inventory.containers:
        claim = _by_rules(container, rules) or (_by_trinity(container) if trinity else None)
        if claim is None:
            ignored.append(Ignored(container.name, "no rule takes it for an agent"))
            continue
        other = _instance(container, inventory) if claim.rule == TRINITY_RULE and instance else None
        if other not in (None, instance):
            ignored.append(Ignored(container.name, f"it belongs to another Trinity instance, “{other}”"))
            continue
        claims.append(claim)
    return _distinct(claims), ignored


def _by_rules(container: Container, rules: Sequence[Rule]) -> Claim | None:
    for rule in rules:
        if fnmatchcase(container.name, rule.container) and _has_label(container.labels, rule.label):
            agent = (rule.agent or "{container}").replace("{container}", container.name)
            volumes = None if rule.volumes is None else tuple(rule.volumes)
            return Claim(agent, container, rule.name, volumes)
    return None


def _by_trinity(container: Container) -> Claim | None:
    agent = naming.agent_of_container(container.name)
    if agent is None and naming.is_agent_label(container.labels):
        agent = container.name
    return Claim(agent, container, TRINITY_RULE) if agent else None


def _has_label(labels: Mapping[str, str], wanted: str | None) -> bool:
    if not wanted:
        return True
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def _instance(container: Container, inventory: Inventory) -> str | None:
    own = naming.instance_of(container.labels)
    if own:
        return own
    for mount in container.mounts:
        volume = inventory.volumes.get(mount.name)
        # A shared volume of another installation's, mounted here, says nothing about this container.
        if volume and mount.destination in naming.DESTINATIONS.values():
            named = naming.instance_of(volume.labels)
            if named:
                return named
    return None


def _distinct(claims: Sequence[Claim]) -> list[Claim]:
    taken = {PLATFORM_AGENT}
    result = []
    for claim in sorted(
        claims, key=lambda claim: (claim.container.name != f"agent-{claim.agent}", claim.container.name)
    ):
        agent = claim.agent
        while agent in taken:
            agent += "-container"
        taken.add(agent)
        result.append(Claim(agent, claim.container, claim.rule, claim.volumes))
    return sorted(result, key=lambda claim: claim.agent)
