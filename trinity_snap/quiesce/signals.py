"""Holding off signals while containers are held."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

_HELD_OFF = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def signals_held_off() -> Iterator[Sequence[int]]:
    """Keep SIGINT, SIGTERM and SIGHUP until the end of the block, then let the first that came do its work.

    The block gets the numbers of those that have come so far. In a thread other than the main one this does
    nothing: Python runs signal handlers in the main thread only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield ()
        return
    came: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        came.append(number)

    heard = [number for number in _HELD_OFF if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, keep) for number in heard}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if came:
            signal.raise_signal(came[0])
