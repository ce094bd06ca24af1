"""Looking over a live tree: what is there, and which of it is known from before."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from trinity_snap.snapshot.beneath import Beneath
from trinity_snap.snapshot.listing import Listing, pack, same, signature
from trinity_snap.snapshot.protocol import Signature
from trinity_snap.snapshot.view import DirectoryView, WalkItem, read_xattrs, walk_directory

HOT_NS = 2_000_000_000
"""A file whose ctime is not older than the start of a pass minus this counts as changed by it."""


_MOST_ALIKE = 1000  # labels of SELinux: on every file, and few different ones


class Layer(NamedTuple):
    """What one pass shipped, and when the pass started (`time.time_ns`)."""

    shipped: Mapping[bytes, Signature]
    started_ns: int

    def holds(self, path: bytes, wanted: Signature) -> bool:
        """Whether the pass shipped the file in this state, and the state was not too fresh to be told apart."""
        return wanted[1] < self.started_ns - HOT_NS and self.shipped.get(path) == wanted


@dataclass
class Survey:
    """One look over a live tree.

    `hot` are the regular files whose present content no pass has shipped, `hot_bytes` how much disk they
    take. `xattrs` and `targets` hold those that there are, by path. `doubtful` are the entries that could not
    be looked at, or not whole; the listing may lack them. `seconds` is how long it took.
    """

    started_ns: int
    listing: Listing = field(default_factory=Listing)
    xattrs: dict[bytes, dict[bytes, bytes]] = field(default_factory=dict)
    targets: dict[bytes, bytes] = field(default_factory=dict)
    hot: set[bytes] = field(default_factory=set)
    hot_bytes: int = 0
    doubtful: set[bytes] = field(default_factory=set)
    seconds: float = 0.0

    def known(self, path: bytes, status: os.stat_result) -> bool:
        """Whether an entry is as it was in this survey, and cannot have changed unnoticed since."""
        if status.st_ctime_ns >= self.started_ns - HOT_NS:
            return False
        found = self.listing.find(path)
        return found is not None and same(found, pack(status))


def survey(root: Path, layers: list[Layer]) -> Survey:
    """Look over the tree at `root`, knowing what was shipped. Raise SnapshotError if the root cannot be read."""
    result = Survey(time.time_ns())
    started = time.monotonic()
    name = os.fsencode(root)
    beneath = Beneath(name)
    links: dict[int, list[bytes]] = {}
    alike: dict[tuple[tuple[bytes, bytes], ...], dict[bytes, bytes]] = {}
    link_bytes: dict[int, int] = {}
    shipped_links: set[int] = set()
    for path, status, _ in walk_directory(name, live=True):
        if status is None:
            result.doubtful.add(path)
            continue
        try:
            read_details(beneath, path, status.st_mode, result.xattrs, result.targets)
        except OSError:
            result.doubtful.add(path)  # it vanished or changed just now: not known
            if not path:
                result.listing.append(path, status)
            continue
        if path in result.xattrs and len(alike) < _MOST_ALIKE:
            found = result.xattrs[path]
            result.xattrs[path] = alike.setdefault(tuple(found.items()), found)
        result.listing.append(path, status)
        if not stat.S_ISREG(status.st_mode):
            continue
        wanted = signature(status)
        if any(layer.holds(path, wanted) for layer in reversed(layers)):
            shipped_links.add(status.st_ino)
            continue
        result.hot.add(path)
        if status.st_nlink > 1:
            links.setdefault(status.st_ino, []).append(path)
            link_bytes[status.st_ino] = disk_bytes(status)
        else:
            result.hot_bytes += disk_bytes(status)
    for ino, paths in links.items():
        # Of a file with several names, a pass ships one.
        if ino in shipped_links:
            result.hot.difference_update(paths)
        else:
            result.hot_bytes += link_bytes[ino]
    result.seconds = time.monotonic() - started
    return result


def read_details(
    beneath: Beneath,
    path: bytes,
    mode: int,
    xattrs: dict[bytes, dict[bytes, bytes]],
    targets: dict[bytes, bytes],
) -> None:
    """Add an entry's extended attributes and link target, if it has any. Raise OSError."""
    name = beneath.name(path)
    if stat.S_ISLNK(mode):
        targets[path] = os.readlink(name)
    found = read_xattrs(name)
    if found:
        xattrs[path] = found


def disk_bytes(status: os.stat_result) -> int:
    """How much a copy of a file takes, about."""
    return min(status.st_size, status.st_blocks * 512)


class ChangedView(DirectoryView):
    """The live tree, of which only the root and the given regular files are shown: what a later pass has to ship."""

    def __init__(self, root: Path, changed: Survey) -> None:
        super().__init__(root, live=True)
        self._survey = changed

    def walk(self) -> Iterator[WalkItem]:
        """The root and the changed files, in manifest order, as they are now; vanished ones are left out."""
        for path in self._survey.listing.paths():
            if path == b"" or path in self._survey.hot:
                try:
                    yield WalkItem(path, self.lstat(path))
                except FileNotFoundError:
                    continue
                except OSError as error:
                    yield WalkItem(path, None, error)
