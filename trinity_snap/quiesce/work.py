"""The providers' part of the critical section, where it must not keep containers from being resumed."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Sequence

from trinity_snap.quiesce.watch import Guardian
from trinity_snap.snapshot.protocol import Deadline, Provider

_QUICK_FLUSH_SECONDS = 0.3
_FLUSHES = 3


class SnapshotWork:
    """The providers' snapshots, in a thread, so that a disk that hangs does not keep the containers from being resumed."""

    def __init__(self, providers: Sequence[Provider], deadline: Deadline) -> None:
        self.error: BaseException | None = None
        self.is_done = False
        self._readable, self._writable = os.pipe()
        self._thread = threading.Thread(target=self._run, args=(providers, deadline), name="snapshot")
        self._thread.start()

    def _run(self, providers: Sequence[Provider], deadline: Deadline) -> None:
        try:
            for provider in sorted(providers, key=lambda each: not each.atomic):
                provider.snapshot(deadline)
        except BaseException as error:  # it is looked at by who waits
            self.error = error
        finally:
            self.is_done = True
            os.write(self._writable, b".")

    def wait(self, guardian: Guardian, until: float) -> None:
        """Wait until it is done, the time is over, or the guardian has something to say."""
        while not self.is_done and (left := until - time.monotonic()) > 0:
            ready = select.select([self._readable, guardian.fileno()], [], [], left)[0]
            if guardian.fileno() in ready and guardian.check():
                return

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join()
        os.close(self._readable)
        os.close(self._writable)


def flush(providers: Sequence[Provider]) -> None:
    """Flush until a flush is quick, so that little is left to write in the pause; writers may keep it from ever being."""
    for _ in range(_FLUSHES):
        started = time.monotonic()
        for provider in providers:
            provider.flush()
        if time.monotonic() - started < _QUICK_FLUSH_SECONDS:
            return
