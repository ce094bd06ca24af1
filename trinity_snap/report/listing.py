"""Looking into a recovery point as into a directory."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from trinity_snap.errors import UsageError
from trinity_snap.report.times import timestamp

if TYPE_CHECKING:
    from trinity_snap.repository.manifest import Entry
    from trinity_snap.repository.points import RecoveryPoint, Volume
    from trinity_snap.repository.reader import PointReader

_TYPES = {
    "f": ("file", stat.S_IFREG),
    "h": ("hard link", stat.S_IFREG),
    "d": ("directory", stat.S_IFDIR),
    "l": ("symbolic link", stat.S_IFLNK),
    "p": ("fifo", stat.S_IFIFO),
    "c": ("character device", stat.S_IFCHR),
    "b": ("block device", stat.S_IFBLK),
    "s": ("socket", stat.S_IFSOCK),
}


@dataclass(frozen=True)
class Listed:
    """One entry of a listing: `name` is its last component, `volume` the volume that it is in."""

    volume: str
    name: bytes
    entry: Entry

    def to_json(self) -> dict[str, object]:
        """As `--json` shows it."""
        entry = self.entry
        kind, _ = _TYPES.get(entry.type, (entry.type, 0))
        return {
            "volume": self.volume,
            "path": os.fsdecode(entry.path),
            "type": kind,
            "mode": f"{entry.mode:04o}",
            "uid": entry.uid,
            "gid": entry.gid,
            "bytes": entry.size,
            "modified": timestamp(datetime.fromtimestamp(entry.mtime_ns / 1e9, UTC)),
            "target": os.fsdecode(entry.target) if entry.target else None,
        }

    def cells(self) -> tuple[str, ...]:
        """The columns of `ls -l`: mode, owner, group, size, time, name."""
        entry = self.entry
        _, kind = _TYPES.get(entry.type, ("", 0))
        name = os.fsdecode(self.name) or "."
        if entry.type == "l":
            name += f" -> {os.fsdecode(entry.target)}"
        size = f"{entry.device[0]}, {entry.device[1]}" if entry.type in "cb" else str(entry.size)
        moment = datetime.fromtimestamp(entry.mtime_ns / 1e9, UTC).astimezone()
        return (
            stat.filemode(kind | entry.mode),
            str(entry.uid),
            str(entry.gid),
            size,
            f"{moment:%Y-%m-%d %H:%M:%S}",
            name + ("/" if entry.type == "d" and self.name else ""),
        )


def list_directory(reader: PointReader, point: RecoveryPoint, path: str) -> Iterator[Listed]:
    """What is at `path`: the entries of a directory, or the one entry itself.

    `path` is as the agent sees it (`/home/developer/x`), `VOLUME:x`, or relative to the only volume that has it.
    Raise UsageError if there is nothing, or several things.
    """
    volume, inner = _locate(reader, point, path)
    entry = reader.entry(volume, inner)
    if entry is not None and entry.type == "d":
        for child in reader.children(volume, inner):
            yield Listed(volume.name, child.path[len(inner) + 1 if inner else 0 :], child)
    elif entry is not None:
        yield Listed(volume.name, inner.rpartition(b"/")[2], entry)


def _locate(reader: PointReader, point: RecoveryPoint, path: str) -> tuple[Volume, bytes]:
    found = [(volume, inner) for volume, inner in _candidates(point, path) if reader.entry(volume, inner) is not None]
    if not found:
        places = ", ".join(f"{volume.name} at {volume.destination or volume.source}" for volume in point.volumes)
        raise UsageError(
            f"Recovery point {point.id[:8]} has no {path!r:.200}.", next_step=f"It holds {places or 'nothing'}."
        )
    if len(found) > 1 and not path.startswith("/"):
        names = ", ".join(f"{volume.name}:{os.fsdecode(inner)}" for volume, inner in found)
        raise UsageError(f"{path!r:.200} is in several volumes.", next_step=f"Say which one: {names}.")
    return found[0]


def _candidates(point: RecoveryPoint, path: str) -> list[tuple[Volume, bytes]]:
    name, colon, rest = path.partition(":")
    named = point.volume(name) if colon else None
    if named is not None:
        return [(named, _inner(rest))]
    if path.startswith("/"):
        whole = os.path.normpath("/" + path.lstrip("/"))
        inside = [
            (len(place), volume, _inner(whole[len(place.rstrip("/")) :]))
            for volume in point.volumes
            for place in {volume.destination, volume.source} - {""}
            if whole == place or whole.startswith(place.rstrip("/") + "/")
        ]
        return [(volume, inner) for _, volume, inner in sorted(inside, key=lambda each: -each[0])]
    return [(volume, _inner(path)) for volume in point.volumes]


def _inner(path: str) -> bytes:
    inner = os.fsencode(os.path.normpath(path)).strip(b"/")
    return b"" if inner == b"." else inner
