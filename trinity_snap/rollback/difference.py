"""What differs between a live tree and the same tree in a local snapshot, where files cannot share their data.

A snapshot of a block device shows the same inodes as the live filesystem. A file that has the same inode, and was not changed
since by its ctime, which the kernel sets and nobody can set back, is the same and is not read. All others are compared.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from trinity_snap.repository.manifest import Entry, is_below, sort_key
from trinity_snap.restore.difference import Difference, link_groups, walk_live
from trinity_snap.restore.directories import DirectoryCache
from trinity_snap.restore.metadata import read_xattrs
from trinity_snap.snapshot.staging import data_extents

__all__ = ["compare"]

_DOUBTFUL_NS = 2_000_000_000  # a change in the same tick of the clock as the snapshot leaves no trace in the ctime
_PIECE = 1 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOATIME
_NO_GROUP: frozenset[bytes] = frozenset()

_Walk = Iterator[tuple[bytes, os.stat_result]]


class _Tree:
    """One of the two, open."""

    def __init__(self, root: Path) -> None:
        self._parent = os.open(root.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.cache = DirectoryCache(self._parent, os.fsencode(root.name))

    def close(self) -> None:
        self.cache.close()
        os.close(self._parent)

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        directory, name = self.cache.place(path)
        return read_xattrs(b"/proc/self/fd/%d/%s" % (directory, name))

    def open(self, path: bytes) -> int:
        directory, name = self.cache.place(path)
        return os.open(name, _READ, dir_fd=directory)

    def link(self, path: bytes) -> bytes:
        directory, name = self.cache.place(path)
        return os.readlink(name, dir_fd=directory)


def compare(then: Path, live: Path, created_ns: int) -> Difference:
    """What has to be added, replaced and removed to make the directory `live` what `then` is, a snapshot of that instant.

    Files with several names are replaced with all of them. Raise OSError; RestoreRefused if another filesystem is
    mounted inside.
    """
    wanted, have = _Tree(then), _Tree(live)
    try:
        return _Comparison(wanted, have, created_ns - _DOUBTFUL_NS).run()
    finally:
        wanted.close()
        have.close()


class _Comparison:
    def __init__(self, wanted: _Tree, have: _Tree, sure_ns: int) -> None:
        self._wanted = wanted
        self._have = have
        self._sure_ns = sure_ns
        self._wanted_groups = link_groups(wanted.cache)
        self._live_groups = link_groups(have.cache)
        self._differs: dict[frozenset[bytes], bool] = {}
        self.result = Difference()

    def run(self) -> Difference:
        """Go through both trees, which have the same order, side by side."""
        live: _Walk = walk_live(self._have.cache)
        there = next(live, None)
        gone: bytes | None = None
        new: bytes | None = None
        for path, wanted in walk_live(self._wanted.cache):
            key = sort_key(path)
            while there is not None and sort_key(there[0]) < key:
                gone = self._remove(there[0], gone)
                there = next(live, None)
            found = None
            if there is not None and there[0] == path:
                # What is in a directory that is replaced goes with it.
                found = None if gone is not None and is_below(path, gone) else there[1]
                there = next(live, None)
            if new is not None and is_below(path, new):
                continue
            new = None
            if found is None:
                new = path
                self.result.add.append(path)
                self._touch(path)
            elif stat.S_ISDIR(wanted.st_mode) and stat.S_ISDIR(found.st_mode):
                self._directory(path, wanted, found)
            elif self._same(path, wanted, found):
                self.result.kept += 1
            else:
                new = path
                self.result.replace.append(path)
                self._touch(path)
                if stat.S_ISDIR(found.st_mode):
                    gone = path
        while there is not None:
            gone = self._remove(there[0], gone)
            there = next(live, None)
        return self.result

    def _remove(self, path: bytes, gone: bytes | None) -> bytes:
        """Remove a path, unless it goes with one that was removed. Return the path with which what follows may go."""
        if gone is not None and is_below(path, gone):
            return gone
        self.result.remove.append(path)
        self._touch(path)
        return path

    def _touch(self, path: bytes) -> None:
        """A change in a directory changes its time: it has to get its own back."""
        above = path.rpartition(b"/")[0]
        if path and above not in self.result.directories:
            directory, name = self._wanted.cache.place(above)
            self.result.directories[above] = self._entry(above, os.stat(name, dir_fd=directory, follow_symlinks=False))

    def _directory(self, path: bytes, wanted: os.stat_result, found: os.stat_result) -> None:
        same = _metadata(wanted) == _metadata(found) and wanted.st_mtime_ns == found.st_mtime_ns
        if not same or self._wanted.xattrs(path) != self._have.xattrs(path):
            self.result.directories[path] = self._entry(path, wanted)
        else:
            self.result.kept += 1

    def _entry(self, path: bytes, found: os.stat_result) -> Entry:
        mode = stat.S_IMODE(found.st_mode)
        xattrs = self._wanted.xattrs(path)
        return Entry(path, "d", mode, found.st_uid, found.st_gid, found.st_mtime_ns, xattrs=xattrs)

    def _same(self, path: bytes, wanted: os.stat_result, found: os.stat_result) -> bool:
        group = self._wanted_groups.get(path, _NO_GROUP)
        if group != self._live_groups.get(path, _NO_GROUP):
            return False
        if group not in self._differs or not group:
            self._differs[group] = not self._same_alone(path, wanted, found)
        return not self._differs[group]

    def _same_alone(self, path: bytes, wanted: os.stat_result, found: os.stat_result) -> bool:
        if wanted.st_ino == found.st_ino and wanted.st_ctime_ns == found.st_ctime_ns < self._sure_ns:
            return True
        if _metadata(wanted) != _metadata(found) or wanted.st_mtime_ns != found.st_mtime_ns:
            return False
        if self._wanted.xattrs(path) != self._have.xattrs(path):
            return False
        if stat.S_ISLNK(wanted.st_mode):
            return self._wanted.link(path) == self._have.link(path)
        if not stat.S_ISREG(wanted.st_mode):
            return wanted.st_rdev == found.st_rdev
        return wanted.st_size == found.st_size and self._same_content(path, wanted.st_size)

    def _same_content(self, path: bytes, size: int) -> bool:
        one = self._wanted.open(path)
        try:
            other = self._have.open(path)
            try:
                # What is a hole in both is not read.
                extents = [*data_extents(one, size), *data_extents(other, size)]
                return all(_same_range(one, other, start, end) for start, end in extents)
            finally:
                os.close(other)
        finally:
            os.close(one)


def _same_range(one: int, other: int, start: int, end: int) -> bool:
    while start < end:
        piece = os.pread(one, min(_PIECE, end - start), start)
        if not piece or piece != _read_exactly(other, len(piece), start):
            return False
        start += len(piece)
    return True


def _metadata(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_mode, found.st_uid, found.st_gid


def _read_exactly(descriptor: int, length: int, offset: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    while len(data) < length and (more := os.pread(descriptor, length - len(data), offset + len(data))):
        data += more
    return data
