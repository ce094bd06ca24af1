"""Writing content in threads of its own: copying into the page cache is most of the work of a restore."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from trinity_snap.restore.direct import DIRECT_BYTES, DirectFiles
from trinity_snap.restore.system import begin_writeback

__all__ = ["HANDED_OVER_BYTES", "WritesAhead", "write_places"]

HANDED_OVER_BYTES = 64 * 1024
"""Less than this is written sooner than handed over."""

_THREADS = 2
_AHEAD_BYTES = 16 * 1024 * 1024
_AHEAD_WRITES = 64

Places = Sequence[tuple[int, int, int]]
"""Where bytes go: (offset in the file, start in the bytes, length) each."""


def write_places(descriptor: int, data: bytes | memoryview, places: Places) -> None:
    """Write parts of `data` to their places in a file. Raise OSError."""
    with memoryview(data) as view:
        for place, first, length in places:
            offset, start, end = place, first, first + length
            while start < end:
                written = os.pwrite(descriptor, view[start:end], offset)
                start += written
                offset += written


class WritesAhead:
    """Writes that go on in other threads, ended in the order in which they were begun.

    All its methods are for one thread. Memory is bounded: some 16 MiB wait to be written. `directory` is an open one of the
    filesystem that is written to.
    """

    def __init__(self, on_error: Callable[[bytes], None], directory: int) -> None:
        self._on_error = on_error
        self._direct = DirectFiles(directory)
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[tuple[bytes, int, int, Future[None], Callable[[int], None] | None]] = deque()
        self._bytes = 0

    def begin(
        self,
        path: bytes,
        descriptor: int,
        data: bytes | memoryview,
        places: Places,
        then: Callable[[int], None] | None = None,
    ) -> None:
        """Write `data` to an open file, which is closed afterwards, and before that given to `then`, in this thread.

        Raise what an earlier write raised, after `on_error` was told its path.
        """
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="write")
        future = self._pool.submit(self._write_out, descriptor, data, places)
        self._waiting.append((path, descriptor, len(data), future, then))
        self._bytes += len(data)
        while self._waiting[0][3].done() or self._bytes > _AHEAD_BYTES or len(self._waiting) > _AHEAD_WRITES:
            self._end_first()
            if not self._waiting:
                return

    def drain(self) -> None:
        """Wait for everything. Raise what a write raised."""
        while self._waiting:
            self._end_first()

    def close(self) -> None:
        """Wait for what is left after an error, without a word about it, and stop the threads."""
        while self._waiting:
            _, descriptor, _, future, _ = self._waiting.popleft()
            future.cancel()
            future.exception() if not future.cancelled() else None
            os.close(descriptor)
        if self._pool is not None:
            self._pool.shutdown()

    def _write_out(self, descriptor: int, data: bytes | memoryview, places: Places) -> None:
        if self._direct.usable and len(data) >= DIRECT_BYTES:
            with memoryview(data) as view:
                for offset, start, length in places:
                    self._direct.write(descriptor, view[start : start + length], offset)
            return
        write_places(descriptor, data, places)
        # Begin to write to the disk now: all of it has to be there before the restore goes on.
        begin_writeback(descriptor)

    def _end_first(self) -> None:
        path, descriptor, length, future, then = self._waiting.popleft()
        self._bytes -= length
        try:
            future.result()
            if then is not None:
                then(descriptor)
        except OSError:
            self._on_error(path)
            raise
        finally:
            os.close(descriptor)
