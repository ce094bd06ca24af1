"""One reader for several recovery points: every pack is looked into once, however many points need it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from trinity_snap.repository.points import RecoveryPoint

if TYPE_CHECKING:
    from trinity_snap.repository.reader import PointReader
    from trinity_snap.repository.repository import Repository

__all__ = ["reader_for"]

_REFERENCE_BYTES = 40


def reader_for(repository: Repository, points: Sequence[RecoveryPoint]) -> PointReader:
    """A reader of everything that these points, at least one, hold. Nothing is read yet."""
    packs = {
        point.packs[start : start + _REFERENCE_BYTES]: None
        for point in points
        for start in range(0, len(point.packs), _REFERENCE_BYTES)
    }
    return repository.reader(replace(points[0], packs=b"".join(packs)))
