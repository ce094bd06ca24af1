"""Finding SQLite databases in a restored tree, and asking SQLite whether each is sound.

A database with a write-ahead log or a rollback journal is checked in a copy, which SQLite may recover as after a crash; any
other is opened where it is, as something that nothing changes. What is restored stays as it came back.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from time import monotonic

from trinity_snap.drill.result import DatabaseCheck
from trinity_snap.restore.directories import remove_tree, shown

__all__ = ["check_databases", "find_databases"]

_HEADER = b"SQLite format 3\0"
_MINIMUM_BYTES = 512
_SUPER_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")
_COPY_BYTES = 1 << 20
_ROOM_LEFT_BYTES = 64 << 20
_SHOWN = 2000
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def find_databases(root: Path) -> Iterator[tuple[Path, bytes]]:
    """Each regular file below `root` that begins as SQLite's do: the directory that it is in, and its name there.

    Links are not followed. Files with several names are given once.
    """
    seen: set[tuple[int, int]] = set()
    for top, directories, names, directory in os.fwalk(os.fsencode(root), follow_symlinks=False):
        directories.sort()
        for name in sorted(names):
            try:
                descriptor = os.open(name, _READ, dir_fd=directory)
            except OSError:
                continue
            try:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode) or found.st_size < _MINIMUM_BYTES:
                    continue
                if (found.st_dev, found.st_ino) in seen or os.pread(descriptor, len(_HEADER), 0) != _HEADER:
                    continue
                seen.add((found.st_dev, found.st_ino))
            finally:
                os.close(descriptor)
            yield Path(os.fsdecode(top)), name


def check_databases(root: Path, work: Path, ignore: Sequence[str], seconds: float) -> list[DatabaseCheck]:
    """Check every database below `root`, whose first part of each path is the volume; those that `ignore` fits are left out.

    `work` is an empty directory for copies. `seconds` is for all of them together; what is not done then is unchecked.
    """
    until = monotonic() + seconds
    checks = []
    for directory, name in find_databases(root):
        path = os.fsencode(directory.relative_to(root)) + b"/" + name
        inside = os.fsdecode(path.partition(b"/")[2])
        if any(fnmatchcase(inside, pattern) for pattern in ignore):
            continue
        checks.append(_check(directory, name, shown(path), work, until - monotonic()))
    return checks


def _check(directory: Path, name: bytes, path: str, work: Path, seconds: float) -> DatabaseCheck:
    if seconds <= 0:
        return DatabaseCheck(path, "unchecked", "The time for checking databases was over.")
    beside = {suffix: _side_file(directory, name + suffix) for suffix in (b"-wal", b"-journal")}
    journal = beside[b"-journal"]
    if journal and _has_super_journal(directory / os.fsdecode(name + b"-journal"), journal):
        return DatabaseCheck(path, "unchecked", "Its journal is part of a transaction over several databases.")
    if not any(beside.values()):
        return _ask(directory, name, path, "immutable", seconds)
    place = work / "database"
    os.mkdir(place, 0o700)
    try:
        names = [name, *(name + suffix for suffix, size in beside.items() if size)]
        if reason := _copy(directory, names, place):
            return DatabaseCheck(path, "unchecked", reason)
        return _ask(place, name, path, "recover", seconds)
    finally:
        holder = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(holder, os.fsencode(place.name))
        finally:
            os.close(holder)


def _side_file(directory: Path, name: bytes) -> int:
    """The length of a regular file, 0 if there is none: a link beside a database is nothing that SQLite may follow."""
    try:
        found = os.stat(directory / os.fsdecode(name), follow_symlinks=False)
    except OSError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def _has_super_journal(journal: Path, size: int) -> bool:
    """Whether a journal names another file: SQLite would look at it, and may remove it, wherever that is."""
    with journal.open("rb") as file:
        file.seek(max(0, size - len(_SUPER_JOURNAL_MAGIC)))
        return file.read() == _SUPER_JOURNAL_MAGIC


def _copy(directory: Path, names: Sequence[bytes], place: Path) -> str:
    """Copy files to an empty directory. Return why not, if there is no room."""
    paths = [(directory / os.fsdecode(name), place / os.fsdecode(name)) for name in names]
    needed = sum(source.stat(follow_symlinks=False).st_blocks * 512 for source, _ in paths)
    room = os.statvfs(place)
    if needed + _ROOM_LEFT_BYTES > room.f_bavail * room.f_frsize:
        return "There is no room for a copy, which SQLite needs to recover it."
    for source, destination in paths:
        with open(os.open(source, _READ), "rb") as reader, destination.open("xb") as writer:
            size = os.fstat(reader.fileno()).st_size
            while piece := reader.read(_COPY_BYTES):
                if piece.count(0) == len(piece):
                    writer.seek(len(piece), os.SEEK_CUR)  # holes stay holes
                else:
                    writer.write(piece)
            writer.truncate(size)
    return ""


def _ask(directory: Path, name: bytes, path: str, how: str, seconds: float) -> DatabaseCheck:
    """Let a process of its own ask SQLite: what the file holds is the agent's, and may make SQLite crash or never end."""
    checker = Path(__file__).with_name("ask_sqlite.py")
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(checker), how, name],
            cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False,
            env={"PATH": "/usr/bin:/bin", "SQLITE_TMPDIR": str(directory)},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return DatabaseCheck(path, "unchecked", "The time for checking databases was over.")
    said = done.stdout.decode("utf-8", "replace").strip()[:_SHOWN]
    if done.returncode == 0:
        return DatabaseCheck(path, "sound")
    if done.returncode in (3, 4):
        return DatabaseCheck(path, "damaged" if done.returncode == 3 else "unchecked", said)
    return DatabaseCheck(path, "unchecked", f"SQLite could not look at it: it ended with {done.returncode}.")
