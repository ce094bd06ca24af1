"""Copy notes: what replication says of points that it brings to another storage (docs/format.md, “Replicas”)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress

from trinity_snap.errors import ForeignRepository, IntegrityError, ObjectMissing
from trinity_snap.repository.documents import VERSION, check_header, parse_object
from trinity_snap.targets.protocol import Target

__all__ = ["copy_notes", "copy_times", "put_copy_note"]

_KIND = "copies"
_ID = re.compile(r"[0-9a-f]{32}")


def put_copy_note(target: Target, repository_id: bytes, point_ids: Iterable[str]) -> str:
    """Say at `target` that these points are about to be put there by replication. Return the note's name.

    Its time there takes the place of their sessions' times when it is judged whether a point was late.
    """
    name = f"{_KIND}/{os.urandom(16).hex()}"
    payload = {
        "format": f"trinity-snap {_KIND}",
        "version": VERSION,
        "repository": repository_id.hex(),
        "points": sorted(point_ids),
    }
    target.put_if_absent(name, json.dumps(payload).encode("ascii") + b"\n")
    return name


def copy_notes(target: Target, repository_id: bytes) -> dict[str, tuple[str, ...]]:
    """The copy notes at a target: name → ids of the points that it names. Damaged and foreign ones are passed over."""
    notes = {}
    for name in target.list_prefix(f"{_KIND}/"):
        try:
            payload = parse_object(target.get(name).rstrip(b"\n"))
            check_header(_KIND, payload)
        except (ForeignRepository, IntegrityError, ObjectMissing, ValueError):
            continue
        points = payload.get("points")
        if payload.get("repository") == repository_id.hex() and isinstance(points, list):
            notes[name] = tuple(one for one in points if isinstance(one, str) and _ID.fullmatch(one))
    return notes


def copy_times(target: Target, repository_id: bytes) -> dict[str, int]:
    """When replication said last that it would bring a point to this target (Unix time in ns, the storage's), by point."""
    times: dict[str, int] = {}
    for name, points in copy_notes(target, repository_id).items():
        with suppress(ObjectMissing):
            time_ns = target.stat(name).time_ns
            for point in points:
                times[point] = max(time_ns, times.get(point, 0))
    return times
