"""The view that the provider precopy makes: a listing of the instant, copies, and what was shipped before."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from trinity_snap.snapshot.beneath import Beneath
from trinity_snap.snapshot.instant import Instant
from trinity_snap.snapshot.listing import pack, same
from trinity_snap.snapshot.staging import Staging, open_live
from trinity_snap.snapshot.view import WalkItem

__all__ = ["PrecopyView"]


class PrecopyView:
    """One source as it was in the pause. Safe to use from several threads once `walk` has ended."""

    def __init__(self, root: Path, instant: Instant, staging: Staging) -> None:
        self._tree = Beneath(os.fsencode(root))
        self._instant = instant
        self._staging = staging
        self._lock = threading.Lock()

    def walk(self) -> Iterator[WalkItem]:
        """The entries as they were, in manifest order."""
        return self._instant.listing.walk()

    def was_shipped(self, path: bytes) -> bool:
        """Whether a pass has shipped exactly the content that the regular file at `path` has in this view."""
        return path not in self._instant.staged

    def open(self, path: bytes) -> int:
        """The copy made in the pause; the live file where the content was shipped, if it is still the same.

        Raise OSError, ESTALE if the live file has changed since.
        """
        number = self._instant.staged.get(path)
        if number is not None:
            return self._staging.open(number)
        with self._lock:
            packed = self._instant.listing.find(path)
            descriptor = open_live(self._tree.name(path))
        if packed is None or not same(packed, pack(os.fstat(descriptor))):
            os.close(descriptor)
            raise OSError(errno.ESTALE, "it changed after the snapshot, and its content was shipped before", path)
        return descriptor

    def xattrs(self, path: bytes, mode: int) -> dict[bytes, bytes]:
        """The extended attributes as they were. Raise OSError if they could not be read."""
        if path in self._instant.errors:
            raise self._instant.errors[path]
        return self._instant.xattrs.get(path, {})

    def readlink(self, path: bytes) -> bytes:
        """The link's target as it was. Raise OSError if it could not be read."""
        if path in self._instant.errors:
            raise self._instant.errors[path]
        return self._instant.targets[path]
