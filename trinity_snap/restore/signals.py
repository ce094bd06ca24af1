"""Being interrupted only where it can be undone."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "Interruption"]


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP came. Not an Exception, so that nothing but the restore itself handles it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Interruption:
    """While it is entered, SIGINT, SIGTERM and SIGHUP raise Interrupted in the main thread, except inside `deferred()`.

    One that this process was started to ignore, as `nohup` does, it goes on to ignore. In another thread than the main
    one it does nothing.
    """

    def __init__(self) -> None:
        self._deferred = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)  # type: ignore[arg-type]  # as it was

    def _handle(self, number: int, _: FrameType | None) -> None:
        if not self._deferred:
            # Only once: what cleans up must not be interrupted in its turn.
            self._deferred += 1
            raise Interrupted(number)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Ignore signals for as long as this takes: what happens here ends in a moment, and must be whole."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1
