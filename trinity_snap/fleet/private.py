"""A private directory for one fleet run: in memory, for this user only, and gone afterwards.

ansible-runner writes down the command, its environment and every event. None of that is to be on a disk, so the directory is on a
tmpfs. Those of runs that were killed are removed by the next run: whoever lives holds a lock on its own.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trinity_snap.errors import TrinitySnapError

PREFIX = "trinity-snap-fleet-"
_COLLECTION = ("ansible_collections", "trinity", "snap")


@contextmanager
def private_directory() -> Iterator[Path]:
    """The directory, 0700, with `project/` and `collections/` in it. Raise TrinitySnapError where nothing is in memory."""
    place = _memory()
    sweep(place)
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    lock = os.open(directory / "lock.new", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(directory / "lock.new", directory / "lock")  # nobody sees it unlocked
        (directory / "project").mkdir(mode=0o700)
        link_collection(directory / "collections")
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def _memory() -> Path:
    own = os.environ.get("XDG_RUNTIME_DIR")
    for name in (*([own] if own else []), f"/run/user/{os.geteuid()}", "/run" if os.geteuid() == 0 else "", "/dev/shm"):
        path = Path(name or "/nonexistent")
        if path.is_dir() and os.access(path, os.W_OK | os.X_OK) and _is_tmpfs(path):
            return path
    raise TrinitySnapError(
        "There is no directory in memory for what Ansible writes down while it runs.",
        untouched="Nothing was done.",
        next_step="Mount a tmpfs on /dev/shm, or set XDG_RUNTIME_DIR to a directory on one.",
    )


def _is_tmpfs(path: Path) -> bool:
    """Whether the file system of a path is a tmpfs, by the longest mount point above it in /proc/self/mounts."""
    best, kind = "", ""
    real = os.path.realpath(path)
    for line in Path("/proc/self/mounts").read_text("utf-8", "surrogateescape").splitlines():
        _, point, name, *_ = line.split()
        if len(point) >= len(best) and (real == point or real.startswith(point.rstrip("/") + "/")):
            best, kind = point, name
    return kind in ("tmpfs", "ramfs")


def sweep(place: Path) -> None:
    """Remove the directories of this user's runs that are not alive."""
    for directory in place.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if directory.is_symlink() or directory.stat().st_uid != os.geteuid():
                continue
            lock = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(lock)


def link_collection(place: Path) -> None:
    """Put the collection that belongs to this very command where Ansible looks for collections."""
    package = Path(__file__).resolve().parents[1]
    installed = package.parent.joinpath(*_COLLECTION)
    source = installed if installed.is_dir() else package.parent
    if not (source / "playbooks").is_dir():
        raise TrinitySnapError(
            "The Ansible collection trinity.snap is not where this command was installed.",
            untouched="Nothing was done.",
            next_step="Install trinity-snap from its wheel or from a checkout.",
        )
    place.joinpath(*_COLLECTION[:2]).mkdir(parents=True, mode=0o700)
    place.joinpath(*_COLLECTION).symlink_to(source)
