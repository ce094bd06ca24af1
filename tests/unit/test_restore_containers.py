"""What is hard to make a real Docker daemon do while a container is made again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import APIError, NotFound

from trinity_snap.errors import RestoreError
from trinity_snap.restore.containers import create_container


def test_a_container_that_gets_only_some_of_its_networks_is_removed_again() -> None:
    """It would be there the next time, and taken for whole."""
    containers: list[str] = []

    def create(body: dict[str, Any], name: str) -> dict[str, str]:
        containers.append(name)
        return {"Id": name}

    def connect(*ignored: object, **settings: object) -> None:
        raise APIError("no such address")

    def missing(network: str) -> None:
        raise NotFound("no such network")

    api = SimpleNamespace(
        create_container_from_config=create, connect_container_to_network=connect, remove_container=containers.remove,
        inspect_network=missing, create_network=lambda *ignored, **settings: None,
    )  # fmt: skip
    docker = SimpleNamespace(api=api, images=SimpleNamespace(get=lambda image: None))
    definition = {"Image": "image", "NetworkingConfig": {"EndpointsConfig": {"one": {}, "two": {}}}}
    with pytest.raises(RestoreError, match="no such address"):
        create_container(docker, definition, "agent-web")  # type: ignore[arg-type]  # as far as it is used
    assert containers == []
