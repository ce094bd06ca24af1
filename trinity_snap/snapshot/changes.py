"""From events to the entries of a survey that have to be looked at again."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from trinity_snap.snapshot.fanotify import Touched
from trinity_snap.snapshot.listing import Listing
from trinity_snap.snapshot.view import is_own

__all__ = ["InodeIndex", "Suspects"]


class InodeIndex:
    """Finds the entries of a listing by inode number, in 12 bytes for each."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        inodes = array("Q", listing.inodes())
        self._numbers = array("I", sorted(range(len(inodes)), key=inodes.__getitem__))
        self._inodes = array("Q", (inodes[number] for number in self._numbers))

    def paths(self, inode: int) -> Iterator[bytes]:
        """All names of an inode, as far as they were known to the listing."""
        at = bisect_left(self._inodes, inode)
        while at < len(self._inodes) and self._inodes[at] == inode:
            yield self._listing.path(self._numbers[at])
            at += 1


@dataclass
class Suspects:
    """What may not be any more as a survey says.

    `paths` are entries whose state may have changed; `names` are those that may have come, gone, or become
    something else: a directory of such a name is walked anew.
    """

    index: InodeIndex
    paths: set[bytes] = field(default_factory=set)
    names: set[bytes] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.paths) + len(self.names)

    def add(self, touched: Touched) -> None:
        """Add what events say. Those of other trees on the same filesystem are passed over."""
        for directory, name in touched.entries:
            for path in self.index.paths(directory):
                inner = path + b"/" + name if path else name
                if not is_own(inner):
                    self.names.add(inner)
        self.add_inodes(touched.inodes)

    def add_inodes(self, inodes: Iterable[int]) -> None:
        """Add all names of these inodes."""
        for inode in inodes:
            self.paths.update(self.index.paths(inode))
