"""Being asked to end, while Ansible works: it is noted, and the run ends where that leaves nothing behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Stop:
    """How often the process was asked to end, and by which signal first."""

    times: int = 0
    number: int | None = None

    def ask(self, number: int) -> None:
        """Somebody asks."""
        self.times += 1
        self.number = self.number or number

    @property
    def asked(self) -> bool:
        """Whether anybody did."""
        return self.times > 0


@contextmanager
def noticing(stop: Stop) -> Iterator[Stop]:
    """Note signals in `stop` instead of being interrupted by them. In the main thread only."""

    def note(number: int, frame: FrameType | None) -> None:
        stop.ask(number)

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
