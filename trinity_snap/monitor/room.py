"""How much room a target in a directory of this host has."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

__all__ = ["Room", "room_at"]


@dataclass(frozen=True)
class Room:
    """Bytes of the filesystem that a target is on, as one who is not root sees them."""

    free_bytes: int
    total_bytes: int

    @property
    def free_percent(self) -> float:
        """What is free of the whole, in percent."""
        return 100.0 * self.free_bytes / self.total_bytes if self.total_bytes else 100.0


def room_at(url: str) -> Room | None:
    """The room at a target's address; None for one elsewhere, or that cannot be asked."""
    path = unquote(urlsplit(url).path) if url.startswith("file:") else url
    if not path.startswith("/"):
        return None
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return Room(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)
