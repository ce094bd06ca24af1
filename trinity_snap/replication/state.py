"""What this host remembers of each replica between runs. Losing it costs a warning or two, never data."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from trinity_snap.durable import make_directory_durably, write_file_durably
from trinity_snap.errors import TrinitySnapError

__all__ = ["ReplicaState", "exclusively", "read_state", "write_state"]


@dataclass(frozen=True)
class ReplicaState:
    """How a replica at `url` stood last. Times are RFC 3339; `behind_since` is when it was seen to lack something first.

    `begun`: the repository was there once. `points_behind` and `bytes_behind` are None where they were never known.
    """

    url: str
    begun: bool = False
    last_success: str | None = None
    last_attempt: str | None = None
    outcome: str | None = None
    error: str | None = None
    points_behind: int | None = None
    bytes_behind: int | None = None
    behind_since: str | None = None


def read_state(directory: Path, name: str, url: str) -> ReplicaState:
    """What is remembered of the replica of that name, nothing if it was elsewhere then or the file is not usable."""
    nothing = ReplicaState(url)
    try:
        state = msgspec.json.decode(_path(directory, name).read_bytes(), type=ReplicaState)
    except (OSError, msgspec.DecodeError):
        return nothing
    return state if state.url == url else nothing


def write_state(directory: Path, name: str, state: ReplicaState) -> None:
    """Remember. Raise OSError."""
    path = _path(directory, name)
    make_directory_durably(path.parent)
    write_file_durably(path, msgspec.json.format(msgspec.json.encode(state)) + b"\n")


@contextmanager
def exclusively(directory: Path, name: str) -> Iterator[bool]:
    """Keep other processes of this host from replicating to it meanwhile. False: one does so already.

    Two at once would do no harm, only send everything twice. Raise TrinitySnapError if the directory cannot be used.
    """
    path = _path(directory, name).with_suffix(".lock")
    try:
        make_directory_durably(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise TrinitySnapError(
            f"The directory {path.parent} cannot be used: {error.strerror}.",
            untouched="Nothing was replicated.",
            next_step="Run as root, and see that `state: directory:` in the policy names a directory.",
        ) from error
    try:
        yield _locked(descriptor)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _path(directory: Path, name: str) -> Path:
    return directory / "replicas" / f"{name}.json"
