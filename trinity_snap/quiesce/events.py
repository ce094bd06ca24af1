"""What Docker says that happened to containers, heard while it happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from docker import DockerClient

    from trinity_snap.agents.model import JsonObject

_FILTERS = {"type": ["container", "volume"], "event": ["pause", "unpause", "start", "die", "mount"]}


class _Stream(Protocol):
    """The answer to a request for events."""

    def __iter__(self) -> Iterator[JsonObject]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, order=True)
class Event:
    """One event, by Docker's own clock. For `mount`, `volume` is what the container now has, to write to."""

    at_ns: int
    action: str
    container: str
    volume: str = ""


class Events:
    """Listens from its making until `close`.

    Docker remembers 256 events only, and a host with many agents makes more in one run; so they are listened
    to, and asked for once more in the end. `is_whole` is False if the connection broke: Docker was restarted,
    or may have been.
    """

    def __init__(self, client: DockerClient) -> None:
        from docker.errors import DockerException

        self.began_ns = time.time_ns()
        self.is_whole = True
        self._client = client
        self._closing = False
        self._heard: set[Event] = set()
        try:
            self._stream = self._ask(None)
        except (DockerException, OSError):
            self.is_whole = False
            return
        self._thread = threading.Thread(target=self._listen, name="events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening. After that `all` is everything until now."""
        from docker.errors import DockerException

        self._closing = True
        if not self.is_whole:
            return
        try:
            # A little later, so that the last event is surely in the span.
            self._heard.update(_understood(self._ask(time.time_ns() + 1_000_000)))
        except (DockerException, OSError, KeyError):
            self.is_whole = False
        with suppress(Exception):  # however the connection ends, it is over
            self._stream.close()
        self._thread.join(1)

    def all(self) -> list[Event]:
        """What was heard, in the order of Docker's clock."""
        return sorted(self._heard.copy())

    def _listen(self) -> None:
        with suppress(Exception):  # a connection may break in many ways, and all mean the same
            for event in _understood(self._stream):
                self._heard.add(event)
        if not self._closing:
            self.is_whole = False

    def _ask(self, until_ns: int | None) -> _Stream:
        # The stubs know neither fractions of seconds nor what `decode` makes of the answer.
        ask = cast("Callable[..., _Stream]", self._client.api.events)
        until = None if until_ns is None else _seconds(until_ns)
        return ask(since=_seconds(self.began_ns), until=until, filters=_FILTERS, decode=True)


def held_seconds(events: Iterable[Event], containers: Collection[str]) -> dict[str, float]:
    """For each container (id), the time between Docker's events `pause` and `unpause`.

    Docker writes down each event when the freezer of the container has done it. Asking and being answered
    takes longer, because a busy host starts many helper processes at once. A container for which there are
    not both is left out.
    """
    paused: dict[str, int] = {}
    held: dict[str, float] = {}
    for event in events:
        if event.action == "pause":
            paused[event.container] = event.at_ns
        elif event.action == "unpause" and event.container in paused and event.container in containers:
            held[event.container] = (event.at_ns - paused[event.container]) / 1e9
    return held


def _understood(raw: _Stream) -> Iterator[Event]:
    for one in raw:
        actor, at_ns, action = one["Actor"], int(one["timeNano"]), str(one["Action"])
        if one["Type"] != "volume":
            yield Event(at_ns, action, actor["ID"])
        elif action == "mount" and actor["Attributes"].get("read/write") == "true":
            yield Event(at_ns, action, actor["Attributes"].get("container", ""), actor["ID"])


def _seconds(nanoseconds: int) -> str:
    return f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09}"
