"""Restoring all that can be read of a damaged recovery point, and an exact list of what cannot.

A file of which a byte is lost is left out: nothing shortened is ever put in place. Where pages of a manifest are lost, what they
listed is left out, and directories that only they described are made anew, for root alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from trinity_snap.durable import write_file_durably
from trinity_snap.errors import IntegrityError
from trinity_snap.repository.manifest import CHUNK_ID_BYTES, Entry, is_below, pages_below, sort_key
from trinity_snap.repository.points import RecoveryPoint, Volume
from trinity_snap.repository.reader import PointReader, SegmentRead
from trinity_snap.restore.content import Layout
from trinity_snap.restore.directories import shown
from trinity_snap.restore.selection import ancestors

__all__ = ["Lost", "LostFile", "LostPage", "Salvage", "SalvageReader", "write_report"]

_DIRECTORY_MODE = 0o700
_LISTED = 1000


@dataclass(frozen=True)
class LostFile:
    """A file that was left out. `ranges` are (offset, length) of the bytes that are lost, None if that cannot be told."""

    volume: str
    path: bytes
    size: int
    reason: str
    ranges: tuple[tuple[int, int], ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """As `--json` and the report show it."""
        ranges = None if self.ranges is None else [list(one) for one in self.ranges]
        return {
            "volume": self.volume,
            "path": os.fsdecode(self.path),
            "size": self.size,
            "reason": self.reason,
            "ranges": ranges,
        }


@dataclass(frozen=True)
class LostPage:
    """Part of a manifest: `entries` names of the volume, from `first` on and before `before` (None: to the end), are unknown."""

    volume: str
    first: bytes
    before: bytes | None
    entries: int
    reason: str

    def holds(self, path: bytes) -> bool:
        """Whether the path is one of those."""
        return sort_key(self.first) <= sort_key(path) and (
            self.before is None or sort_key(path) < sort_key(self.before)
        )

    def to_json(self) -> dict[str, Any]:
        """As `--json` and the report show it."""
        before = None if self.before is None else os.fsdecode(self.before)
        return {
            "volume": self.volume,
            "from": os.fsdecode(self.first),
            "before": before,
            "entries": self.entries,
            "reason": self.reason,
        }


@dataclass
class Lost:
    """All that could not be restored: whole volumes (name to reason), parts of manifests, files; and directories made up."""

    volumes: dict[str, str] = field(default_factory=dict)
    pages: dict[tuple[str, bytes], LostPage] = field(default_factory=dict)
    files: dict[tuple[str, bytes], LostFile] = field(default_factory=dict)
    directories: set[tuple[str, bytes]] = field(default_factory=set)

    @property
    def nothing(self) -> bool:
        """Whether everything was restored."""
        return not (self.volumes or self.pages or self.files)

    def to_json(self, limit: int | None = _LISTED) -> dict[str, Any]:
        """As `--json` shows it, with `limit` files and directories at most, or all."""
        files = [self.files[key] for key in sorted(self.files)]
        directories = sorted(self.directories)
        return {
            "volumes": [{"volume": name, "reason": reason} for name, reason in self.volumes.items()],
            "pages": [page.to_json() for page in self.pages.values()],
            "files_lost": len(files),
            "files": [file.to_json() for file in files[:limit]],
            "directories_made": len(directories),
            "directories": [{"volume": volume, "path": os.fsdecode(path)} for volume, path in directories[:limit]],
        }

    def lines(self, limit: int) -> Iterator[str]:
        """For people, with `limit` files at most."""
        for name, reason in self.volumes.items():
            yield f"Lost: all of {name}: {reason}"
        for page in self.pages.values():
            before = "the end" if page.before is None else f"before {shown(page.before)}"
            yield f"Lost: {page.entries} names of {page.volume}, from {shown(page.first)} to {before}: {page.reason}"
        for key in sorted(self.files)[:limit]:
            file = self.files[key]
            ranges = "" if file.ranges is None else f", of {file.size} bytes these: {_ranges(file.ranges)}"
            yield f"Lost: {file.volume}:{shown(file.path)}{ranges}"
        if len(self.files) > limit:
            yield f"and {len(self.files) - limit} more files."


def _ranges(ranges: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{offset}-{offset + length - 1}" for offset, length in ranges)


class _Readers(Protocol):
    def reader(self, point: RecoveryPoint) -> PointReader: ...


class Salvage:
    """A repository, or a grant, whose readers pass over what is lost, and note it in `lost`."""

    def __init__(self, repository: _Readers) -> None:
        self._repository = repository
        self.lost = Lost()

    def reader(self, point: RecoveryPoint) -> SalvageReader:
        """The reader of a point."""
        return SalvageReader(self._repository.reader(point), self.lost)


class SalvageReader:
    """Reads a point for a restore, and passes over pages of manifests that are lost."""

    def __init__(self, reader: PointReader, lost: Lost) -> None:
        self._reader = reader
        self.lost = lost
        self.parallel_gets = reader.parallel_gets
        self.read_ahead_bytes = reader.read_ahead_bytes

    def is_readable(self, volume: Volume) -> bool:
        """Whether anything is known of the volume; if not, that is noted."""
        try:
            self._reader.pages(volume)
        except IntegrityError as error:
            self.lost.volumes[volume.name] = error.message
            return False
        return True

    def entries(self, volume: Volume, under: bytes = b"") -> Iterator[Entry]:
        """The entries that can be read, in order, each with all directories above it."""
        open_directories: list[bytes] = []
        for entry in self._known(volume, under):
            while open_directories and not is_below(entry.path, open_directories[-1]):
                open_directories.pop()
            for above in ancestors(entry.path):
                if above not in open_directories and is_below(above, under):
                    self.lost.directories.add((volume.name, above))
                    open_directories.append(above)
                    yield Entry(above, "d", _DIRECTORY_MODE, 0, 0, 0)
            if entry.type == "d":
                open_directories.append(entry.path)
            elif entry.type == "h" and (page := self._lost_page(volume, entry.target)) is not None:
                key = volume.name, entry.path
                self.lost.files[key] = LostFile(
                    *key, entry.size, f"It is another name of a file that is lost: {page.reason}"
                )
                continue
            yield entry

    def _known(self, volume: Volume, under: bytes) -> Iterator[Entry]:
        pages = self._reader.pages(volume)
        for reference in pages_below(pages, under):
            try:
                page = self._reader.page(reference)
            except IntegrityError as error:
                number = pages.index(reference)
                before = pages[number + 1].first_path if number + 1 < len(pages) else None
                key = volume.name, reference.first_path
                self.lost.pages[key] = LostPage(*key, before, reference.entries, error.message)
                continue
            for entry in page:
                if not under or is_below(entry.path, under):
                    yield entry

    def _lost_page(self, volume: Volume, path: bytes) -> LostPage | None:
        return next(
            (page for page in self.lost.pages.values() if page.volume == volume.name and page.holds(path)), None
        )

    def entry(self, volume: Volume, path: bytes) -> Entry | None:
        """The entry at `path`, made up if it is a directory of which only the contents are known; or None."""
        for entry in self.entries(volume, path):
            return entry if entry.path == path else None
        return None

    def plan_reads(self, ids: Iterable[bytes]) -> list[SegmentRead]:
        """As the reader does."""
        return self._reader.plan_reads(ids)

    def read_span(self, reads: Sequence[SegmentRead]) -> list[bytes | memoryview | IntegrityError]:
        """As the reader does."""
        return self._reader.read_span(reads)

    @property
    def chunk_key(self) -> bytes:
        """The key of the keyed hash that ids are."""
        return self._reader.chunk_key

    def chunk_id(self, data: bytes | memoryview) -> bytes:
        """As the reader does."""
        return self._reader.chunk_id(data)

    def note(self, volume: Volume, damaged: dict[bytes, str]) -> None:
        """Note files that were left out, and which of their bytes are lost."""
        if not damaged:
            return
        for entry in self.entries(volume):
            reason = damaged.get(entry.path)
            if reason is not None:
                ranges = self._lost_ranges(entry) if entry.type == "f" else None
                key = volume.name, entry.path
                self.lost.files[key] = LostFile(*key, entry.size, reason, ranges)

    def _lost_ranges(self, entry: Entry) -> tuple[tuple[int, int], ...] | None:
        """Where in the file the lost chunks lie. If of one of them nobody knows the length, it has what the others leave."""
        layout = Layout(entry)
        if len(entry.chunks) == CHUNK_ID_BYTES:
            return tuple((offset, length) for offset, length in layout.extents if length)
        chunks: list[tuple[int | None, bool]] = []  # length, if it is known, and whether it can be read
        for chunk_id in entry.chunk_ids():
            try:
                (read,) = self._reader.plan_reads((chunk_id,))
            except IntegrityError:
                chunks.append((None, False))
                continue
            good = False
            with suppress(IntegrityError):
                self._reader.chunk(chunk_id)
                good = True
            chunks.append((read.chunks[0][2], good))
        known = sum(length for length, _ in chunks if length is not None)
        unknown = sum(length is None for length, _ in chunks)
        if unknown > 1 and unknown < len(chunks):
            return None
        ranges: list[tuple[int, int]] = []
        if unknown == len(chunks):
            return tuple((offset, length) for offset, length in layout.extents if length)
        try:
            for length, good in chunks:
                places = layout.take(layout.total - known if length is None else length)
                ranges += [] if good else [(offset, amount) for offset, _, amount in places]
        except IntegrityError:
            return None
        return _joined(ranges)


def _joined(ranges: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    joined: list[tuple[int, int]] = []
    for offset, length in ranges:
        if joined and sum(joined[-1]) == offset:
            joined[-1] = joined[-1][0], joined[-1][1] + length
        else:
            joined.append((offset, length))
    return tuple(joined)


def write_report(path: Path, lost: Lost, about: dict[str, Any]) -> None:
    """Write the whole list durably, as JSON, readable by root alone. Raise OSError."""
    document = json.dumps({**about, **lost.to_json(None)}, indent=2) + "\n"
    write_file_durably(path, document.encode("utf-8", "backslashreplace"), mode=0o600)
