"""Reading a restored tree again and comparing it with what the recovery point says: names, metadata and every byte."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from trinity_snap.errors import RestoreError
from trinity_snap.progress import Progress
from trinity_snap.repository.manifest import Entry, is_below
from trinity_snap.restore.content import Layout, chunk_lengths
from trinity_snap.restore.directories import DirectoryCache, shown
from trinity_snap.restore.metadata import differences, read_xattrs
from trinity_snap.restore.order import checked_order
from trinity_snap.restore.source import PointSource
from trinity_snap.restore.tree import TreeResult

__all__ = ["check_tree", "content_matches", "open_quietly"]

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_LENGTHS_AT_ONCE = 8192


def open_quietly(name: bytes, directory: int) -> int:
    """Open a file for reading without changing its access time, where that is allowed. Links are not followed."""
    try:
        return os.open(name, _READ | os.O_NOATIME, dir_fd=directory)
    except PermissionError:
        return os.open(name, _READ, dir_fd=directory)


def check_tree(
    source: PointSource,
    holder: int,
    root_name: bytes,
    entries: Iterable[Entry],
    written: TreeResult,
    progress: Progress,
) -> None:
    """Compare the tree `root_name` in the open directory `holder` with the entries that it was written from.

    What `written` lists as lost, skipped or damaged is excused. Raise RestoreError naming the first thing that differs.
    """
    cache = DirectoryCache(holder, root_name)
    missing = written.skipped | written.damaged.keys()
    expected: list[tuple[bytes, int]] = []  # of each open directory: its path, and how many names are due
    losses = written.losses
    at = b""
    try:
        for entry in checked_order(entries):
            path = at = entry.path
            kind = entry.type
            while expected and not is_below(path, expected[-1][0]):
                _check_count(cache, *expected.pop())
            if path in missing:
                continue
            if expected:
                expected[-1] = (expected[-1][0], expected[-1][1] + 1)
            directory, name = cache.place(path)
            if kind == "f":
                descriptor = open_quietly(name, directory)
                try:
                    wrong = differences(entry, os.fstat(descriptor), read_xattrs(descriptor), losses)
                    if not wrong and not content_matches(source, descriptor, entry):
                        wrong = ["content"]
                finally:
                    os.close(descriptor)
                progress.advance(entry.size)
            elif kind == "h":
                target_directory, target = cache.place(entry.target)
                first = os.stat(target, dir_fd=target_directory, follow_symlinks=False)
                directory, name = cache.place(path)
                second = os.stat(name, dir_fd=directory, follow_symlinks=False)
                same = (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)
                wrong = [] if same else ["file that it names"]
            else:
                wrong = _compare_other(cache, entry, directory, name, written)
                if kind == "d":
                    expected.append((path, 0))
            if wrong:
                raise RestoreError(
                    f"What was restored is not what the recovery point holds: {shown(path)} has another"
                    f" {' and another '.join(wrong)}.",
                    next_step="Restore again; if this comes back, check the destination's disk.",
                )
        while expected:
            _check_count(cache, *expected.pop())
    except OSError as error:
        raise RestoreError(
            f"{shown(at)} could not be read again after it was restored: {error.strerror or error}."
        ) from error
    finally:
        cache.close()


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


def content_matches(source: PointSource, descriptor: int, entry: Entry) -> bool:
    """Whether an open file, which has the size that the entry says, holds exactly the entry's bytes; holes are zeros.

    Raise IntegrityError if the recovery point contradicts itself about the file.
    """
    chunks = entry.chunks
    if len(chunks) == 32 and not entry.extents:
        data = os.read(descriptor, entry.size)
        while len(data) < entry.size and (more := os.read(descriptor, entry.size - len(data))):
            data += more
        return source.chunk_id(data) == chunks
    if not chunks and not entry.size:
        return True
    if not _zero_outside(descriptor, entry):
        return False
    layout = Layout(entry)
    ids = entry.chunk_ids()
    taken = 0
    for start in range(0, len(ids), _LENGTHS_AT_ONCE):
        window = ids[start : start + _LENGTHS_AT_ONCE]
        lengths = chunk_lengths(source, window)
        for chunk_id in window:
            length = lengths[chunk_id]
            data = b"".join(_read_exactly(descriptor, place, size) for place, _, size in layout.take(length))
            if len(data) != length or source.chunk_id(data) != chunk_id:
                return False
            taken += length
    layout.finish(taken)
    return True


def _read_exactly(descriptor: int, offset: int, length: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    while len(data) < length and (more := os.pread(descriptor, length - len(data), offset + len(data))):
        data += more
    return data


def _zero_outside(descriptor: int, entry: Entry) -> bool:
    """Whether there are only zeros between the extents; holes are not read."""
    if not entry.extents:
        return True
    position = 0
    for offset, length in [*entry.extents, (entry.size, 0)]:
        while position < offset:
            try:
                start = os.lseek(descriptor, position, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole to the end
                return True
            if start >= offset:
                break
            piece = os.pread(descriptor, min(offset - start, 1 << 20), start)
            if not piece or piece.strip(b"\0"):
                return False
            position = start + len(piece)
        position = offset + length
    return True
