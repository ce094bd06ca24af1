"""What is on this host: Docker's containers, their volumes, and whose they are."""

from trinity_snap.agents.client import connect
from trinity_snap.agents.definition import create_body
from trinity_snap.agents.discover import discover
from trinity_snap.agents.model import (
    PLATFORM_AGENT,
    Agent,
    Discovery,
    HeldContainer,
    Ignored,
    NotCovered,
    SharedMount,
    Source,
)
from trinity_snap.agents.watchers import watcher_notes

__all__ = [
    "PLATFORM_AGENT",
    "Agent",
    "Discovery",
    "HeldContainer",
    "Ignored",
    "NotCovered",
    "SharedMount",
    "Source",
    "connect",
    "create_body",
    "discover",
    "watcher_notes",
]
