"""Pausing and resuming one container, and what each answer of Docker's means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from docker import DockerClient

Pausing = Literal["paused", "already paused", "not running"]
Resuming = Literal["resumed", "was not paused", "not running"]


class PauseFailed(Exception):
    """Docker did not pause or resume a container, and it is running (or still paused)."""


def pause(client: DockerClient, container: str) -> Pausing:
    """Pause a container. Raise PauseFailed if it is running and was not paused."""
    from docker.errors import DockerException

    try:
        client.api.pause(container)
    except (DockerException, OSError) as error:
        state = state_of(client, container)
        if state == "paused":
            return "already paused"
        if state is None:
            return "not running"
        raise PauseFailed(str(error)) from error
    return "paused"


def resume(client: DockerClient, container: str) -> Resuming:
    """Resume a container. Raise PauseFailed if it is still paused, or if Docker does not tell."""
    from docker.errors import DockerException

    try:
        client.api.unpause(container)
    except (DockerException, OSError) as error:
        state = state_of(client, container)
        if state == "running":
            return "was not paused"
        if state is None:
            return "not running"
        raise PauseFailed(str(error)) from error
    return "resumed"


def state_of(client: DockerClient, container: str) -> Literal["running", "paused"] | None:
    """Whether a container is running or paused; None if it is neither, or not there. Raise PauseFailed."""
    from docker.errors import DockerException, NotFound

    try:
        state = client.api.inspect_container(container)["State"]
    except NotFound:
        return None
    except (DockerException, OSError) as error:
        raise PauseFailed(str(error)) from error
    if state.get("Paused"):
        return "paused"
    return "running" if state.get("Running") else None
