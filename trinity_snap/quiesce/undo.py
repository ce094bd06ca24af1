"""Undoing what a run that is dead, or hangs, did to containers, as its journal tells: for guardian and recover."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from trinity_snap.quiesce.containers import start_again
from trinity_snap.quiesce.journal import Journal, StoppedContainer

if TYPE_CHECKING:
    from docker import DockerClient


def give_back(
    client: DockerClient, journal: Journal, stopped: StoppedContainer, by: str, *, same_boot: bool = True
) -> Literal["started", "as it was", "waiting"]:
    """Start a container that a run stopped, and note that. Raise PauseFailed.

    While Docker may still be stopping it, on behalf of a run that died after it asked in this boot of the
    machine, the answer is `waiting`, and nothing is noted.
    """
    answer = start_again(client, stopped.id, stopped.started_at)
    if answer == "running" and same_boot and time.time() < stopped.until:
        return "waiting"
    journal.started_again(stopped.id, by)
    return "started" if answer == "started" else "as it was"
