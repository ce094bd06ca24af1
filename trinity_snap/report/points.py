"""Recovery points as the JSON of `list` and `show` has them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from trinity_snap.report.times import timestamp

if TYPE_CHECKING:
    from trinity_snap.repository.points import RecoveryPoint


def point_summary(point: RecoveryPoint, void: str | None) -> dict[str, object]:
    """A recovery point in a list; `void` is why it does not count, None if it does."""
    return {
        "id": point.id,
        "agent": point.agent,
        "host": point.host,
        "created": timestamp(point.created),
        "run_id": point.run_id,
        "files": point.files,
        "bytes": point.bytes,
        "consistency": point.consistency,
        "provider": point.provider,
        "problems": len(point.problems),
        "void": void,
    }


def point_details(point: RecoveryPoint, void: str | None) -> dict[str, object]:
    """A whole recovery point, except the entries of its volumes."""
    packs = point.pack_references()
    return {
        **point_summary(point, void),
        "mode": point.mode,
        "pause_seconds": point.pause_ns / 1e9,
        "volumes": [
            {
                "name": volume.name,
                "kind": volume.kind,
                "source": volume.source or None,
                "destination": volume.destination,
                "driver": volume.driver,
                "labels": volume.labels,
                "options": volume.options,
                "entries": volume.entries,
                "files": volume.files,
                "bytes": volume.bytes,
                "selection": list(volume.selected),
            }
            for volume in point.volumes
        ],
        "container": point.container,
        "packs": len(packs),
        "packs_bytes": sum(pack.length for pack in packs),
        "problems": [
            {"volume": volume, "path": os.fsdecode(path), "reason": reason} for volume, path, reason in point.problems
        ],
    }
