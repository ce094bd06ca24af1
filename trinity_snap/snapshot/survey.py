"""Looking over a live tree: what is there, and which of it is known from before."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from trinity_snap.snapshot.beneath import Beneath
from trinity_snap.snapshot.listing import Listing, pack, same, signature
from trinity_snap.snapshot.protocol import Deadline, Signature
from trinity_snap.snapshot.staging import Staging, open_live
from trinity_snap.snapshot.view import DirectoryView, WalkItem, read_xattrs, walk_directory

HOT_NS = 2_000_000_000
"""A file whose ctime is not older than the start of a pass minus this counts as changed by it."""

_TRIES = 3
_CHECK_EVERY = 256
_STAGING_FAILED = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMFILE, errno.ENFILE})


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
    take. `xattrs` and `targets` hold those that there are, by path.
    """

    started_ns: int
    listing: Listing = field(default_factory=Listing)
    xattrs: dict[bytes, dict[bytes, bytes]] = field(default_factory=dict)
    targets: dict[bytes, bytes] = field(default_factory=dict)
    hot: set[bytes] = field(default_factory=set)
    hot_bytes: int = 0

    def known(self, path: bytes, status: os.stat_result) -> bool:
        """Whether an entry is as it was in this survey, and cannot have changed unnoticed since."""
        if status.st_ctime_ns >= self.started_ns - HOT_NS:
            return False
        found = self.listing.find(path)
        return found is not None and same(found, pack(status))


def survey(root: Path, layers: list[Layer]) -> Survey:
    """Look over the tree at `root`, knowing what was shipped. Raise SnapshotError if the root cannot be read."""
    result = Survey(time.time_ns())
    name = os.fsencode(root)
    beneath = Beneath(name)
    links: dict[int, list[bytes]] = {}
    link_bytes: dict[int, int] = {}
    shipped_links: set[int] = set()
    for path, status, _ in walk_directory(name, live=True):
        if status is None:
            continue
        try:
            _read_details(beneath, path, status.st_mode, result.xattrs, result.targets)
        except OSError:
            continue  # it vanished or changed just now: not known
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
            link_bytes[status.st_ino] = _disk_bytes(status)
        else:
            result.hot_bytes += _disk_bytes(status)
    for ino, paths in links.items():
        # Of a file with several names, a pass ships one.
        if ino in shipped_links:
            result.hot.difference_update(paths)
        else:
            result.hot_bytes += link_bytes[ino]
    return result


@dataclass
class Instant:
    """A tree as it was during the pause: everything that the live tree may not give any more afterwards."""

    listing: Listing = field(default_factory=Listing)
    xattrs: dict[bytes, dict[bytes, bytes]] = field(default_factory=dict)
    targets: dict[bytes, bytes] = field(default_factory=dict)
    staged: dict[bytes, int] = field(default_factory=dict)
    errors: dict[bytes, OSError] = field(default_factory=dict)
    unsteady: list[bytes] = field(default_factory=list)
    copied_bytes: int = 0


def take_instant(root: Path, before: Survey, staging: Staging, deadline: Deadline) -> Instant:
    """Record the tree at `root`, and copy what `before` does not know as shipped.

    `errors` holds what could not be copied or read, `unsteady` the files that went on changing while they
    were copied, which happens only to files whose writers are not held. Raise BudgetExceeded,
    SnapshotError, OSError (no room in the staging).
    """
    result = Instant()
    name = os.fsencode(root)
    beneath = Beneath(name)
    links: dict[int, int] = {}
    for number, (path, status, error) in enumerate(walk_directory(name, live=True)):
        if number % _CHECK_EVERY == 0:
            deadline.check()
        if status is None:
            result.listing.append_error(path, error or OSError("it cannot be looked at"))
            continue
        known = before.known(path, status)
        if stat.S_ISREG(status.st_mode) and (not known or path in before.hot):
            number_of_copy = links.get(status.st_ino) if status.st_nlink > 1 else None
            if number_of_copy is None:
                copied = _copy(beneath, path, staging, deadline, result)
                if copied is None:
                    continue
                status, number_of_copy = copied
                if status.st_nlink > 1:
                    links[status.st_ino] = number_of_copy
            result.staged[path] = number_of_copy
        if known:
            if path in before.xattrs:
                result.xattrs[path] = before.xattrs[path]
            if path in before.targets:
                result.targets[path] = before.targets[path]
        else:
            try:
                _read_details(beneath, path, status.st_mode, result.xattrs, result.targets)
            except OSError as problem:
                result.errors[path] = problem
        result.listing.append(path, status)
    return result


def _copy(
    beneath: Beneath, path: bytes, staging: Staging, deadline: Deadline, result: Instant
) -> tuple[os.stat_result, int] | None:
    """Copy one live file; its state and the copy's number, or None if it vanished or could not be read (noted)."""
    for attempt in range(_TRIES):
        try:
            descriptor = open_live(beneath.name(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            result.listing.append_error(path, error)
            return None
        try:
            before = os.fstat(descriptor)
            number = staging.copy(descriptor, deadline)
            after = os.fstat(descriptor)
        except OSError as error:
            if error.errno in _STAGING_FAILED:
                raise
            result.listing.append_error(path, error)
            return None
        finally:
            os.close(descriptor)
        if same(pack(before), pack(after)):
            break
        if attempt + 1 < _TRIES:
            staging.drop(number)
        else:
            result.unsteady.append(path)
            staging.trim(number, before.st_size)
    result.copied_bytes += _disk_bytes(before)
    return before, number


def _read_details(
    beneath: Beneath,
    path: bytes,
    mode: int,
    xattrs: dict[bytes, dict[bytes, bytes]],
    targets: dict[bytes, bytes],
) -> None:
    name = beneath.name(path)
    if stat.S_ISLNK(mode):
        targets[path] = os.readlink(name)
    found = read_xattrs(name)
    if found:
        xattrs[path] = found


def _disk_bytes(status: os.stat_result) -> int:
    return min(status.st_size, status.st_blocks * 512)


def absolute(root: bytes, path: bytes) -> bytes:
    """The path on this host of a path within a tree."""
    return root + b"/" + path if path else root


class ChangedView(DirectoryView):
    """The live tree, of which only the root and the given regular files are shown: what a later pass has to ship."""

    def __init__(self, root: Path, changed: Survey) -> None:
        super().__init__(root, live=True)
        self._survey = changed

    def walk(self) -> Iterator[WalkItem]:
        """The root and the changed files, in manifest order, as they are now; vanished ones are left out."""
        root = os.fsencode(self.root)
        for path in self._survey.listing.paths():
            if path == b"" or path in self._survey.hot:
                try:
                    yield WalkItem(path, os.lstat(absolute(root, path)))
                except FileNotFoundError:
                    continue
                except OSError as error:
                    yield WalkItem(path, None, error)
