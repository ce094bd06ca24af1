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

__all__ = ["DirectoryView", "SourceView", "WalkItem", "read_xattrs", "walk_directory"]

_SECOND_COPIES = ("trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT")  # how XFS shows ACLs once more
_OWN = re.compile(rb"\.trinity-snap-(restore|previous)-[0-9a-f]{16}(-\d+)?")
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
        self._root = os.fsencode(root)
        self._beneath = Beneath(self._root) if live else None

    def walk(self) -> Iterator[WalkItem]:
        """Walk the tree, depth first, siblings by name."""
        return walk_directory(self._root, live=self._beneath is not None)

    def open(self, path: bytes) -> int:
        """Open the file at `path` without following a symbolic link."""
        name = self._absolute(path)
        try:
            return os.open(name, _OPEN_FLAGS | os.O_NOATIME)
        except PermissionError:
            return os.open(name, _OPEN_FLAGS)

    def xattrs(self, path: bytes, mode: int) -> dict[bytes, bytes]:
        """Read the extended attributes of the entry itself, not of what a link points to."""
        return read_xattrs(self._absolute(path))

    def readlink(self, path: bytes) -> bytes:
        """Read the symbolic link at `path`."""
        return os.readlink(self._absolute(path))

    def lstat(self, path: bytes) -> os.stat_result:
        """The status of the entry at `path` as it is now."""
        return os.lstat(self._absolute(path))

    def _absolute(self, path: bytes) -> bytes:
        if self._beneath is not None:
            return self._beneath.name(path)
        return self._root + b"/" + path if path else self._root


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


def walk_directory(root: bytes, *, live: bool = False) -> Iterator[WalkItem]:
    """Yield the entries of the tree at `root` in manifest order.

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
    yield WalkItem(b"", root_stat)
    if not stat.S_ISDIR(root_stat.st_mode):
        return
    device = root_stat.st_dev
    beneath = Beneath(root) if live else None
    # A stack of sorted listings: prefix of the paths, what is left of the listing, and the directory's descriptor or -1.
    stack: list[tuple[bytes, Iterator[os.DirEntry[bytes]], int]] = []
    try:
        listing, descriptor = _listing(root, b"", beneath)
        stack.append((b"", iter(_without_own(listing)), descriptor))
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
                        inner, opened = _listing(entry.path, path, beneath)
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


def _listing(directory: bytes, path: bytes, beneath: Beneath | None) -> tuple[list[os.DirEntry[bytes]], int]:
    """The entries by name, each name once, and the descriptor by which they are reached (-1: by their path)."""
    descriptor = -1
    if beneath is not None:
        descriptor = beneath.directory(path)
        directory = b"/proc/self/fd/%d" % descriptor
    try:
        with os.scandir(directory) as entries:
            # A directory that changes while it is read may show a name twice.
            unique = {entry.name: entry for entry in entries}
        return sorted(unique.values(), key=_name), descriptor
    except BaseException:
        if descriptor >= 0:
            os.close(descriptor)
        raise


def _without_own(listing: list[os.DirEntry[bytes]]) -> list[os.DirEntry[bytes]]:
    """Leave out what a restore keeps beside or in a volume: it is no data of the agent's."""
    return [entry for entry in listing if _OWN.fullmatch(entry.name) is None]


def _name(entry: os.DirEntry[bytes]) -> bytes:
    return entry.name
