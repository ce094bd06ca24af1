"""How Trinity names containers and volumes, and what its labels mean.

The container's name is the truth: labels cannot change in Docker, and are stale after an agent was renamed.
Volumes keep the name that the agent had when they were made (the *base*), and may have no labels at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

CONTAINER_PREFIX = "agent-"
PLATFORM_LABEL = "trinity.platform"
AGENT_NAME_LABEL = "trinity.agent-name"
INSTANCE_LABEL = "trinity.instance"

SHARED_OUT = "/home/developer/shared-out"
DESTINATIONS: Mapping[str, str] = {
    "workspace": "/home/developer",
    "public": "/home/developer/public",
    "shared": SHARED_OUT,
}

_VOLUME = re.compile(r"agent-(?P<base>.+)-(?P<role>workspace|public|shared)")


class VolumeName(NamedTuple):
    """The parts of a Trinity volume's name: the agent's name when it was made, and what the volume is for."""

    base: str
    role: str


def agent_of_container(name: str) -> str | None:
    """Given a container's name, return the agent's name if the name is one that Trinity gives, else None."""
    agent = name.removeprefix(CONTAINER_PREFIX)
    return agent if agent and agent != name else None


def is_agent_label(labels: Mapping[str, str]) -> bool:
    """Whether a container's labels say that it is an agent of Trinity's."""
    return labels.get(PLATFORM_LABEL) == "agent"


def parse_volume(name: str) -> VolumeName | None:
    """Given a volume's name, return its parts if the name is one that Trinity gives, else None."""
    match = _VOLUME.fullmatch(name)
    return VolumeName(match["base"], match["role"]) if match else None


def instance_of(labels: Mapping[str, str]) -> str | None:
    """The Trinity installation that labels name, or None where they name none."""
    return labels.get(INSTANCE_LABEL) or None
