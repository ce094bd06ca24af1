"""The directories of a recovery point, looked up as they are asked for: only the pages that an answer needs are read."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trinity_snap.repository.manifest import Entry, sort_key

if TYPE_CHECKING:
    from trinity_snap.repository.points import Volume
    from trinity_snap.repository.reader import PointReader

__all__ = ["VolumeTree"]

_PAGES_KEPT = 128


@dataclass(frozen=True)
class _Page:
    keys: list[bytes]
    entries: list[Entry]


class VolumeTree:
    """One volume of a point. May be used by several threads; the last pages that were read are kept."""

    def __init__(self, reader: PointReader, volume: Volume) -> None:
        self._reader = reader
        self._references = reader.pages(volume)
        self._firsts = [sort_key(page.first_path) for page in self._references]
        self._kept: OrderedDict[int, _Page] = OrderedDict()
        self._lock = threading.Lock()

    def entry(self, path: bytes) -> Entry | None:
        """The entry at a path from the volume's root, None if there is none. Raise IntegrityError or TargetError."""
        key = sort_key(path)
        number = bisect_right(self._firsts, key) - 1
        if number < 0:
            return None
        page = self._page(number)
        place = bisect_left(page.keys, key)
        return page.entries[place] if place < len(page.keys) and page.keys[place] == key else None

    def children(self, path: bytes) -> Iterator[tuple[bytes, Entry]]:
        """The names in a directory, and their entries, in order; what is below them is passed over unread."""
        prefix = sort_key(path) + b"\0" if path else b""
        begin = len(path) + 1 if path else 0
        key = prefix or b"\1"  # the root's own entry has the empty path
        while (found := self._at_or_after(key)) is not None:
            where, entry = found
            if not where.startswith(prefix):
                return
            name, slash, _ = entry.path[begin:].partition(b"/")
            if not slash:
                yield name, entry
            key = prefix + name + b"\1"  # before any other name, and after all that is below this one

    def _at_or_after(self, key: bytes) -> tuple[bytes, Entry] | None:
        number = max(bisect_right(self._firsts, key) - 1, 0)
        while number < len(self._firsts):
            page = self._page(number)
            place = bisect_left(page.keys, key)
            if place < len(page.keys):
                return page.keys[place], page.entries[place]
            number += 1
        return None

    def _page(self, number: int) -> _Page:
        with self._lock:
            found = self._kept.get(number)
            if found is not None:
                self._kept.move_to_end(number)
                return found
        entries = self._reader.page(self._references[number])
        page = _Page([sort_key(entry.path) for entry in entries], entries)
        with self._lock:
            self._kept[number] = page
            while len(self._kept) > _PAGES_KEPT:
                self._kept.popitem(last=False)
        return page
