"""What Docker says: all containers with their mounts, and all volumes, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from trinity_snap.agents.model import AgentState, JsonObject
from trinity_snap.errors import DockerUnavailable

if TYPE_CHECKING:
    from docker import DockerClient


@dataclass(frozen=True)
class Mount:
    """One mount of a container: `name` is the volume's (kind `volume`), `source` the directory on the host."""

    kind: str
    name: str
    source: str
    destination: str
    writable: bool


@dataclass(frozen=True)
class Container:
    """A container as the list of containers shows it; `created` is seconds since 1970."""

    id: str
    name: str
    state: AgentState
    labels: Mapping[str, str]
    created: int
    mounts: tuple[Mount, ...]
    image: str = ""


@dataclass(frozen=True)
class Volume:
    """A volume; `path` is its directory on this host, None with a reason in `why_no_path`."""

    name: str
    driver: str
    path: Path | None
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    why_no_path: str = ""


@dataclass(frozen=True)
class Inventory:
    """All containers by name, and all volumes by name."""

    containers: tuple[Container, ...]
    volumes: Mapping[str, Volume]


def take_inventory(client: DockerClient) -> Inventory:
    """Ask Docker for everything there is. Raise DockerUnavailable if it does not answer."""
    from docker.errors import DockerException

    try:
        containers = cast("list[JsonObject]", client.api.containers(all=True))
        volumes = cast("list[JsonObject]", client.api.volumes().get("Volumes") or [])
    except (DockerException, OSError) as error:
        raise DockerUnavailable(
            f"Docker did not list its containers and volumes: {error}.",
            untouched="Nothing was changed.",
            next_step="See that Docker is well (`docker ps -a`, `docker volume ls`).",
        ) from error
    return Inventory(
        containers=tuple(sorted((_container(entry) for entry in containers), key=lambda entry: entry.name)),
        volumes={entry["Name"]: _volume(entry) for entry in sorted(volumes, key=lambda entry: str(entry["Name"]))},
    )


def _container(entry: JsonObject) -> Container:
    # Links to other containers add names with a second slash; the container's own has one.
    names = [name.removeprefix("/") for name in entry.get("Names") or [] if name.count("/") == 1]
    return Container(
        id=entry["Id"],
        name=names[0] if names else entry["Id"][:12],
        state=entry.get("State") or "dead",
        labels=entry.get("Labels") or {},
        created=int(entry.get("Created") or 0),
        mounts=tuple(
            Mount(
                kind=mount.get("Type") or "",
                name=mount.get("Name") or "",
                source=mount.get("Source") or "",
                destination=mount.get("Destination") or "",
                writable=bool(mount.get("RW")),
            )
            for mount in sorted(entry.get("Mounts") or [], key=lambda mount: str(mount.get("Destination")))
        ),
        image=str(entry.get("Image") or ""),
    )


def _volume(entry: JsonObject) -> Volume:
    options: Mapping[str, str] = entry.get("Options") or {}
    path, why = _directory(entry.get("Mountpoint") or "", entry["Driver"], options)
    return Volume(
        name=entry["Name"],
        driver=entry["Driver"],
        path=path,
        labels=entry.get("Labels") or {},
        options=options,
        why_no_path=why,
    )


def _directory(mountpoint: str, driver: str, options: Mapping[str, str]) -> tuple[Path | None, str]:
    """Where a volume's data lies, or why that cannot be told.

    The `local` driver mounts a volume that has mount options only while a container runs with it. One that
    is but a bind mount can be read where it comes from at any time; any other is an empty directory while
    nobody uses it.
    """
    device = options.get("device", "")
    if "bind" in options.get("o", "").split(",") and device.startswith("/"):
        mountpoint = device
    elif device and driver == "local" and not Path(mountpoint).is_mount():
        return None, f"it is a mount of {device} that Docker only makes while a container runs with it"
    if not mountpoint:
        return None, f"its driver “{driver}” does not say where it is on this host"
    path = Path(mountpoint)
    if not path.is_dir():
        return (
            None,
            f"its directory {mountpoint} does not exist on this machine (is this Docker a remote one?)",
        )
    return path, ""
