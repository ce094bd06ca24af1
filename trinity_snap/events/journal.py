"""The journal of events: lines of JSON in the state directory, durable, rotated, of bounded size.

`events/current.jsonl` is written to; full files become `events/<number>.jsonl`, of which the newest are kept. Every event
has a `seq`, one more than that of the event before it. A line that a power cut tore is passed over.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trinity_snap.durable import fsync_directory, make_directory_durably, write_all

__all__ = ["Event", "EventJournal"]

Event = dict[str, Any]
"""One event: `seq`, `time` (RFC 3339), `event` (what ended), `host`, and what that kind of event has besides."""

_FILE_BYTES = 4 << 20
_FILES_KEPT = 8
_BLOCK_BYTES = 64 << 10


class EventJournal:
    """The journal in a state directory; nothing is made before the first event. At most `files + 1` files of `file_bytes`."""

    def __init__(self, state_dir: Path, *, file_bytes: int = _FILE_BYTES, files: int = _FILES_KEPT) -> None:
        self.directory = state_dir / "events"
        self._current = self.directory / "current.jsonl"
        self._file_bytes = file_bytes
        self._files = files

    def append(self, event: Mapping[str, object]) -> Event:
        """Add an event. When this returns it survives a power cut. Return it with its `seq`. Raise OSError."""
        make_directory_durably(self.directory)
        with self._locked():
            self._rotate()
            numbered = {**event, "seq": self._last_seq() + 1}
            line = json.dumps(numbered, separators=(",", ":")).encode() + b"\n"
            new = not self._current.exists()
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self._current, flags, 0o600)
            try:
                length = os.fstat(descriptor).st_size
                torn = length and os.pread(descriptor, 1, length - 1) != b"\n"
                write_all(descriptor, b"\n" + line if torn else line)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if new:
                fsync_directory(self.directory)
        return numbered

    def read(self, after: int = 0) -> Iterator[Event]:
        """The events with a `seq` greater than `after`, oldest first. What cannot be read is passed over."""
        for path in self._paths_after(after):
            try:
                lines = path.read_bytes().split(b"\n")
            except OSError:  # rotated away at this moment
                continue
            for line in lines:
                event = _parse(line)
                if event is not None and event["seq"] > after:
                    yield event

    def last_seq(self) -> int:
        """The `seq` of the newest event, 0 if there is none."""
        return self._last_seq()

    def _paths_after(self, after: int) -> list[Path]:
        """The files that can hold such events, oldest first."""
        chosen: list[Path] = []
        for path in reversed([*self._rotated(), self._current]):
            chosen.append(path)
            if _first_seq(path) - 1 <= after:
                break
        return chosen[::-1]

    def _rotated(self) -> list[Path]:
        found = [path for path in self.directory.glob("*.jsonl") if path.stem.isdecimal()]
        return sorted(found, key=lambda path: int(path.stem))

    def _rotate(self) -> None:
        try:
            full = self._current.stat().st_size >= self._file_bytes
        except FileNotFoundError:
            return
        if not full:
            return
        rotated = self._rotated()
        number = int(rotated[-1].stem) + 1 if rotated else 1
        self._current.rename(self.directory / f"{number:08d}.jsonl")
        fsync_directory(self.directory)
        for path in self._rotated()[: -self._files]:
            path.unlink(missing_ok=True)

    def _last_seq(self) -> int:
        for path in (self._current, *reversed(self._rotated())):
            for line in _lines_backwards(path):
                if (event := _parse(line)) is not None:
                    return int(event["seq"])
        return 0

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _parse(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    good = isinstance(event, dict) and isinstance(event.get("seq"), int) and isinstance(event.get("event"), str)
    return event if good and isinstance(event.get("time"), str) else None


def _first_seq(path: Path) -> int:
    """The `seq` of the first event that can be read; huge if there is none, so that nobody stops looking further back."""
    try:
        with path.open("rb") as file:
            for line in file:
                if (event := _parse(line)) is not None:
                    return int(event["seq"])
    except OSError:
        pass
    return 1 << 62


def _lines_backwards(path: Path) -> Iterator[bytes]:
    """The lines of a file, the last first; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            end, tail = file.seek(0, os.SEEK_END), b""
            while end:
                start = max(0, end - _BLOCK_BYTES)
                file.seek(start)
                first, *others = (file.read(end - start) + tail).split(b"\n")
                yield from reversed(others)
                end, tail = start, first
            yield tail
    except OSError:
        return
