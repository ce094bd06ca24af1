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

    def tell(self, host: str, messages: Sequence[Message]) -> None:
        """Tell it. Raise SinkFailed if it could not be told all of it."""


def sinks_of(policy: Policy) -> list[Sink]:
    """The sinks that the policy names. A further kind of sink is added here."""
    found: list[Sink] = []
    if policy.monitor.notify_file is not None:
        from trinity_snap.monitor.messages import AppriseSink

        found.append(AppriseSink(policy.monitor.notify_file))
    return found
