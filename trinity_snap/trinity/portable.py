"""Trinity's portable form of an agent's data (#1169), out of a recovery point: a tar of `data/…` and `manifest.json`.

`POST /api/agents/{name}/data/import` reads it, and `trinity-snap import`. It is a POSIX.1-2001 (pax) tar, written as a stream:
of any size, with modes, owners, links, times to the nanosecond and extended attributes. A hole becomes zeros; sockets and
devices are left out.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import IO, Protocol

from trinity_snap.errors import IntegrityError, UsageError
from trinity_snap.progress import Progress
from trinity_snap.repository.manifest import Entry
from trinity_snap.repository.points import RecoveryPoint, Volume
from trinity_snap.restore.content import Layout
from trinity_snap.restore.directories import shown
from trinity_snap.restore.order import checked_order
from trinity_snap.restore.selection import select_paths
from trinity_snap.restore.source import PointSource
from trinity_snap.trinity.declared import DATA_PATHS, understand
from trinity_snap.trinity.naming import DESTINATIONS

__all__ = ["DATA", "FORMAT_VERSION", "MANIFEST", "Exported", "export_portable", "home_volume"]

FORMAT_VERSION = 1
DATA = b"data"
MANIFEST = "manifest.json"
_ZEROS = bytes(1 << 20)


class ChunkSource(PointSource, Protocol):
    """Reads a recovery point, single chunks, too."""

    def chunk(self, chunk_id: bytes) -> memoryview:
        """One chunk, compared with its id. Raise IntegrityError."""


@dataclass
class Exported:
    """What went into the tar: entries, files, bytes of content; the declared patterns; and what was left out, as sentences."""

    entries: int = 0
    files: int = 0
    bytes: int = 0
    data_paths: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def home_volume(point: RecoveryPoint) -> Volume:
    """The volume that is the agent's home. Raise UsageError if the point has none."""
    for volume in point.volumes:
        if volume.destination == DESTINATIONS["workspace"]:
            return volume
    raise UsageError(
        f"Recovery point {point.id[:8]} of {point.agent} has no home of a Trinity agent ({DESTINATIONS['workspace']}).",
        next_step="`trinity-snap restore AGENT --to DIRECTORY` gives back any agent's data.",
    )


def export_portable(point: RecoveryPoint, reader: ChunkSource, out: IO[bytes], progress: Progress) -> Exported:
    """Write the tar of a point to `out`, which need not be seekable. Raise UsageError, IntegrityError, OSError.

    The manifest comes first, so that a reader knows what it is before it has read it all.
    """
    volume = home_volume(point)
    done = Exported(data_paths=_data_paths(reader, volume))
    manifest = {
        "format_version": FORMAT_VERSION,
        "agent_name": point.agent,
        "exported_at": datetime.now(UTC).isoformat(),
        "data_root": "data/",
        "data_paths": done.data_paths,
        "trinity_version": "unknown",
        "trinity_snap": {"point": point.id, "created": point.created.isoformat(), "consistency": point.consistency},
    }
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as tar:
        text = json.dumps(manifest, indent=2, sort_keys=True).encode()
        about = tarfile.TarInfo(MANIFEST)
        about.size, about.mtime, about.mode = len(text), point.created_ns // 10**9, 0o644
        tar.addfile(about, io.BytesIO(text))
        if reader.entry(volume, DATA) is None:
            done.notes.append("The agent had no ~/data, so that there is none in the file.")
            return done
        progress.stage(f"export {volume.name}", None)
        for entry in checked_order(select_paths(reader, volume, [DATA])):
            if entry.path:
                _add(tar, entry, reader, done, progress)
    return done


def _add(tar: tarfile.TarFile, entry: Entry, reader: ChunkSource, done: Exported, progress: Progress) -> None:
    if entry.type in "scb":
        done.notes.append(f"{shown(entry.path)} was left out: it is a socket or a device.")
        return
    info = tarfile.TarInfo(os.fsdecode(entry.path))
    info.mode, info.uid, info.gid = entry.mode, entry.uid, entry.gid
    info.mtime = entry.mtime_ns // 10**9
    info.pax_headers = {f"SCHILY.xattr.{os.fsdecode(key)}": os.fsdecode(value) for key, value in entry.xattrs.items()}
    if entry.mtime_ns % 10**9:
        info.pax_headers["mtime"] = f"{entry.mtime_ns // 10**9}.{entry.mtime_ns % 10**9:09d}"
    info.type = _TYPES[entry.type]
    if entry.type in "lh":
        info.linkname = os.fsdecode(entry.target)
    content = None
    if entry.type == "f":
        info.size = entry.size
        content = _Content(entry, reader, progress.advance)
        done.bytes += entry.size
    tar.addfile(info, content)  # type: ignore[arg-type]  # it only reads
    tar.members = []  # type: ignore[attr-defined]  # else it remembers each
    done.entries += 1
    done.files += entry.type in "fh"


_TYPES = {
    "f": tarfile.REGTYPE,
    "d": tarfile.DIRTYPE,
    "l": tarfile.SYMTYPE,
    "h": tarfile.LNKTYPE,
    "p": tarfile.FIFOTYPE,
}


class _Content:
    """What a file holds, as something to read from, with zeros for its holes."""

    def __init__(self, entry: Entry, reader: ChunkSource, on_read: Callable[[int], None]) -> None:
        self._pieces = _pieces(entry, reader)
        self._left = memoryview(b"")
        self._on_read = on_read

    def read(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end."""
        parts = []
        wanted = count
        while wanted:
            if not self._left:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._left = memoryview(piece)
            part, self._left = self._left[:wanted], self._left[wanted:]
            parts.append(part)
            wanted -= len(part)
        self._on_read(count - wanted)
        return b"".join(parts)


def _pieces(entry: Entry, reader: ChunkSource) -> Iterator[bytes | memoryview]:
    layout = Layout(entry)
    at = placed = 0
    for chunk_id in entry.chunk_ids():
        data = reader.chunk(chunk_id)
        for position, start, length in layout.take(len(data)):
            yield from _zeros(position - at)
            yield data[start : start + length]
            at = position + length
        placed += len(data)
    layout.finish(placed)
    yield from _zeros(entry.size - at)


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield _ZEROS[:count]
        count -= len(_ZEROS)


def _data_paths(reader: ChunkSource, volume: Volume) -> list[str]:
    """What the agent declared when the point was made; nothing if that cannot be understood."""
    entry = reader.entry(volume, DATA_PATHS)
    if entry is None or entry.type != "f" or entry.size > 64 * 1024:
        return []
    try:
        return understand(b"".join(_pieces(entry, reader)), "data_paths")
    except (ValueError, IntegrityError):
        return []
