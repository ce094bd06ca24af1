"""How long containers were really held, by Docker's own account."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from docker import DockerClient

    from trinity_snap.agents.model import JsonObject


def held_seconds(client: DockerClient, containers: Collection[str], since_ns: int, until_ns: int) -> dict[str, float]:
    """For each container (id), the time between Docker's events `pause` and `unpause`, within a span of wall clock time.

    Docker writes down each event when the freezer of the container has done it. Asking and being answered
    takes longer, because a busy host starts many helper processes at once. Docker remembers 256 events
    only; a container for which it does not know both is left out.
    """
    from docker.errors import DockerException

    paused: dict[str, int] = {}
    held: dict[str, float] = {}
    try:
        # The stubs know neither fractions of seconds nor what `decode` makes of the answer.
        ask = cast("Callable[..., Iterable[JsonObject]]", client.api.events)
        events = ask(
            since=_seconds(since_ns),
            until=_seconds(until_ns),
            filters={"type": "container", "event": ["pause", "unpause"]},
            decode=True,
        )
        for event in events:
            container = event["Actor"]["ID"]
            if event["Action"] == "pause":
                paused[container] = event["timeNano"]
            elif container in paused and container in containers:
                held[container] = (event["timeNano"] - paused[container]) / 1e9
    except (DockerException, OSError, KeyError):
        return {}
    return held


def _seconds(nanoseconds: int) -> str:
    return f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09}"
