"""What in a live tree differs from a recovery point: the basis of a restore in place."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from trinity_snap.errors import RestoreRefused
from trinity_snap.repository.manifest import Entry, is_below, sort_key
from trinity_snap.restore.content_check import content_matches, open_quietly
from trinity_snap.restore.directories import DirectoryCache, list_names, shown
from trinity_snap.restore.metadata import differences, read_xattrs
from trinity_snap.restore.names import is_ours
from trinity_snap.restore.order import checked_order
from trinity_snap.restore.source import PointSource
from trinity_snap.restore.system import is_snapshot_store

__all__ = ["Difference", "compare_trees", "link_groups", "walk_live"]

_NO_GROUP: frozenset[bytes] = frozenset()


@dataclass
class Difference:
    """Paths to add, to replace and to remove, each with all below it, and directories whose own metadata must be set.

    `directories` are those that stay: path to entry. `kept` counts entries that are right already.
    """

    add: list[bytes] = field(default_factory=list)
    replace: list[bytes] = field(default_factory=list)
    remove: list[bytes] = field(default_factory=list)
    directories: dict[bytes, Entry] = field(default_factory=dict)
    kept: int = 0
    files: int = 0
    bytes: int = 0


def compare_trees(
    source: PointSource,
    entries: Callable[[], Iterable[Entry]],
    holder: int,
    root_name: bytes,
    *,
    content: bool,
) -> Difference:
    """Compare the live tree `root_name` in the open directory `holder` with the entries that `entries` gives.

    With `content` every file that looks the same is read; else size, time and the other metadata decide. Raise RestoreRefused
    if another filesystem is mounted inside the tree, or the tree's own entry is no directory.
    """
    cache = DirectoryCache(holder, root_name)
    try:
        return _compare(source, entries, cache, content)
    finally:
        cache.close()


def _compare(
    source: PointSource, entries: Callable[[], Iterable[Entry]], cache: DirectoryCache, content: bool
) -> Difference:
    wanted_groups = _wanted_groups(entries())
    live_groups = link_groups(cache)
    result = Difference()
    above: list[Entry] = []
    skip_live: bytes | None = None
    new: bytes | None = None  # the path being added or replaced; all below it is new
    live = walk_live(cache)
    have = next(live, None)

    rewritten: set[bytes] = set()

    def touch(path: bytes) -> None:
        # What is in a directory that stays was looked at just after it, so it is still among those above.
        for directory in reversed(above):
            if directory.path == path:
                result.directories[path] = directory
                return

    for entry in checked_order(entries()):
        key = sort_key(entry.path)
        while have is not None and sort_key(have[0]) < key:
            if skip_live is None or not is_below(have[0], skip_live):
                skip_live = have[0]
                result.remove.append(have[0])
                touch(have[0].rpartition(b"/")[0])
            have = next(live, None)
        while above and not is_below(entry.path, above[-1].path):
            above.pop()
        found = None
        if have is not None and have[0] == entry.path:
            found = have[1]
            have = next(live, None)
            if skip_live is not None and is_below(entry.path, skip_live):
                found = None
        if new is not None and is_below(entry.path, new):
            _count(result, entry)
            continue
        new = None
        if found is None:
            if entry.type == "s":
                continue
            new = entry.path
            result.add.append(new)
            touch(new.rpartition(b"/")[0])
            _count(result, entry)
        elif entry.type == "d" and stat.S_ISDIR(found.st_mode):
            above.append(entry)
            if differences(entry, found, read_xattrs(cache.get(entry.path)), None):
                touch(entry.path)
            else:
                result.kept += 1
        elif entry.type == "s" and stat.S_ISSOCK(found.st_mode):
            result.kept += 1
        else:
            first = entry.target if entry.type == "h" else entry.path
            same = wanted_groups.get(first, _NO_GROUP) == live_groups.get(entry.path, _NO_GROUP)
            same = same and first not in rewritten
            if same and _same(source, cache, entry, found, content):
                result.kept += 1
            else:
                new = entry.path
                rewritten.add(new)
                if not entry.path:
                    raise RestoreRefused("The root of the volume is no directory.")
                (result.remove if entry.type == "s" else result.replace).append(new)
                if stat.S_ISDIR(found.st_mode):
                    skip_live = entry.path
                touch(new.rpartition(b"/")[0])
                _count(result, entry)
    while have is not None:
        if skip_live is None or not is_below(have[0], skip_live):
            skip_live = have[0]
            result.remove.append(have[0])
            touch(have[0].rpartition(b"/")[0])
        have = next(live, None)
    return result


def _count(result: Difference, entry: Entry) -> None:
    if entry.type == "f":
        result.files += 1
        result.bytes += sum(length for _, length in entry.extents) if entry.extents else entry.size


def _same(source: PointSource, cache: DirectoryCache, entry: Entry, found: os.stat_result, content: bool) -> bool:
    directory, name = cache.place(entry.path)
    if entry.type == "h":
        return True  # the first name stands for all of them, and their group is the same
    if entry.type == "f" and stat.S_ISREG(found.st_mode):
        descriptor = open_quietly(name, directory)
        try:
            if differences(entry, found, read_xattrs(descriptor), None):
                return False
            return not content or content_matches(source, descriptor, entry)
        finally:
            os.close(descriptor)
    if differences(entry, found, read_xattrs(b"/proc/self/fd/%d/%s" % (directory, name)), None):
        return False
    return entry.type != "l" or os.readlink(name, dir_fd=directory) == entry.target


def _wanted_groups(entries: Iterable[Entry]) -> dict[bytes, frozenset[bytes]]:
    """Of each file with several names: its first name to all its names."""
    groups: dict[bytes, set[bytes]] = {}
    for entry in entries:
        if entry.type == "h":
            groups.setdefault(entry.target, {entry.target}).add(entry.path)
    return {first: frozenset(names) for first, names in groups.items()}


def link_groups(cache: DirectoryCache) -> dict[bytes, frozenset[bytes]]:
    """Of each live file with several names: each name to all names in the tree."""
    groups: dict[int, set[bytes]] = {}
    links: dict[int, int] = {}
    for path, found in walk_live(cache):
        if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
            groups.setdefault(found.st_ino, set()).add(path)
            links[found.st_ino] = found.st_nlink
    result: dict[bytes, frozenset[bytes]] = {}
    for inode, paths in groups.items():
        # A name outside the tree makes the group one that no manifest has, so that the file is written anew.
        names = frozenset(paths if len(paths) == links[inode] else paths | {b"/"})
        for path in paths:
            result[path] = names
    return result


def walk_live(cache: DirectoryCache) -> Iterator[tuple[bytes, os.stat_result]]:
    """The live tree in manifest order, without what restores themselves keep at its top."""
    holder, name = cache.place(b"")
    root = os.stat(name, dir_fd=holder, follow_symlinks=False)
    yield b"", root
    if not stat.S_ISDIR(root.st_mode):
        return
    at_top = cache.get(b"")
    top = [each for each in list_names(at_top) if not is_ours(each) and not is_snapshot_store(each, at_top)]
    stack: list[tuple[bytes, list[bytes]]] = [(b"", sorted(top, reverse=True))]
    while stack:
        directory, names = stack[-1]
        if not names:
            stack.pop()
            cache.drop(directory)
            continue
        name = names.pop()
        path = directory + b"/" + name if directory else name
        found = os.stat(name, dir_fd=cache.get(directory), follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode) and found.st_dev != root.st_dev:
            raise RestoreRefused(
                f"Another filesystem is mounted at {shown(path)} inside the volume.",
                untouched="Nothing was changed.",
                next_step="Unmount it, or restore with --to into a directory.",
            )
        yield path, found
        if stat.S_ISDIR(found.st_mode):
            stack.append((path, sorted(list_names(cache.get(path)), reverse=True)))
