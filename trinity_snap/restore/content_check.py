"""Comparing the bytes of files with what a recovery point says: one file, or many in threads of their own."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from trinity_snap.errors import RestoreError
from trinity_snap.repository.manifest import Entry
from trinity_snap.restore.content import Layout, chunk_lengths
from trinity_snap.restore.direct import DIRECT_BYTES, DirectFiles, read_exactly
from trinity_snap.restore.directories import DirectoryCache, shown
from trinity_snap.restore.metadata import Losses, differences, read_xattrs
from trinity_snap.restore.source import ChunkSource

__all__ = ["ContentChecks", "check_file", "content_matches", "differs", "open_quietly", "unreadable"]

_LENGTHS_AT_ONCE = 8192
_THREADS = 2
_AHEAD = 32
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK

_Read = Callable[[int, int, int], bytes | memoryview]


def content_matches(source: ChunkSource, descriptor: int, entry: Entry, read: _Read = read_exactly) -> bool:
    """Whether an open file, which has the size that the entry says, holds exactly the entry's bytes; holes are zeros.

    `read` gives bytes of the descriptor, from an offset, so many. Raise IntegrityError if the recovery point contradicts
    itself about the file, OSError if it cannot be read.
    """
    chunks = entry.chunks
    if len(chunks) == 32 and not entry.extents:
        return source.chunk_id(read(descriptor, 0, entry.size)) == chunks
    if not chunks and not entry.size:
        return True
    if not _zero_outside(descriptor, entry):
        return False
    layout = Layout(entry)
    ids = entry.chunk_ids()
    taken = 0
    for start in range(0, len(ids), _LENGTHS_AT_ONCE):
        window = ids[start : start + _LENGTHS_AT_ONCE]
        lengths = chunk_lengths(source, window)
        for chunk_id in window:
            length = lengths[chunk_id]
            pieces = layout.take(length)
            if len(pieces) == 1:
                data = read(descriptor, pieces[0][0], length)
            else:
                data = b"".join([bytes(read(descriptor, place, size)) for place, _, size in pieces])
            if len(data) != length or source.chunk_id(data) != chunk_id:
                return False
            taken += length
    layout.finish(taken)
    return True


def _zero_outside(descriptor: int, entry: Entry) -> bool:
    """Whether there are only zeros between the extents; holes are not read."""
    if not entry.extents:
        return True
    position = 0
    for offset, length in [*entry.extents, (entry.size, 0)]:
        while position < offset:
            try:
                start = os.lseek(descriptor, position, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole to the end
                return True
            if start >= offset:
                break
            piece = os.pread(descriptor, min(offset - start, 1 << 20), start)
            if not piece or piece.strip(b"\0"):
                return False
            position = start + len(piece)
        position = offset + length
    return True


def unreadable(path: bytes, error: OSError) -> RestoreError:
    """The error for what was restored and cannot be read again."""
    return RestoreError(f"{shown(path)} could not be read again after it was restored: {error.strerror or error}.")


def differs(path: bytes, what: list[str]) -> RestoreError:
    """The error for what was restored and is not what it should be; `what` names what is different of it."""
    return RestoreError(
        f"What was restored is not what the recovery point holds: {shown(path)} has another {' and another '.join(what)}.",
        next_step="Restore again; if this comes back, check the destination's disk.",
    )


def open_quietly(name: bytes, directory: int) -> int:
    """Open a file for reading without changing its access time, where that is allowed. Links are not followed."""
    try:
        return os.open(name, _READ | os.O_NOATIME, dir_fd=directory)
    except PermissionError:
        return os.open(name, _READ, dir_fd=directory)


def check_file(
    source: ChunkSource, cache: DirectoryCache, entry: Entry, losses: Losses, contents: ContentChecks
) -> None:
    """Compare one regular file with its entry: metadata at once, its bytes with `contents`.

    Raise RestoreError if it differs, OSError if it cannot be read, and what `contents` raises.
    """
    directory, name = cache.place(entry.path)
    descriptor = open_quietly(name, directory)
    try:
        wrong = differences(entry, os.fstat(descriptor), read_xattrs(descriptor), losses)
        if wrong:
            raise differs(entry.path, wrong)
    except BaseException:
        os.close(descriptor)
        raise
    contents.check(source, entry, descriptor)


class ContentChecks:
    """Compares large files in other threads, from the disk where the filesystem allows, and small ones at once.

    All its methods are for one thread. `directory` is an open one of the filesystem. Use it as a context manager.
    """

    def __init__(self, directory: int) -> None:
        self._direct = DirectFiles(directory)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="check")
        self._waiting: deque[tuple[bytes, int, Future[bool]]] = deque()

    def check(self, source: ChunkSource, entry: Entry, descriptor: int) -> None:
        """Compare an open file with what `source` says of its chunks, sooner or later, and close it then.

        Raise RestoreError if this or an earlier file differs or cannot be read, IntegrityError if the recovery point contradicts
        itself about one.
        """
        if entry.size < DIRECT_BYTES:
            try:
                same = content_matches(source, descriptor, entry)
            except OSError as error:
                raise unreadable(entry.path, error) from error
            finally:
                os.close(descriptor)
            if not same:
                raise differs(entry.path, ["content"])
            return
        future = self._pool.submit(content_matches, source, descriptor, entry, self._direct.read)
        self._waiting.append((entry.path, descriptor, future))
        while self._waiting and (len(self._waiting) > _AHEAD or self._waiting[0][2].done()):
            self._end_first()

    def finish(self) -> None:
        """Wait for all comparisons. Raise as `check` does."""
        while self._waiting:
            self._end_first()

    def _end_first(self) -> None:
        path, descriptor, future = self._waiting.popleft()
        try:
            same = future.result()
        except OSError as error:
            raise unreadable(path, error) from error
        finally:
            os.close(descriptor)
        if not same:
            raise differs(path, ["content"])

    def __enter__(self) -> ContentChecks:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        while self._waiting:
            os.close(self._waiting.popleft()[1])
