#!/usr/bin/env python3
"""Look at trees and databases for the demo, without any code of trinity-snap.

    demo_check.py list TREE [UNDER …]
        prints a line per file: type, mode, owner, time, size, checksum, attributes, hard links, name
    demo_check.py databases WORKSPACE PUBLIC
        are both databases whole, without gaps, and not behind the other volume?

`databases` copies before it opens, and prints the number of transactions found.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


def main() -> int:
    """Do what the command line says."""
    match sys.argv[1:]:
        case ["list", tree, *under]:
            for line in listing(os.fsencode(tree), [os.fsencode(name) for name in under] or [b""]):
                print(line)
            return 0
        case ["databases", workspace, public]:
            print(databases(Path(workspace), Path(public)))
            return 0
    print(__doc__, file=sys.stderr)
    return 2


def listing(tree: bytes, under: list[bytes]) -> Iterator[str]:
    """Give a line for everything below `tree`/`under`, in a stable order; hard links share a group number."""
    groups: dict[tuple[int, int], int] = {}
    for start in under:
        for path in _walk(os.path.join(tree, start) if start else tree):
            status = os.lstat(path)
            kind = stat.filemode(status.st_mode)
            size, content = 0, "-"
            if stat.S_ISREG(status.st_mode):
                size = status.st_size
                with open(path, "rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
            elif stat.S_ISLNK(status.st_mode):
                content = repr(os.readlink(path))
            attributes = {
                name: os.getxattr(path, name, follow_symlinks=False)
                for name in sorted(os.listxattr(path, follow_symlinks=False))
            }
            group = "-"
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                group = str(groups.setdefault((status.st_dev, status.st_ino), len(groups)))
            owner = f"{status.st_uid}:{status.st_gid}"
            name = repr(os.path.relpath(path, tree))
            yield f"{kind} {owner} {status.st_mtime_ns} {size} {content} {attributes} {group} {name}"


def _walk(path: bytes) -> Iterator[bytes]:
    yield path
    if os.path.isdir(path) and not os.path.islink(path):
        for name in sorted(os.listdir(path)):
            yield from _walk(os.path.join(path, name))


def databases(workspace: Path, public: Path) -> int:
    """Check both databases, give the number of their transactions, or exit with a message."""
    total = 0
    for mode in ("wal", "delete"):
        with tempfile.TemporaryDirectory() as scratch:
            for file in workspace.glob(f"data/{mode}.db*"):
                shutil.copy(file, scratch)
            database = sqlite3.connect(Path(scratch) / f"{mode}.db")
            verdict = database.execute("PRAGMA integrity_check").fetchone()[0]
            count, newest = database.execute("SELECT count(*), coalesce(max(number), 0) FROM log").fetchone()
            database.close()
        committed = int((public / f"{mode}.committed").read_text() or 0)
        if verdict != "ok":
            raise SystemExit(f"{workspace}: {mode}.db is damaged: {verdict}")
        if count != newest:
            raise SystemExit(f"{workspace}: {mode}.db has {count} transactions, but the newest is {newest}")
        if committed > newest:
            raise SystemExit(f"{workspace}: {mode}.db ends at {newest}, but {committed} had been committed")
        total += count
    return total


if __name__ == "__main__":
    sys.exit(main())
