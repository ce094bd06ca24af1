"""What a snapshot offers the shipper: a tree to walk, and a way to read what is in it."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from trinity_snap.errors import SnapshotError
from trinity_snap.snapshot.beneath import Beneath

__all__ = ["DirectoryView", "SourceView", "WalkItem", "is_own", "read_xattrs", "walk_directory"]

_SECOND_COPIES = ("trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT")  # how XFS shows ACLs once more
_OWN = re.compile(rb"\.trinity-snap-(restore|previous)-[0-9a-f]{16}(-\d+)?(/|\Z)")
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class WalkItem(NamedTuple):
    """One entry of a tree: its path relative to the root (`b""` for the root), and `lstat` of it.

    `error` is None, or why the entry could not be looked at; `stat` is None then.
    """

    path: bytes
    stat: os.stat_result | None
    error: OSError | None = None


class SourceView(Protocol):
    """One source (a volume or a path) as it was at the instant of the snapshot."""

    def walk(self) -> Iterator[WalkItem]:
        """Every entry, in the order of the manifest (docs/format.md section 9), the root first."""

    def open(self, path: bytes) -> int:
        """A file descriptor to read the regular file at `path`. Raise OSError if there is none to be had."""

    def xattrs(self, path: bytes, mode: int) -> dict[bytes, bytes]:
        """The extended attributes of the entry at `path`, whose `st_mode` is `mode`."""

    def readlink(self, path: bytes) -> bytes:
        """The target of the symbolic link at `path`."""


class DirectoryView:
    """A plain directory tree, or a single regular file: a mounted snapshot, a tree at rest, or, if `live`, one in use.

    In a live tree nothing is reached through a symbolic link, not even through one that takes a directory's place meanwhile.
    A live view is for one thread.
    """

    def __init__(self, root: Path, *, live: bool = False) -> None:
        self.root = root
        self._live = live
        self._tree = Beneath(os.fsencode(root), at_rest=not live)

    def walk(self) -> Iterator[WalkItem]:
        """Walk the tree, depth first, siblings by name."""
        return walk_directory(os.fsencode(self.root), live=self._live)

    def open(self, path: bytes) -> int:
        """Open the file at `path` without following a symbolic link."""
        name = self._tree.name(path)
        try:
            return os.open(name, _OPEN_FLAGS | os.O_NOATIME)
        except PermissionError:
            return os.open(name, _OPEN_FLAGS)

    def xattrs(self, path: bytes, mode: int) -> dict[bytes, bytes]:
        """Read the extended attributes of the entry itself, not of what a link points to."""
        return read_xattrs(self._tree.name(path))

    def readlink(self, path: bytes) -> bytes:
        """Read the symbolic link at `path`."""
        return os.readlink(self._tree.name(path))

    def lstat(self, path: bytes) -> os.stat_result:
        """The status of the entry at `path` as it is now."""
        return os.lstat(self._tree.name(path))


def read_xattrs(path: bytes) -> dict[bytes, bytes]:
    """Return all extended attributes of `path` itself; empty where the filesystem has none. Raise OSError otherwise."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    if not names:
        return {}
    return {
        os.fsencode(name): os.getxattr(path, name, follow_symlinks=False)
        for name in sorted(names)
        if name not in _SECOND_COPIES
    }


def is_own(path: bytes) -> bool:
    """Whether this is what a restore keeps beside or in a volume: it is no data of the agent's, and no view shows it."""
    return _OWN.match(path) is not None


def walk_directory(root: bytes, *, live: bool = False, start: bytes = b"") -> Iterator[WalkItem]:
    """Yield the entries of the tree at `root` in manifest order; with `start`, those at and below that path in it.

    Siblings come sorted by name and a directory is followed at once by its content. Entries on another filesystem
    than the root are left out, except the mount points themselves. An entry that vanishes is left out; one that
    cannot be looked at is yielded with its error. With `live` no symbolic link is followed that takes a directory's place
    meanwhile. Raise SnapshotError if the root itself cannot be read.
    """
    try:
        root_stat = os.lstat(root)
    except OSError as error:
        raise SnapshotError(
            f"{os.fsdecode(root)} cannot be read: {error.strerror}.", next_step="See that it exists."
        ) from error
    device = root_stat.st_dev
    beneath = Beneath(root, at_rest=not live)
    if start:
        try:
            start_stat = os.lstat(beneath.name(start))
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                yield WalkItem(start, None, error)
            return
    else:
        start_stat = root_stat
    yield WalkItem(start, start_stat)
    if not stat.S_ISDIR(start_stat.st_mode) or start_stat.st_dev != device:
        return
    # A stack of sorted listings: prefix of the paths, what is left of the listing, and the directory's descriptor or -1.
    stack: list[tuple[bytes, Iterator[os.DirEntry[bytes]], int]] = []
    try:
        try:
            listing, descriptor = _listing(beneath, start)
        except OSError as error:
            if not start:
                raise
            if not isinstance(error, FileNotFoundError):
                yield WalkItem(start, None, error)
            return
        if not start:
            listing = [entry for entry in listing if not is_own(entry.name)]
        stack.append((start + b"/" if start else b"", iter(listing), descriptor))
        while stack:
            prefix, entries, descriptor = stack[-1]
            for entry in entries:
                path = prefix + entry.name
                try:
                    entry_stat = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    yield WalkItem(path, None, error)
                    continue
                yield WalkItem(path, entry_stat)
                if stat.S_ISDIR(entry_stat.st_mode) and entry_stat.st_dev == device:
                    try:
                        inner, opened = _listing(beneath, path)
                    except FileNotFoundError:
                        continue
                    except OSError as error:
                        yield WalkItem(path, None, error)
                        continue
                    stack.append((path + b"/", iter(inner), opened))
                    break
            else:
                stack.pop()
                if descriptor >= 0:
                    os.close(descriptor)
    finally:
        for _, _, descriptor in stack:
            if descriptor >= 0:
                os.close(descriptor)


def _listing(tree: Beneath, path: bytes) -> tuple[list[os.DirEntry[bytes]], int]:
    """The entries of a directory by name, each name once, and the descriptor by which they are reached (-1: by their path)."""
    descriptor = tree.held(path)
    directory = tree.name(path) if descriptor < 0 else b"/proc/self/fd/%d" % descriptor
    try:
        with os.scandir(directory) as entries:
            # A directory that changes while it is read may show a name twice.
            unique = {entry.name: entry for entry in entries}
        return sorted(unique.values(), key=_name), descriptor
    except BaseException:
        if descriptor >= 0:
            os.close(descriptor)
        raise


def _name(entry: os.DirEntry[bytes]) -> bytes:
    return entry.name
