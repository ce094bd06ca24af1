"""The first check of whatever a recovery point lists: possible entries, each after its directory, none twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from trinity_snap.errors import IntegrityError
from trinity_snap.repository.manifest import Entry, sort_key
from trinity_snap.restore.directories import check_name, shown
from trinity_snap.restore.metadata import check_entry

__all__ = ["checked_order"]


def checked_order(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Pass entries on. Raise IntegrityError at the first that is impossible, out of order or without a parent directory.

    The first entry is the tree's own and has the empty path.
    """
    directories: list[bytes] = []
    previous: bytes | None = None
    for entry in entries:
        path = entry.path
        if previous is None:
            if path:
                raise IntegrityError(f"The recovery point has no entry for the directory that holds {shown(path)}.")
            previous = b""
        else:
            key = sort_key(path)
            if key <= previous:
                raise IntegrityError(f"The recovery point has {path!r} twice, or out of order.")
            previous = key
            parent, slash, name = path.rpartition(b"/")
            check_name(name, path)
            if slash and not parent:
                raise IntegrityError(f"The recovery point has an entry with the impossible path {path!r}.")
            while directories and directories[-1] != parent:
                directories.pop()
            if not directories:
                raise IntegrityError(f"The recovery point has {path!r}, but no directory that would hold it.")
        if entry.type == "d":
            directories.append(path)
        check_entry(entry)
        yield entry
