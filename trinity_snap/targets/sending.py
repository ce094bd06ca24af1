"""What is sent to a storage: bytes where they lie in memory, no faster than allowed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Bandwidth", "Body"]


class Bandwidth:
    """Shares so many bytes per second out among all threads that send."""

    def __init__(
        self,
        bytes_per_second: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock()
        self._lock = threading.Lock()

    def wait_for(self, amount: int) -> None:
        """Return when `amount` bytes more may be sent."""
        with self._lock:
            now = self._clock()
            begin = max(now, self._free_at)
            self._free_at = begin + amount / self._rate
        if begin > now:
            self._sleep(begin - now)


class Body:
    """A file-like object over bytes that are not copied. `sending` says that what is read now goes out to the network."""

    def __init__(self, data: memoryview, bandwidth: Bandwidth | None = None) -> None:
        self._data = data
        self._at = 0
        self._bandwidth = bandwidth
        self.sending = False

    def __len__(self) -> int:
        return len(self._data)

    def __bool__(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> memoryview:
        """The next `size` bytes, or all that are left."""
        end = len(self._data) if size is None or size < 0 else self._at + size
        piece = self._data[self._at : end]
        self._at += len(piece)
        if self.sending and self._bandwidth is not None:
            self._bandwidth.wait_for(len(piece))
        return piece

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place, as files do."""
        self._at = max(0, offset + (0, self._at, len(self._data))[whence])
        return self._at

    def tell(self) -> int:
        """The place at which `read` goes on."""
        return self._at
