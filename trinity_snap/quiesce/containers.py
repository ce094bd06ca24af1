"""Pausing, resuming, stopping and starting one container, and what each answer of Docker's means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    from docker import DockerClient

    from trinity_snap.agents.model import JsonObject

Pausing = Literal["paused", "already paused", "not running"]
Resuming = Literal["resumed", "was not paused", "not running"]


_KILLED = 128 + 9


class PauseFailed(Exception):
    """Docker did not pause, resume, stop or start a container, or does not say how it is."""


@dataclass(frozen=True)
class Look:
    """How a container is. `started_at` tells one life of it from the next; `was_killed` how the last one ended."""

    name: str
    state: Literal["running", "paused", "stopped"]
    started_at: str
    was_killed: bool
    removes_itself: bool


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
    found = look(client, container)
    return None if found is None or found.state == "stopped" else found.state


def look(client: DockerClient, container: str) -> Look | None:
    """How a container is; None if it is not there. Raise PauseFailed."""
    from docker.errors import DockerException, NotFound

    try:
        inspected = cast("JsonObject", client.api.inspect_container(container))
    except NotFound:
        return None
    except (DockerException, OSError) as error:
        raise PauseFailed(str(error)) from error
    state = inspected["State"]
    return Look(
        name=str(inspected["Name"]).removeprefix("/"),
        state="paused" if state.get("Paused") else "running" if state.get("Running") else "stopped",
        started_at=str(state.get("StartedAt") or ""),
        was_killed=state.get("ExitCode") == _KILLED or bool(state.get("OOMKilled")) or bool(state.get("Dead")),
        removes_itself=bool((inspected.get("HostConfig") or {}).get("AutoRemove")),
    )


def stop(client: DockerClient, container: str, seconds: float) -> None:
    """Shut a container down, and kill it after `seconds`. Raise PauseFailed."""
    from docker.errors import DockerException

    try:
        client.api.stop(container, timeout=max(1, round(seconds)))
    except (DockerException, OSError) as error:
        raise PauseFailed(str(error)) from error


Starting = Literal["started", "running", "of somebody else", "gone"]


def start_again(client: DockerClient, container: str, started_at: str) -> Starting:
    """Start a container that was stopped in the life that began at `started_at`. Raise PauseFailed.

    If it has begun another life since, somebody else has taken care of it, and it is left as it is. If it
    is still in that life, nothing is done either.
    """
    from docker.errors import DockerException, NotFound

    found = look(client, container)
    if found is None:
        return "gone"
    if found.started_at != started_at:
        return "of somebody else"
    if found.state != "stopped":
        return "running"
    try:
        client.api.start(container)
    except NotFound as error:
        if look(client, container) is None:
            return "gone"
        raise PauseFailed(str(error)) from error
    except (DockerException, OSError) as error:
        raise PauseFailed(str(error)) from error
    return "started"
