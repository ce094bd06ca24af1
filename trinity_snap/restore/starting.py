"""Bringing up the containers of agents that were restored here, once the volumes of all of them are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trinity_snap.errors import TrinitySnapError
from trinity_snap.quiesce.steps import step
from trinity_snap.restore.containers import container_state, create_container, start_again
from trinity_snap.restore.journal import HeldState
from trinity_snap.restore.restored import Restored, made_container, missing_places
from trinity_snap.restore.volumes import find_volume

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["STEPS", "Standing", "bring_up", "standing"]

STEPS = ("restored.before-container", "restored.container-made", "restored.all-made", "restored.first-started")
"""Where a crash could interrupt it; for tests (`trinity_snap.quiesce.steps`)."""

_WANTED = ("running", "restarting", "paused")


@dataclass
class Standing:
    """How an agent stands that was restored here. `missing` is what is not there any more; `state` is its container's, if any.

    `made` and `started` say what was done just now, `error` why something was not.
    """

    restored: Restored
    missing: list[str]
    state: str | None = None
    made: bool = False
    started: bool = False
    error: str | None = None

    @property
    def there(self) -> bool:
        """Whether everything is still there that was restored."""
        return not self.missing

    def to_json(self) -> dict[str, Any]:
        """As `--json` shows it."""
        one = self.restored
        return {
            "agent": one.agent,
            "point": one.point,
            "host": one.host,
            "run_id": one.run_id,
            "created": one.point_created,
            "restored": one.restored,
            "restore_id": one.restore_id,
            "files": one.files,
            "bytes": one.bytes,
            "there": self.there,
            "missing": self.missing,
            "container": one.container or None,
            "state": self.state,
            "made": self.made,
            "started": self.started,
            "error": self.error,
        }


def standing(records: Sequence[Restored], docker: DockerClient | None) -> list[Standing]:
    """How these agents stand now, without changing anything."""
    found = []
    for one in records:
        state = container_state(docker, one.container) if docker is not None and one.container else None
        found.append(Standing(one, missing_places(one, docker), state))
    return found


def bring_up(found: Sequence[Standing], docker: DockerClient, state_dir: Path) -> None:
    """Make the containers that are noted and missing, all of them, then start those that ran when they were backed up.

    What fails is noted in `error`, and the others go on. The caller holds the host.
    """
    for one in found:
        if one.missing:
            what = ", ".join(one.missing)
            one.error = f"Not there any more, or not what was restored: {what}. Restore {one.restored.agent} again."
            continue
        try:
            _make(one, docker, state_dir)
        except TrinitySnapError as error:
            one.error = str(error)
    step("restored.all-made")
    for one in found:
        name, wanted = one.restored.container, one.restored.state
        if one.error or one.state is None or wanted not in _WANTED or one.state in _WANTED:
            continue
        one.error = _lacking(docker, docker.api.inspect_container(name).get("Mounts") or ())
        if one.error is None:
            one.error = "; ".join(start_again(docker, [HeldState(name, name, wanted)])) or None
        one.started = one.error is None
        one.state = container_state(docker, name)
        step("restored.first-started")


def _make(one: Standing, docker: DockerClient, state_dir: Path) -> None:
    record = one.restored
    if record.definition is None:
        return
    if one.state is None:
        one.error = _lacking(docker, _mounted(record.definition))
        if one.error:
            return
        step("restored.before-container")
        create_container(docker, record.definition, record.container)
        one.made = True
        one.state = container_state(docker, record.container)
        step("restored.container-made")
    one.restored = made_container(record, state_dir)


def _mounted(definition: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The named volumes of a definition, in the form in which Docker lists mounts of a container."""
    config = definition.get("HostConfig") or {}
    for bind in config.get("Binds") or ():
        source = str(bind).split(":")[0]
        if not source.startswith("/"):
            yield {"Type": "volume", "Name": source}
    for mount in config.get("Mounts") or ():
        if mount.get("Type") == "volume" and mount.get("Source"):
            yield {"Type": "volume", "Name": mount["Source"]}


def _lacking(docker: DockerClient, mounts: Sequence[Mapping[str, Any]] | Iterator[Mapping[str, Any]]) -> str | None:
    """Why a container with these mounts cannot be made or started: Docker would make a missing volume, empty, without a word."""
    names = {str(mount["Name"]) for mount in mounts if mount.get("Type") == "volume" and mount.get("Name")}
    lacking = sorted(name for name in names if find_volume(docker, name) is None)
    if not lacking:
        return None
    them = "it" if len(lacking) == 1 else "them"
    return (
        f"It mounts {', '.join(lacking)}, which this host does not have: restore the agent that owns {them} here, too, or make"
        f" {them} empty with `docker volume create`, and run it again."
    )
