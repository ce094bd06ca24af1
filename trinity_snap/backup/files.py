"""From one entry of a view to one entry of the manifest, reading the file if need be."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Protocol

from trinity_snap.repository.chunking import SMALL_FILE_BYTES, Chunker
from trinity_snap.repository.manifest import Entry
from trinity_snap.snapshot.view import SourceView

__all__ = ["ChunkStore", "EntryMaker"]

_TYPES = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFIFO: "p",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFSOCK: "s",
}


class ChunkStore(Protocol):
    """What takes chunks in."""

    def store(self, data: bytes | memoryview) -> bytes:
        """Take a chunk in. Return its id."""


class EntryMaker:
    """Makes entries, storing what files hold. For one thread."""

    def __init__(self, store: ChunkStore, chunker_seed: int, on_read: Callable[[int], None]) -> None:
        self._store = store.store
        self._chunker = Chunker(chunker_seed)
        self._on_read = on_read
        self.bytes_read = 0

    def make(self, view: SourceView, path: bytes, status: os.stat_result, link: bytes) -> Entry:
        """Return the entry at `path`. `link` is the path of the first of several names of a file, else empty.

        Raise OSError if it cannot be read.
        """
        mode = status.st_mode
        kind = _TYPES[stat.S_IFMT(mode)]
        size, chunks, target, device = 0, b"", b"", (0, 0)
        xattrs: dict[bytes, bytes] = {}
        extents: list[tuple[int, int]] = []
        if link:
            return Entry(path, "h", mode & 0o7777, status.st_uid, status.st_gid, status.st_mtime_ns, target=link)
        if kind == "f":
            size, chunks, extents = self._content(view, path, status)
        elif kind == "l":
            target = view.readlink(path)
        elif kind in "cb":
            device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        if kind != "s":
            xattrs = view.xattrs(path, mode)
        return Entry(
            path,
            kind,
            mode & 0o7777,
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            size,
            chunks,
            target,
            device,
            xattrs,
            extents,
        )

    @staticmethod
    def bare_directory(path: bytes, status: os.stat_result) -> Entry:
        """The entry of a directory whose extended attributes cannot be read."""
        return Entry(path, "d", status.st_mode & 0o7777, status.st_uid, status.st_gid, status.st_mtime_ns)

    def _content(
        self, view: SourceView, path: bytes, status: os.stat_result
    ) -> tuple[int, bytes, list[tuple[int, int]]]:
        size = status.st_size
        if not size:
            return 0, b"", []
        descriptor = view.open(path)
        try:
            if size <= SMALL_FILE_BYTES and status.st_blocks * 512 >= size:
                data = os.read(descriptor, size)
                while len(data) < size and (more := os.read(descriptor, size - len(data))):
                    data += more
                self._count(len(data))
                return len(data), self._store(data) if data else b"", []
            extents = self._extents(descriptor, size, status)
            wanted = extents or [(0, size)]
            chunks, total = self._chunker.cut(descriptor, wanted, self._store, self._count)
            if total < sum(length for _, length in wanted):
                raise OSError(None, "it became shorter while it was read", path)
            return size, chunks, extents
        finally:
            os.close(descriptor)

    def _count(self, amount: int) -> None:
        self.bytes_read += amount
        self._on_read(amount)

    @staticmethod
    def _extents(descriptor: int, size: int, status: os.stat_result) -> list[tuple[int, int]]:
        """Where the data lies; empty for a file without holes. A file of holes only is one extent of no length."""
        if status.st_blocks * 512 >= size:
            return []
        extents = []
        at = 0
        while at < size:
            try:
                start = os.lseek(descriptor, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:  # ENXIO: no more data
                    raise
                break
            end = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
            if start >= size:
                break
            extents.append((start, end - start))
            at = end
        if extents == [(0, size)]:
            return []
        return extents or [(size, 0)]
