"""The connection to Docker."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from trinity_snap.errors import DockerUnavailable

if TYPE_CHECKING:
    from docker import DockerClient

DEFAULT_HOST = "unix:///var/run/docker.sock"


def connect(*, timeout_seconds: float = 60, connections: int = 32) -> DockerClient:
    """Connect to the Docker daemon that `DOCKER_HOST` (and its companions for TLS) names, and see that it answers.

    The client may be used by up to `connections` threads at once. Raise DockerUnavailable.
    """
    import docker
    from docker.errors import DockerException

    host = os.environ.get("DOCKER_HOST") or DEFAULT_HOST
    try:
        client = docker.from_env(timeout=int(timeout_seconds), max_pool_size=connections)
        client.ping()
    except DockerException as error:
        raise _unavailable(host, error) from error
    except OSError as error:  # requests' own errors are OSErrors
        raise _unavailable(host, error) from error
    return client


def _unavailable(host: str, error: Exception) -> DockerUnavailable:
    path = host.removeprefix("unix://")
    if path.startswith("/"):
        if not os.path.exists(path):
            return DockerUnavailable(
                f"There is no Docker daemon at {host}: the socket does not exist.",
                untouched="Nothing was changed.",
                next_step="Start Docker, or set DOCKER_HOST to where it listens.",
            )
        if not os.access(path, os.W_OK):
            return DockerUnavailable(
                f"No permission to talk to the Docker daemon at {host}.",
                untouched="Nothing was changed.",
                next_step="Run the command as root.",
            )
    return DockerUnavailable(
        f"The Docker daemon at {host} does not answer: {_innermost(error)}.",
        untouched="Nothing was changed.",
        next_step="See that Docker runs (`docker version`) and that DOCKER_HOST is right.",
    )


def _innermost(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    strerror = getattr(error, "strerror", None)
    return str(strerror or error or type(error).__name__).rstrip(".")
