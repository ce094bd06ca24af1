"""The Docker volumes that a restore fills: finding them, making missing ones, and where their data lies."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.errors import IntegrityError, RestoreError, RestoreRefused
from trinity_snap.repository.points import Volume
from trinity_snap.trinity.naming import parse_volume

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = [
    "CLONE_LABEL",
    "VolumeTarget",
    "clone_name",
    "clone_target",
    "create_volume",
    "find_volume",
    "remove_volume",
    "volume_directory",
    "volume_target",
]

CLONE_LABEL = "trinity-snap.clone-of"
_POINT_LABEL = "trinity-snap.point"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


@dataclass(frozen=True)
class VolumeTarget:
    """A Docker volume as it should be: what it is created with if it is missing."""

    name: str
    driver: str
    labels: Mapping[str, str]
    options: Mapping[str, str]


def volume_target(volume: Volume) -> VolumeTarget:
    """The volume as it was. Raise IntegrityError if its name is none that Docker gives."""
    if not _NAME.fullmatch(volume.name):
        raise IntegrityError(f"The recovery point has a volume with the impossible name {volume.name!r}.")
    return VolumeTarget(volume.name, volume.driver or "local", volume.labels, volume.options)


def clone_target(volume: Volume, agent: str, name: str, point_id: str) -> VolumeTarget:
    """A new volume for a copy of `agent` called `name`.

    It has none of Trinity's labels, by which Trinity would sweep it away, and none of the driver's options, by which it could be
    another name for the original's storage.
    """
    volume_target(volume)
    labels = {key: value for key, value in volume.labels.items() if not key.startswith("trinity.")}
    labels |= {CLONE_LABEL: volume.name, _POINT_LABEL: point_id}
    return VolumeTarget(clone_name(volume.name, agent, name), "local", labels, {})


def clone_name(volume: str, agent: str, name: str) -> str:
    """What the volume is called when its agent is called `name`: the agent's part of the name is replaced."""
    parts = parse_volume(volume)
    if parts is not None:
        return f"agent-{name}-{parts.role}"
    if re.search(rf"(?<![a-zA-Z0-9]){re.escape(agent)}(?![a-zA-Z0-9])", volume):
        return re.sub(rf"(?<![a-zA-Z0-9]){re.escape(agent)}(?![a-zA-Z0-9])", lambda _: name, volume, count=1)
    return f"{name}-{volume}"


def find_volume(docker: DockerClient, name: str) -> Mapping[str, object] | None:
    """What Docker says of the volume, or None if there is none."""
    from docker.errors import NotFound

    try:
        found: Mapping[str, object] = docker.api.inspect_volume(name)
    except NotFound:
        return None
    return found


def create_volume(docker: DockerClient, target: VolumeTarget) -> Mapping[str, object]:
    """Create the volume and return what Docker says of it. Raise RestoreError."""
    from docker.errors import APIError

    try:
        docker.api.create_volume(
            target.name, driver=target.driver, driver_opts=dict(target.options), labels=dict(target.labels)
        )
        found: Mapping[str, object] = docker.api.inspect_volume(target.name)
    except (APIError, OSError) as error:
        raise RestoreError(
            f"Volume {target.name} could not be created: {getattr(error, 'explanation', None) or error}."
        ) from error
    return found


def remove_volume(docker: DockerClient, name: str) -> bool:
    """Remove a volume that a restore made and could not fill. Say whether it is gone; one in use stays."""
    from docker.errors import APIError, NotFound

    try:
        docker.api.remove_volume(name)
    except NotFound:
        return True
    except (APIError, OSError):
        return False
    return True


def volume_directory(found: Mapping[str, object]) -> Path:
    """Where the data of a volume lies on this host. Raise RestoreRefused if that is not to be had."""
    name = found.get("Name")
    options = found.get("Options")
    options = options if isinstance(options, Mapping) else {}
    mountpoint = Path(str(found.get("Mountpoint") or ""))
    device = str(options.get("device") or "")
    if device and "bind" in str(options.get("o") or "").split(","):
        # Docker mounts it only while a container runs; the directory itself is always there.
        mountpoint = Path(os.path.realpath(device))
    elif device or options.get("type"):
        raise RestoreRefused(
            f"Volume {name} is a filesystem of its own ({options.get('type') or device}), which Docker mounts only"
            " while a container uses it.",
            untouched="Nothing was changed.",
            next_step="Restore it with --to into a directory, and copy it from there.",
        )
    if not mountpoint.is_absolute() or not mountpoint.is_dir():
        raise RestoreRefused(
            f"The data of volume {name} is not in a directory of this host ({mountpoint}).",
            untouched="Nothing was changed.",
            next_step="Run the command on the Docker host itself, or restore with --to into a directory.",
        )
    return mountpoint
