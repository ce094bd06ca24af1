"""Recording a tree during the pause: by a walk over all of it, or by a look at what may have changed since a survey."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from trinity_snap.snapshot.beneath import Beneath
from trinity_snap.snapshot.changes import Suspects
from trinity_snap.snapshot.listing import Listing, lies_in, manifest_order, pack, same, same_but_ctime
from trinity_snap.snapshot.protocol import Deadline
from trinity_snap.snapshot.staging import STAGING_FAILED, Staging, open_live
from trinity_snap.snapshot.survey import Survey, disk_bytes, read_details
from trinity_snap.snapshot.view import DirectoryView, WalkItem, walk_directory

__all__ = ["Instant", "find_missed", "take_difference", "take_instant"]

_TRIES = 3
_CHECK_EVERY = 256
_TICK_NS = 20_000_000  # ctime may be as much before the clock
_MOST_MISSED = 100


@dataclass
class Instant:
    """A tree as it was during the pause: everything that the live tree may not give any more afterwards.

    `staged` are the numbers of copies in the staging directory by path, `errors` hold what could not be read,
    `unsteady` the files that went on changing while they were copied, which happens only to files whose
    writers are not held. `gone`: if this is only the difference to a survey, what of that is there no more
    or had to be recorded anew, with all that is below.
    """

    listing: Listing = field(default_factory=Listing)
    xattrs: dict[bytes, dict[bytes, bytes]] = field(default_factory=dict)
    targets: dict[bytes, bytes] = field(default_factory=dict)
    staged: dict[bytes, int] = field(default_factory=dict)
    errors: dict[bytes, OSError] = field(default_factory=dict)
    unsteady: list[bytes] = field(default_factory=list)
    gone: set[bytes] = field(default_factory=set)
    copied_bytes: int = 0

    def complete(self, before: Survey) -> None:
        """Make a difference to `before` into the whole. `before` is of no use after this."""
        changed = set(self.listing.paths())

        def stays(path: bytes) -> bool:
            return path not in changed and not lies_in(path, self.gone)

        self.xattrs |= {path: found for path, found in before.xattrs.items() if stays(path)}
        self.targets |= {path: target for path, target in before.targets.items() if stays(path)}
        self.listing = before.listing.merged(self.listing, self.gone)
        self.gone = set()


def take_instant(root: Path, before: Survey, staging: Staging, deadline: Deadline) -> Instant:
    """Record the tree at `root` by a walk, and copy what `before` does not know as shipped.

    Raise BudgetExceeded, SnapshotError, OSError (no room in the staging).
    """
    recorder = _Recorder(os.fsencode(root), before, staging, deadline, Instant())
    with recorder:
        recorder.record_all(walk_directory(recorder.root, live=True))
    return recorder.result


def take_difference(root: Path, before: Survey, suspects: Suspects, staging: Staging, deadline: Deadline) -> Instant:
    """Record only what of `before` is suspect; the rest is taken to be as it was. Otherwise as `take_instant`."""
    result = Instant(Listing(before.listing.device))
    recorder = _Recorder(os.fsencode(root), before, staging, deadline, result)
    with recorder:
        for path in sorted(suspects.paths | suspects.names, key=manifest_order):
            if not lies_in(path, result.gone):
                recorder.look_again(path, named=path in suspects.names)
    return result


class _Recorder:
    def __init__(self, root: bytes, before: Survey, staging: Staging, deadline: Deadline, result: Instant) -> None:
        self.root = root
        self.result = result
        self._before = before
        self._staging = staging
        self._deadline = deadline
        self._beneath = Beneath(root)
        self._links: dict[int, int] = {}
        self._count = 0

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave the room to others, if it failed."""
        if kind is not None:
            for number in set(self.result.staged.values()):
                self._staging.drop(number)

    def look_again(self, path: bytes, *, named: bool) -> None:
        """Record what there is now at a path that may have changed; `named`: it may be another thing than before."""
        try:
            status = os.lstat(self._beneath.name(path))
        except (FileNotFoundError, NotADirectoryError):
            self.result.gone.add(path)
            return
        except OSError as error:
            self.result.gone.add(path)
            self._record(WalkItem(path, None, error))
            return
        if path and (named or not self._is_as_before(path, status)):
            self.result.gone.add(path)
            if stat.S_ISDIR(status.st_mode):
                self.record_all(walk_directory(self.root, live=True, start=path))
                return
        self._record(WalkItem(path, status))

    def _is_as_before(self, path: bytes, status: os.stat_result) -> bool:
        """Whether it is the same directory, or as before no directory at all."""
        known = self._before.listing.find(path)
        if known is None:
            return False
        inode, mode = self._before.listing.identity(known)
        if stat.S_ISDIR(mode) or stat.S_ISDIR(status.st_mode):
            return stat.S_ISDIR(mode) and stat.S_ISDIR(status.st_mode) and inode == status.st_ino
        return True

    def record_all(self, items: Iterable[WalkItem]) -> None:
        for item in items:
            self._record(item)

    def _record(self, item: WalkItem) -> None:
        path, status, error = item
        result, before = self.result, self._before
        if self._count % _CHECK_EVERY == 0:
            self._deadline.check()
        self._count += 1
        if status is None:
            result.listing.append_error(path, error or OSError("it cannot be looked at"))
            return
        known = before.known(path, status)
        if stat.S_ISREG(status.st_mode) and (not known or path in before.hot):
            number = self._links.get(status.st_ino) if status.st_nlink > 1 else None
            if number is None:
                copied = self._copy(path)
                if copied is None:
                    return
                status, number = copied
                if status.st_nlink > 1:
                    self._links[status.st_ino] = number
            result.staged[path] = number
        if known:
            if path in before.xattrs:
                result.xattrs[path] = before.xattrs[path]
            if path in before.targets:
                result.targets[path] = before.targets[path]
        else:
            try:
                read_details(self._beneath, path, status.st_mode, result.xattrs, result.targets)
            except OSError as problem:
                result.errors[path] = problem
        result.listing.append(path, status)

    def _copy(self, path: bytes) -> tuple[os.stat_result, int] | None:
        """Copy one live file; its state and the copy's number, or None if it vanished or could not be read (noted)."""
        for attempt in range(_TRIES):
            try:
                descriptor = open_live(self._beneath.name(path))
            except FileNotFoundError:
                self.result.gone.add(path)
                return None
            except OSError as error:
                self.result.listing.append_error(path, error)
                return None
            try:
                before = os.fstat(descriptor)
                number = self._staging.copy(descriptor, self._deadline)
                after = os.fstat(descriptor)
            except OSError as error:
                if error.errno in STAGING_FAILED:
                    raise
                self.result.listing.append_error(path, error)
                return None
            finally:
                os.close(descriptor)
            if same(pack(before), pack(after)):
                break
            if attempt + 1 < _TRIES:
                self._staging.drop(number)
            else:
                self.result.unsteady.append(path)
                self._staging.trim(number, before.st_size)
        self.result.copied_bytes += disk_bytes(before)
        return before, number


