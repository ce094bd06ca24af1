"""Working out what a rollback would do, without changing anything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trinity_snap.agents.model import Agent, Discovery
from trinity_snap.errors import AgentMissing, RestoreRefused
from trinity_snap.restore.containers import action_for, users_of
from trinity_snap.restore.journal import HeldState, refuse_unfinished
from trinity_snap.restore.names import new_restore_id
from trinity_snap.restore.plan import How, Mode
from trinity_snap.restore.volumes import VolumeTarget, find_volume, volume_directory
from trinity_snap.snapshot.local import LocalAgent, LocalSnapshot, LocalSource, keeper, local_snapshots
from trinity_snap.snapshot.mounts import nested_mounts
from trinity_snap.snapshot.protocol import Kept, KeptTree

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["RollbackPlan", "RollbackVolume", "choose", "plan_rollback"]


@dataclass(frozen=True)
class RollbackVolume:
    """A volume or path that is rolled back. `live` is None for a volume that is gone and is made again."""

    source: LocalSource
    live: Path | None
    target: VolumeTarget | None
    trees: tuple[tuple[Kept, KeptTree], ...]
    how: How = "swap"
    paths: tuple[bytes, ...] = ()

    @property
    def name(self) -> str:
        """The volume's name, or the path."""
        return self.source.name

    @property
    def kind(self) -> str:
        """`volume` or `path`."""
        return self.source.kind

    @property
    def exists(self) -> bool:
        """Whether there is something to replace."""
        return self.live is not None and os.path.lexists(self.live)

    def to_json(self) -> dict[str, Any]:
        """As `--json` shows it."""
        return {
            "volume": self.name,
            "kind": self.kind,
            "path": None if self.live is None else str(self.live),
            "exists": self.exists,
            "how": self.how,
        }


@dataclass(frozen=True)
class RollbackPlan:
    """A whole rollback of one agent to one local snapshot."""

    id: str
    agent: str
    local: LocalSnapshot
    point: LocalAgent
    state_dir: Path
    volumes: tuple[RollbackVolume, ...]
    containers: tuple[HeldState, ...] = ()
    warnings: tuple[str, ...] = ()
    discards: bool = True

    @property
    def mode(self) -> Mode:
        """What is compared with the live tree needs its users to be stopped first."""
        return "in_place" if any(volume.how == "in_place" for volume in self.volumes) else "swap"

    @property
    def origin(self) -> str:
        """The local snapshot's id."""
        return self.local.id

    def to_json(self) -> dict[str, Any]:
        """As `--json` shows it."""
        return {
            "rollback_id": self.id,
            "agent": self.agent,
            "local": self.local.id,
            "created": self.local.created.isoformat(),
            "consistency": self.point.consistency,
            "volumes": [volume.to_json() for volume in self.volumes],
            "containers": [
                {"name": held.name, "state": held.state, "action": action_for(held)} for held in self.containers
            ],
            "warnings": list(self.warnings),
        }

    def lines(self) -> list[str]:
        """The plan for an operator, line by line."""
        what = f"local snapshot {self.local.id[:8]} of {self.local.created:%Y-%m-%d %H:%M:%S} UTC"
        lines = [f"Roll back {self.agent} to {what} ({self.point.consistency})"]
        for volume in self.volumes:
            what = volume.name if volume.kind == "path" else f"volume {volume.name}"
            lines.append(f"  {what}{'' if volume.exists else ' (missing here: it is made)'}")
        for held in self.containers:
            action = action_for(held)
            if action:
                lines.append(f"  container {held.name} ({held.state}): {action}")
        lines.append("  the present state is kept as a local snapshot first")
        lines += [f"  warning: {warning}" for warning in self.warnings]
        return lines


def plan_rollback(
    agent: str, *, to: str | None, state_dir: Path, discovery: Discovery, docker: DockerClient | None
) -> RollbackPlan:
    """Work out what rolling `agent` back to the local snapshot `to` (an id or the start of one; None: the newest) means here.

    Raise RestoreRefused if that cannot be, AgentMissing if nothing here ever knew the agent.
    """
    refuse_unfinished(state_dir)
    present = _present(discovery, agent)
    name = agent if present is None else present.name
    snapshots = local_snapshots(state_dir)
    if present is None and not any(snapshot.agent(name) for snapshot in snapshots):
        discovery.agent(agent)  # raises AgentMissing, with the names that there are
    local = choose(snapshots, name, to)
    then = local.agent(name)
    assert then is not None
    warnings: list[str] = []
    volumes = []
    for source in then.sources:
        owner = _owner(discovery, source)
        if owner is not None and owner != name:
            warnings.append(f"{source.name} belongs to agent {owner} now, and is left alone.")
            continue
        if owner is None and source.kind == "path":
            warnings.append(f"{source.name} is no path that the policy protects any more, and is left alone.")
            continue
        volumes.append(_volume(local, source, docker))
    if not volumes:
        raise RestoreRefused(
            f"There is nothing of {name} in local snapshot {local.id[:8]} that is still {name}'s.",
            untouched="Nothing was changed.",
            next_step="`trinity-snap rollback --list` shows the others.",
        )
    if present is not None:
        warnings += _left_alone(present, then)
    live = [volume.live for volume in volumes if volume.live is not None]
    held = users_of(docker, {each.name for each in volumes if each.kind == "volume"}, live) if docker else []
    own = present.container_name if present is not None else ""
    warnings += [
        f"Container {other.name} mounts one of these volumes, too, and is stopped for the exchange."
        for other in held
        if other.name != own and action_for(other)
    ]
    return RollbackPlan(new_restore_id(), name, local, then, state_dir, tuple(volumes), tuple(held), tuple(warnings))


