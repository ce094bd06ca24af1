#!/usr/bin/python3
"""A pretend agent for the demo: it fills its volumes as agents do, and goes on writing.

Home is the workspace volume; `public` and `shared-out` are other volumes. Two databases, one in each of
SQLite's journal modes, get one transaction after the other. After each commit the number of the transaction
goes to a file in another volume: a copy in which that file is ahead of its database is not of one instant.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
import threading
import time
from pathlib import Path

HOME = Path(os.environ.get("AGENT_HOME", "/home/developer"))
BORN = HOME / ".trinity/born"
HOLD = HOME / ".trinity/hold"
PAUSE_BETWEEN_COMMITS = 0.001
MEDIA_LIMIT = 64 << 20


def main() -> int:
    """Be born once, then write until told to stop."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while HOLD.exists():
        time.sleep(0.05)
    if not BORN.exists():
        be_born(random.Random(os.environ.get("AGENT_NAME", "agent")))
    for mode in ("wal", "delete"):
        threading.Thread(target=commit_for_ever, args=(mode,), daemon=True).start()
    return collect_media()


def be_born(source: random.Random) -> None:
    """Make the files that will not change: media, a source tree, and the odd ones."""
    for directory in ("content", "data", "src", ".trinity", "empty"):
        (HOME / directory).mkdir(exist_ok=True)
    for number in range(4):
        (HOME / f"content/film-{number}.bin").write_bytes(source.randbytes(6 << 20))
    for number in range(400):
        package = HOME / f"src/package{number % 20}"
        package.mkdir(exist_ok=True)
        lines = [f"value_{line} = {source.randrange(1000)}\n" for line in range(source.randrange(5, 200))]
        (package / f"module{number}.py").write_text("".join(lines))
    script = HOME / "src/run"
    script.write_text("#!/bin/sh\nexec python3 -m package0\n")
    script.chmod(0o750)
    (HOME / "src/run-too").hardlink_to(script)
    (HOME / "src/latest").symlink_to("package19")
    (HOME / "src/nowhere").symlink_to("/does/not/exist")
    with open(os.fsencode(HOME) + b"/src/caf\xe9 \n.txt", "wb") as odd:
        odd.write(b"a name that is not UTF-8\n")
    with open(HOME / "data/sparse.img", "wb") as sparse:
        sparse.write(b"start")
        sparse.seek(200 << 20)
        sparse.write(b"end")
    (HOME / ".env").write_text("SECRET=of the demo\n")
    (HOME / ".env").chmod(0o600)
    for place in ("public", "shared-out"):
        (HOME / place / "index.html").write_text(f"<h1>{source.random()}</h1>\n")
    os.utime(HOME / "src/run", ns=(1_000_000_000_123_456_789, 1_000_000_000_123_456_789))
    BORN.write_text("yes\n")


def commit_for_ever(mode: str) -> None:
    """Commit transactions 1, 2, 3, … to data/MODE.db; write the number of each to public/MODE.committed."""
    try:
        database = sqlite3.connect(HOME / f"data/{mode}.db", timeout=30)
        database.execute(f"PRAGMA journal_mode={mode}")
        database.execute("PRAGMA synchronous=NORMAL")
        database.execute("CREATE TABLE IF NOT EXISTS log (number INTEGER PRIMARY KEY, at REAL, text TEXT)")
        number = database.execute("SELECT coalesce(max(number), 0) FROM log").fetchone()[0]
        committed = (HOME / f"public/{mode}.committed").open("w")
        while True:
            number += 1
            with database:
                database.execute("INSERT INTO log VALUES (?, ?, ?)", (number, time.time(), "x" * (number % 300)))
            committed.seek(0)
            committed.write(f"{number:012d}")
            committed.flush()
            time.sleep(PAUSE_BETWEEN_COMMITS)
    except Exception as error:
        print(f"{mode}.db: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def collect_media() -> int:
    """Let a recording grow, a little at a time, until it is large."""
    with open(HOME / "content/recording.bin", "ab") as recording:
        while True:
            if recording.tell() < MEDIA_LIMIT:
                recording.write(os.urandom(128 << 10))
                recording.flush()
            time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