def find_missed(root: Path, instant: Instant, instant_ns: int) -> Iterator[bytes]:
    """Walk the live tree, and yield what has not changed since `instant_ns` and yet is not as the instant says.

    It changed before, and nobody noticed. What has changed since says nothing: its ctime is younger.
    """
    found = 0
    moved = b"\0"  # nothing below this can be judged: the directory was put there later
    device = instant.listing.device
    tree = DirectoryView(root, live=True)
    for path, status, _ in walk_directory(os.fsencode(root), live=True):
        if status is None or status.st_dev != device or path.startswith(moved):
            continue
        known = instant.listing.find(path)
        if status.st_ctime_ns >= instant_ns - _TICK_NS:
            is_same = known is not None and instant.listing.identity(known)[0] == status.st_ino
            if stat.S_ISDIR(status.st_mode) and path and not is_same:
                moved = path + b"/"
            continue
        if known is None or not (instant.listing.is_error(known) or _is_still(known, status, tree, path, instant)):
            yield path
            found += 1
            if found >= _MOST_MISSED:
                return


def _is_still(known: bytes, status: os.stat_result, tree: DirectoryView, path: bytes, instant: Instant) -> bool:
    """Whether an entry is as `known`, in all that a recovery point holds of it."""
    packed = pack(status)
    if same(known, packed):
        return True
    if not same_but_ctime(known, packed):
        return False
    try:
        # `chattr` changes nothing but ctime, and is not reported. A write would have changed mtime, too.
        return tree.xattrs(path, status.st_mode) == instant.xattrs.get(path, {})
    except OSError:
        return False
