"""Stopping the containers that use what is restored, starting them again, and making missing ones."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trinity_snap.agents.definition import create_body
from trinity_snap.errors import RestoreError
from trinity_snap.restore.journal import HeldState

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["action_for", "container_exists", "container_state", "create_container", "start_again", "stop", "users_of"]

_STOP_SECONDS = 30
_RUNNING = frozenset(("running", "restarting"))


def users_of(docker: DockerClient, volumes: Collection[str], paths: Collection[Path]) -> list[HeldState]:
    """Every container, whatever its state, that mounts one of these volumes, or a path at, above or below one of these."""
    found = []
    real = [os.path.realpath(path) for path in paths]
    for summary in docker.api.containers(all=True):
        for mount in summary.get("Mounts") or ():
            source = os.path.realpath(mount.get("Source") or "/nonexistent")
            if mount.get("Name") in volumes or (
                mount.get("Type") == "bind" and any(_overlap(source, path) for path in real)
            ):
                found.append(HeldState(summary["Id"], summary["Names"][0].lstrip("/"), summary["State"]))
                break
    return found


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(other.rstrip("/") + "/") or other.startswith(one.rstrip("/") + "/")


def stop(docker: DockerClient, containers: Iterable[HeldState]) -> None:
    """Stop those that run or are paused. Raise RestoreError if one does not stop."""
    from docker.errors import APIError, NotFound

    for held in containers:
        try:
            container = docker.containers.get(held.id)
            if container.status == "paused":
                container.unpause()
            elif container.status not in _RUNNING:
                continue
            container.stop(timeout=_STOP_SECONDS)
            container.reload()
        except NotFound:
            continue
        except (APIError, OSError) as error:
            raise RestoreError(f"Container {held.name} could not be stopped: {_reason(error)}.") from error
        if container.status in _RUNNING or container.status == "paused":
            raise RestoreError(
                f"Container {held.name} was stopped, but something started it again.",
                next_step="Stop what watches over it (an autoheal container, say), and restore again.",
            )


def start_again(docker: DockerClient, containers: Sequence[HeldState]) -> list[str]:
    """Bring containers back to the state that they had. Return a sentence for each where that failed."""
    from docker.errors import APIError, NotFound

    failed = []
    for held in containers:
        if held.state not in _RUNNING and held.state != "paused":
            continue
        try:
            container = docker.containers.get(held.id)
            if container.status == "paused":
                if held.state != "paused":
                    container.unpause()
                continue
            if container.status not in _RUNNING:
                container.start()
            if held.state == "paused":
                container.pause()
        except NotFound:
            continue
        except (APIError, OSError) as error:
            failed.append(f"{held.name}: {_reason(error)}")
    return failed


def action_for(held: HeldState) -> str:
    """What happens to a container, in words for a plan; empty for one that does not run."""
    if held.state in ("running", "restarting"):
        return "stopped, then started"
    if held.state == "paused":
        return "stopped, then started and paused"
    return ""


def container_exists(docker: DockerClient, name: str) -> bool:
    """Whether there is a container of that name."""
    return container_state(docker, name) is not None


def container_state(docker: DockerClient, name: str) -> str | None:
    """What a container of that name does (`running`, `created`, `exited`, …); None if there is none."""
    from docker.errors import NotFound

    try:
        return str(docker.api.inspect_container(name)["State"]["Status"])
    except NotFound:
        return None


def create_container(docker: DockerClient, definition: Mapping[str, Any], name: str) -> str:
    """Create a container from its recorded definition, not started; networks that are missing are made. Return its id.

    Raise RestoreError, naming the image if that is what is missing.
    """
    from docker.errors import APIError, ImageNotFound, NotFound

    image = str(definition.get("Image") or "")
    try:
        docker.images.get(image)
    except (ImageNotFound, NotFound):
        raise RestoreError(
            f"Container {name} cannot be created: this host has no image {image}.",
            untouched="The volumes are restored.",
            next_step=f"`docker pull {image}` or load it, then restore again with --containers.",
        ) from None
    body = create_body(definition)
    endpoints = dict((body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {})
    identity = ""
    try:
        _make_networks(docker, endpoints)
        # Older daemons take one network at creation; the others are joined before the container starts.
        mode = str((body.get("HostConfig") or {}).get("NetworkMode") or "")
        first = mode if mode in endpoints else next(iter(endpoints), None)
        if first is not None:
            body["NetworkingConfig"] = {"EndpointsConfig": {first: endpoints.pop(first)}}
        created = docker.api.create_container_from_config(body, name)  # type: ignore[no-untyped-call]  # untyped in the stubs
        identity = str(created["Id"])
        for network, endpoint in endpoints.items():
            docker.api.connect_container_to_network(
                identity,
                network,
                aliases=endpoint.get("Aliases"),
                ipv4_address=(endpoint.get("IPAMConfig") or {}).get("IPv4Address"),
                ipv6_address=(endpoint.get("IPAMConfig") or {}).get("IPv6Address"),
            )
    except (APIError, OSError) as error:
        if identity:  # without one of its networks it would be taken for whole the next time
            with suppress(APIError, OSError):
                docker.api.remove_container(identity)
        raise RestoreError(
            f"Container {name} could not be created: {_reason(error)}.",
            untouched="The volumes are restored.",
            next_step="Create it by hand; `trinity-snap show POINT --json` has its definition.",
        ) from error
    return identity


def _make_networks(docker: DockerClient, endpoints: Iterable[str]) -> None:
    from docker.errors import NotFound

    for network in endpoints:
        if network in ("bridge", "default", "host", "none"):
            continue
        try:
            docker.api.inspect_network(network)
        except NotFound:
            docker.api.create_network(network, driver="bridge", check_duplicate=True)


def _reason(error: BaseException) -> str:
    return str(getattr(error, "explanation", None) or getattr(error, "strerror", None) or error).rstrip(".")
