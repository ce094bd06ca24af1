"""Reading a restored tree again and comparing it with what the recovery point says: names, metadata and every byte."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable

from trinity_snap.errors import RestoreError
from trinity_snap.progress import Progress
from trinity_snap.repository.manifest import Entry, is_below
from trinity_snap.restore.content_check import ContentChecks, check_file, differs, unreadable
from trinity_snap.restore.directories import DirectoryCache, shown
from trinity_snap.restore.metadata import differences, read_xattrs
from trinity_snap.restore.order import checked_order
from trinity_snap.restore.source import PointSource
from trinity_snap.restore.tree import TreeResult

__all__ = ["check_tree"]


def check_tree(
    source: PointSource,
    holder: int,
    root_name: bytes,
    entries: Iterable[Entry],
    written: TreeResult,
    progress: Progress,
    elsewhere: Callable[[Entry], bool] | None = None,
) -> int:
    """Compare the tree `root_name` in the open directory `holder` with the entries that it was written from.

    What `written` lists as lost, skipped or damaged is excused. Regular files of which `elsewhere` says that they are
    compared elsewhere are left out, but for their being there; return how many these are. Raise RestoreError naming the
    first thing that differs.
    """
    left_out = 0
    cache = DirectoryCache(holder, root_name)
    missing = written.skipped | written.damaged.keys()
    expected: list[tuple[bytes, int]] = []  # of each open directory: its path, and how many names are due
    losses = written.losses
    at = b""
    try:
        with ContentChecks(holder) as contents:
            for entry in checked_order(entries):
                path = at = entry.path
                kind = entry.type
                while expected and not is_below(path, expected[-1][0]):
                    _check_count(cache, *expected.pop())
                if path in missing:
                    continue
                if expected:
                    expected[-1] = (expected[-1][0], expected[-1][1] + 1)
                wrong: list[str] = []
                if kind == "f":
                    if elsewhere is not None and elsewhere(entry):
                        left_out += 1
                    else:
                        check_file(source, cache, entry, losses, contents)
                    progress.advance(entry.size)
                elif kind == "h":
                    target_directory, target = cache.place(entry.target)
                    first = os.stat(target, dir_fd=target_directory, follow_symlinks=False)
                    directory, name = cache.place(path)
                    second = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    same = (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)
                    wrong = [] if same else ["file that it names"]
                else:
                    directory, name = cache.place(path)
                    wrong = _compare_other(cache, entry, directory, name, written)
                    if kind == "d":
                        expected.append((path, 0))
                if wrong:
                    raise differs(path, wrong)
            while expected:
                _check_count(cache, *expected.pop())
            contents.finish()
    except OSError as error:
        raise unreadable(at, error) from error
    finally:
        cache.close()
    return left_out


def _compare_other(cache: DirectoryCache, entry: Entry, directory: int, name: bytes, written: TreeResult) -> list[str]:
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if entry.type == "d":
        xattrs = read_xattrs(cache.get(entry.path)) if stat.S_ISDIR(found.st_mode) else {}
    else:
        xattrs = read_xattrs(b"/proc/self/fd/%d/%s" % (directory, name))
    wrong = differences(entry, found, xattrs, written.losses)
    if not wrong and entry.type == "l" and os.readlink(name, dir_fd=directory) != entry.target:
        wrong = ["target"]
    return wrong


def _check_count(cache: DirectoryCache, path: bytes, due: int) -> None:
    # Every name that is due was seen, so the same number means the same names.
    if len(os.listdir(cache.get(path))) != due:
        raise RestoreError(f"What was restored is not what the recovery point holds: {shown(path)} has other entries.")
    cache.drop(path)
