"""A view put together from several trees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from trinity_snap.snapshot.view import SourceView, WalkItem


class Graft(NamedTuple):
    """A tree, and the path in the whole where its root belongs."""

    path: bytes
    view: SourceView


class GraftedView:
    """A view in which some directories are replaced by other trees, and some paths are not shown at all."""

    def __init__(self, base: SourceView, grafts: Sequence[Graft], hidden: Sequence[bytes] = ()) -> None:
        self._base = base
        self._grafts = {graft.path: graft.view for graft in grafts}
        self._hidden = frozenset(hidden)

    def walk(self) -> Iterator[WalkItem]:
        """Walk everything in manifest order."""
        return self._walk(b"", self._base)

    def open(self, path: bytes) -> int:
        """Open the file at `path` in the tree that it comes from."""
        view, inner = self._find(path)
        return view.open(inner)

    def xattrs(self, path: bytes, mode: int) -> dict[bytes, bytes]:
        """Read extended attributes from the tree that `path` comes from."""
        view, inner = self._find(path)
        return view.xattrs(inner, mode)

    def readlink(self, path: bytes) -> bytes:
        """Read a symbolic link in the tree that it comes from."""
        view, inner = self._find(path)
        return view.readlink(inner)

    def _walk(self, prefix: bytes, view: SourceView) -> Iterator[WalkItem]:
        skipped = b""
        for item in view.walk():
            path = prefix + b"/" + item.path if prefix and item.path else prefix + item.path
            if skipped and path.startswith(skipped):
                continue
            if path in self._hidden:
                skipped = path + b"/"
            elif path in self._grafts and path != prefix:
                skipped = path + b"/"
                yield from self._walk(path, self._grafts[path])
            else:
                yield WalkItem(path, item.stat, item.error)

    def _find(self, path: bytes) -> tuple[SourceView, bytes]:
        place = path
        while place:
            if place in self._grafts:
                return self._grafts[place], path[len(place) + 1 :]
            place = place.rpartition(b"/")[0]
        return self._base, path
