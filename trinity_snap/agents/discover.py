"""Discovery: from Docker's containers and the policy to agents, what they own, and what has to hold still."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from trinity_snap.agents.definition import definition_of
from trinity_snap.agents.inventory import Container, Inventory, Mount, take_inventory
from trinity_snap.agents.model import (
    PLATFORM_AGENT,
    Agent,
    Discovery,
    HeldContainer,
    Ignored,
    JsonObject,
    NotCovered,
    SharedMount,
    Source,
)
from trinity_snap.agents.orphans import adopt_orphans
from trinity_snap.agents.ownership import owners
from trinity_snap.agents.platform import platform_agent
from trinity_snap.agents.rules import Claim, Rule, claim_containers
from trinity_snap.agents.watchers import autohealers

if TYPE_CHECKING:
    from docker import DockerClient

_OWN_CGROUP = re.compile(r"docker[-/]([0-9a-f]{64})")
_OWN_HOSTNAME = re.compile(r"/containers/([0-9a-f]{64})/hostname /etc/hostname ")


class DiscoverSection(Protocol):
    """`agents.discover` of a policy."""

    @property
    def trinity(self) -> bool:
        """Whether Trinity's own naming is a rule."""


class AgentsSection(Protocol):
    """`agents` of a policy."""

    @property
    def discover(self) -> DiscoverSection:
        """Which rules apply by themselves."""

    @property
    def rules(self) -> Sequence[Rule]:
        """The policy's rules, in their order."""

    @property
    def exclude(self) -> Sequence[str]:
        """Globs of agents' names."""


class PlatformSection(Protocol):
    """`platform` of a policy."""

    @property
    def paths(self) -> Sequence[str | Path]:
        """Absolute paths of the host."""


class DiscoveryPolicy(Protocol):
    """What discovery wants to know of a policy."""

    @property
    def agents(self) -> AgentsSection:
        """The section."""

    @property
    def platform(self) -> PlatformSection:
        """The section."""


def discover(client: DockerClient, policy: DiscoveryPolicy) -> Discovery:
    """Find every agent of this host, in whatever state its container is. Raise DockerUnavailable.

    Nothing that was looked at and is not backed up is left unsaid: see `Agent.not_covered`, `Agent.shared`,
    `Discovery.ignored` and `Discovery.notes`.
    """
    inventory = take_inventory(client)
    instance: str | None = getattr(policy.agents.discover, "instance", None)
    claims, ignored = claim_containers(
        inventory, policy.agents.rules, trinity=policy.agents.discover.trinity, instance=instance
    )
    owner_of = owners(claims)
    excluded = {claim.agent for claim in claims if _fits(claim.agent, policy.agents.exclude)}
    ignored += [
        Ignored(claim.container.name, f"the policy excludes agent {claim.agent}")
        for claim in claims
        if claim.agent in excluded
    ]
    claims = [claim for claim in claims if claim.agent not in excluded]
    inspected = _inspect_all(client, [claim.container.id for claim in claims])
    platform_paths = [Path(path) for path in policy.platform.paths]
    agents = []
    for claim in claims:
        details = inspected.get(claim.container.id)
        if details is None:
            ignored.append(Ignored(claim.container.name, "it was removed while this host was looked at"))
        else:
            agents.append(_agent(claim, details, inventory, owner_of, excluded, platform_paths))
    if policy.agents.discover.trinity:
        agents = adopt_orphans(agents, inventory, instance, lambda name: _fits(name, policy.agents.exclude))
    if platform_paths and not _fits(PLATFORM_AGENT, policy.agents.exclude):
        agents.append(platform_agent(platform_paths))
    agents.sort(key=lambda agent: agent.name)
    held, notes = quiesce_set(inventory.containers, agents)
    return Discovery(tuple(agents), held, tuple(sorted(ignored)), notes, autohealers(inventory.containers))