def choose(snapshots: Sequence[LocalSnapshot], agent: str, to: str | None) -> LocalSnapshot:
    """The local snapshot with the agent in it that `to` names; None: the newest that a run made. Raise RestoreRefused."""
    having = [snapshot for snapshot in snapshots if snapshot.agent(agent) is not None]
    if to is None:
        found = [snapshot for snapshot in having if not snapshot.before_rollback][:1]
        if not found:
            raise RestoreRefused(
                f"There is no local snapshot of {agent} on this host.",
                untouched="Nothing was changed.",
                next_step=(
                    "Set `snapshot: keep:` in the policy, and the next backup keeps one (not with the provider `precopy`). "
                    f"`trinity-snap restore {agent}` gives it back from its newest recovery point."
                ),
            )
        return found[0]
    found = [snapshot for snapshot in having if snapshot.id == to] or [
        snapshot for snapshot in having if to and snapshot.id.startswith(to)
    ]
    if len(found) != 1:
        known = ", ".join(snapshot.id[:8] for snapshot in having) or "none"
        problem = (
            f"Several local snapshots begin with “{to}”" if found else f"There is no local snapshot “{to}” of {agent}"
        )
        raise RestoreRefused(
            f"{problem}.",
            untouched="Nothing was changed.",
            next_step=f"Those of {agent}: {known}. `trinity-snap rollback --list` shows them.",
        )
    return found[0]


def _present(discovery: Discovery, agent: str) -> Agent | None:
    try:
        return discovery.agent(agent)
    except AgentMissing:
        return None


def _owner(discovery: Discovery, source: LocalSource) -> str | None:
    for agent in discovery.agents:
        if any((own.kind, own.name) == (source.kind, source.name) for own in agent.sources):
            return agent.name
    return None


def _volume(local: LocalSnapshot, source: LocalSource, docker: DockerClient | None) -> RollbackVolume:
    trees = tuple(local.trees(source))
    if not trees or trees[0][1].at or not all(keeper(kept.provider).is_there(kept) for kept, _ in trees):
        raise RestoreRefused(
            f"What local snapshot {local.id[:8]} had of {source.name} is not there any more, or is something else now.",
            untouched="Nothing was changed.",
            next_step=f"Take another one, or restore; `trinity-snap rollback --remove {local.id[:8]}` forgets this one.",
        )
    live: Path | None = Path(source.path)
    target = None
    if source.kind == "volume":
        if docker is None:
            raise RestoreRefused("Rolling back volumes needs Docker.", untouched="Nothing was changed.")
        found = find_volume(docker, source.name)
        live = None if found is None else volume_directory(found)
        target = VolumeTarget(source.name, source.driver or "local", source.labels, source.options)
    if live is not None and live.exists():
        live = Path(os.path.realpath(live))
        inside = nested_mounts(live)
        if inside:
            raise RestoreRefused(
                f"Another filesystem is mounted at {inside[0].path}, inside of {source.name}.",
                untouched="Nothing was changed.",
                next_step="Unmount it first: a local snapshot does not have what is in it.",
            )
    # Where files cannot share data with the snapshot, only what differs is copied; a tree of several parts needs them all.
    alike = len(trees) == 1 and live is not None and live.is_dir()
    how: How = "in_place" if alike and not keeper(trees[0][0].provider).SHARES_DATA else "swap"
    return RollbackVolume(source, live, target, trees, how)


def _left_alone(present: Agent, then: LocalAgent) -> list[str]:
    """Sentences for what the agent sees and the rollback does not touch."""
    had = {(source.kind, source.name) for source in then.sources}
    sentences = [
        f"{source.name} is newer than the local snapshot, and is left as it is."
        for source in present.sources
        if (source.kind, source.name) not in had
    ]
    return sentences + [
        f"{shared.volume} belongs to agent {shared.owner}, and is left as it is." for shared in present.shared
    ]
