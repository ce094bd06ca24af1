"""The words for what discovery finds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from trinity_snap.errors import AgentMissing

PLATFORM_AGENT = "platform"
"""The name of the pseudo-agent for paths that the policy lists. No container ever gets it."""

AgentState = Literal["running", "paused", "restarting", "exited", "created", "dead", "removing", "missing"]

# Docker's JSON, as it came; its shape is Docker's business.
JsonObject = dict[str, Any]


class NotCovered(NamedTuple):
    """Something of an agent's that no recovery point will hold: what it is, and why not."""

    kind: str
    what: str
    why: str


class Ignored(NamedTuple):
    """A container that is no agent here, and why not."""

    container: str
    why: str


class SharedMount(NamedTuple):
    """A volume that an agent mounts and another agent owns: it is backed up once, with its owner."""

    volume: str
    destination: str
    owner: str


@dataclass(frozen=True)
class Source:
    """One thing to back up: a volume, or a path of the host's.

    `path` is where it lies on this host: the volume's real directory, or the path itself, which for kind
    `path` may be a single file. `destination` is where the agent sees it; for kind `path` the path as the
    policy has it.
    """

    name: str
    kind: Literal["volume", "path"]
    path: Path
    destination: str
    driver: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Agent:
    """A container whose volumes are protected; `container_id` is None where there is no container (any more).

    `definition` is the container as the Docker API creates it (see `trinity_snap.agents.definition`).
    """

    name: str
    container_id: str | None
    container_name: str
    state: AgentState
    sources: tuple[Source, ...]
    definition: JsonObject | None = None
    not_covered: tuple[NotCovered, ...] = ()
    shared: tuple[SharedMount, ...] = ()
    rule: str = "trinity"


@dataclass(frozen=True)
class HeldContainer:
    """A container that can write to what is backed up, and so has to hold still. `agents` own what it writes to."""

    id: str
    name: str
    state: AgentState
    agents: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Discovery:
    """What was found.

    `quiesce_set` holds every container that mounts something selected read-write, agents and others, in
    whatever state. `ignored` are containers that no rule takes for an agent. `notes` are sentences for the
    operator. `autoheal` names running containers that restart others.
    """

    agents: tuple[Agent, ...]
    quiesce_set: tuple[HeldContainer, ...]
    ignored: tuple[Ignored, ...] = ()
    notes: tuple[str, ...] = ()
    autoheal: tuple[str, ...] = ()

    def agent(self, name: str) -> Agent:
        """The agent of that name, or of that container name. Raise AgentMissing."""
        for agent in self.agents:
            if agent.name == name:
                return agent
        for agent in self.agents:
            if agent.container_name == name:
                return agent
        known = ", ".join(agent.name for agent in self.agents) or "none"
        raise AgentMissing(
            f"There is no agent “{name}” on this host.",
            untouched="Nothing was changed.",
            next_step=f"The agents here: {known}. `trinity-snap agents` shows them.",
        )

    def select(self, names: Collection[str]) -> Discovery:
        """Only these agents, and of the quiesce set only what can write to theirs. Raise AgentMissing."""
        chosen = {self.agent(name).name for name in names}
        return replace(
            self,
            agents=tuple(agent for agent in self.agents if agent.name in chosen),
            quiesce_set=tuple(
                replace(held, agents=held.agents & chosen) for held in self.quiesce_set if held.agents & chosen
            ),
        )
