"""A keeper of local snapshots for tests: a second mount of a copy of the filesystem's image, as a snapshot of its device is."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trinity_snap.snapshot.protocol import Kept

SHARES_DATA = False


def settle(kept: Kept) -> None:
    """Nothing is ever open."""


def is_there(kept: Kept) -> bool:
    return Path(kept.where).is_dir()


def remove(kept: Kept) -> None:
    """The mount goes with the test."""


@contextmanager
def open(kept: Kept) -> Iterator[Path]:
    yield Path(kept.where)


def close_all() -> None:
    """Nothing stays open."""


def find() -> Sequence[tuple[str, str]]:
    return ()


def remove_found(where: str) -> None:
    raise AssertionError(where)


@contextmanager
def snapshot_of(place: Path, image: Path, where: Path) -> Iterator[Path]:
    """The filesystem at `place`, which lies in `image`, as it is now: the same inodes and times, on another device."""
    subprocess.run(["fsfreeze", "-f", str(place)], check=True)
    try:
        subprocess.run(["cp", "--sparse=always", str(image), f"{image}.copy"], check=True)
    finally:
        subprocess.run(["fsfreeze", "-u", str(place)], check=True)
    where.mkdir()
    options = "loop,ro,nouuid,norecovery" if image.name.startswith("xfs") else "loop,ro"
    subprocess.run(["mount", "-o", options, f"{image}.copy", str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)
        Path(f"{image}.copy").unlink()
