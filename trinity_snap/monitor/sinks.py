"""The sinks: where messages about episodes go. Each is one small file; this one says which there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from trinity_snap.monitor.episodes import Message
    from trinity_snap.policy.schema import Policy

__all__ = ["Sink", "SinkFailed", "sinks_of"]


class SinkFailed(Exception):
    """A sink did not take what it was told; the sentence says why. It is told again the next time."""


class Sink(Protocol):
    """Somebody who is told about episodes, each time in one go."""

    name: str
    """What the sink is called in the state; another sink has another name."""
    closes: bool
    """Whether what it is told stays open until it is told that it is over: noted before it is told anything."""

    def tell(self, host: str, messages: Sequence[Message]) -> None:
        """Tell it. Raise SinkFailed if it could not be told all of it."""


def sinks_of(policy: Policy) -> list[Sink]:
    """The sinks that the policy names. A further kind of sink is added here."""
    found: list[Sink] = []
    if policy.monitor.notify_file is not None:
        from trinity_snap.monitor.messages import AppriseSink

        found.append(AppriseSink(policy.monitor.notify_file))
    if (settings := policy.notifications()) is not None:
        from trinity_snap.monitor.trinity import TrinitySink, scope_of

        found.append(TrinitySink(settings, scope_of(policy)))
    return found