def quiesce_set(
    containers: Iterable[Container], agents: Sequence[Agent]
) -> tuple[tuple[HeldContainer, ...], tuple[str, ...]]:
    """Every container that can write to a source of these agents, through a volume or a bind mount that overlaps it.

    The container that this very process runs in, if it runs in one, is left out, with a note: it would
    pause itself.
    """
    roots = [(os.path.realpath(source.path), source.name, agent.name) for agent in agents for source in agent.sources]
    own = own_container()
    held: list[HeldContainer] = []
    notes: list[str] = []
    for container in containers:
        written = frozenset(
            agent
            for mount in container.mounts
            if mount.writable and mount.kind in ("volume", "bind")
            for root, name, agent in roots
            if (mount.kind == "volume" and mount.name == name) or _overlap(os.path.realpath(mount.source), root)
        )
        if written and container.id == own:
            notes.append(
                f"This process runs in container {container.name}, which can write to {', '.join(sorted(written))} "
                "and is not paused. Mount the volumes read-only there."
            )
        elif written:
            held.append(HeldContainer(container.id, container.name, container.state, written))
    return tuple(held), tuple(notes)


def own_container() -> str | None:
    """The id of the Docker container that this process runs in, or None."""
    try:
        cgroup, mounts = Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text()
    except OSError:
        return None
    found = _OWN_CGROUP.search(cgroup) or _OWN_HOSTNAME.search(mounts)
    return found[1] if found else None


def _overlap(one: str, other: str) -> bool:
    return (one + "/").startswith(other.rstrip("/") + "/") or (other + "/").startswith(one.rstrip("/") + "/")


def _fits(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _inspect_all(client: DockerClient, identities: Sequence[str]) -> dict[str, JsonObject]:
    from docker.errors import NotFound

    def inspect(identity: str) -> JsonObject | None:
        try:
            return cast("JsonObject", client.api.inspect_container(identity))
        except NotFound:
            return None

    with ThreadPoolExecutor(8) as pool:
        answers = zip(identities, pool.map(inspect, identities), strict=True)
        return {identity: answer for identity, answer in answers if answer is not None}


def _agent(
    claim: Claim,
    details: JsonObject,
    inventory: Inventory,
    owner_of: Mapping[str, str],
    excluded: set[str],
    platform_paths: Sequence[Path],
) -> Agent:
    sources: dict[str, Source] = {}
    not_covered: list[NotCovered] = []
    shared: list[SharedMount] = []
    for mount in claim.container.mounts:
        if mount.kind == "volume" and mount.name:
            owner = owner_of[mount.name]
            if mount.name in sources:
                continue
            if owner in excluded:
                why = f"it belongs to agent {owner}, which the policy excludes"
                not_covered.append(NotCovered("volume", mount.name, why))
            elif owner != claim.agent:
                shared.append(SharedMount(mount.name, mount.destination, owner))
            elif not claim.takes(mount.name, mount.destination):
                why = f"rule “{claim.rule}” of the policy does not take it"
                not_covered.append(NotCovered("volume", mount.name, why))
            else:
                found = _source(mount, inventory)
                if isinstance(found, Source):
                    sources[mount.name] = found
                else:
                    not_covered.append(found)
        elif mount.kind == "bind":
            if not any(mount.source == str(path) or path in Path(mount.source).parents for path in platform_paths):
                why = "it is a bind mount of a directory of the host; name the directory under `platform: paths:`"
                not_covered.append(NotCovered("bind", f"{mount.source} → {mount.destination}", why))
        else:
            not_covered.append(NotCovered(mount.kind, mount.destination, "it is no volume"))
    for destination in sorted(details["HostConfig"].get("Tmpfs") or {}):
        not_covered.append(NotCovered("tmpfs", destination, "it is in memory only"))
    if not sources:
        why = "it owns no volume; what it keeps in its container's own layer is not backed up"
        not_covered.append(NotCovered("agent", claim.container.name, why))
    return Agent(
        name=claim.agent,
        container_id=claim.container.id,
        container_name=claim.container.name,
        state=details["State"]["Status"],
        sources=tuple(sources[name] for name in sorted(sources)),
        definition=definition_of(details),
        not_covered=tuple(not_covered),
        shared=tuple(shared),
        rule=claim.rule,
    )


def _source(mount: Mount, inventory: Inventory) -> Source | NotCovered:
    volume = inventory.volumes.get(mount.name)
    if volume is None:
        return NotCovered("volume", mount.name, "Docker lists no such volume any more")
    if volume.path is None:
        return NotCovered("volume", mount.name, volume.why_no_path)
    return Source(
        name=volume.name,
        kind="volume",
        path=volume.path,
        destination=mount.destination,
        driver=volume.driver,
        labels=volume.labels,
        options=volume.options,
    )
