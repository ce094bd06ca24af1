"""What `trinity-snap verify` found, as JSON and for people."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trinity_snap.cli.output import plural, size

if TYPE_CHECKING:
    from trinity_snap.repository.checks import Share
    from trinity_snap.repository.verify import VerifyReport
    from trinity_snap.trusted.hidden import Hidden

__all__ = ["answer_of", "lines_of"]

_FILES_SHOWN = 20
_POINTS_SHOWN = 3
_POINTS_NAMED = 1000


def answer_of(report: VerifyReport, read_data: bool, hidden: Hidden) -> dict[str, object]:
    """As `--json` shows it."""
    return {
        "good": report.good,
        "read_data": read_data,
        "points": [
            {
                "id": verdict.id,
                "agent": verdict.agent,
                "good": verdict.good,
                "problems": verdict.problems,
                "files_affected": verdict.files_affected,
                "files": [{"volume": volume, "path": os.fsdecode(path)} for volume, path in verdict.files],
            }
            for verdict in report.points
        ],
        "unreadable": [{"id": point_id, "reason": reason} for point_id, reason in report.unreadable],
        "damaged_objects": [
            {
                "name": name,
                "reason": reason,
                "healed": name in report.healed,
                "points": [point for point, _ in needing[:_POINTS_NAMED]],
                "points_affected": len(needing),
                "agents": sorted({agent for _, agent in needing}),
            }
            for name, reason in report.damaged_objects.items()
            for needing in [_needing(report, name)]
        ],
        "overwritten": list(hidden.overwritten),
        "deleted_points": [name.removeprefix("points/") for name in hidden.deleted_points],
        "packs_checked": report.packs_checked,
        "packs_read": report.packs_read,
        "bytes_read": report.bytes_read,
        "opened": True,
        "notes": report.notes,
    }


def lines_of(report: VerifyReport, share: Share | None) -> Iterator[str]:
    """The same for people."""
    for verdict in report.points:
        if verdict.good:
            continue
        yield f"{verdict.id[:8]} of {verdict.agent} is DAMAGED:"
        yield from (f"  {problem}" for problem in verdict.problems)
        for volume, path in verdict.files[:_FILES_SHOWN]:
            yield f"  lost: {volume}:{os.fsdecode(path)}"
        if verdict.files_affected > _FILES_SHOWN:
            yield f"  and {verdict.files_affected - min(_FILES_SHOWN, len(verdict.files))} more"
    for point_id, reason in report.unreadable:
        yield f"{point_id[:8]} cannot be read: {reason}"
    for name, reason in report.damaged_objects.items():
        yield f"{name}: {reason}"
        yield from _who(report, name)
    yield from report.notes
    good = sum(verdict.good for verdict in report.points)
    packs = plural(report.packs_checked, "pack")
    if share is None:
        how = f"{packs} there; --read-data reads them, too"
    elif report.packs_read == report.packs_checked:
        how = f"every byte of {packs} read ({size(report.bytes_read)})"
    else:
        how = (
            f"{report.packs_read} of {packs} read ({size(report.bytes_read)}), those that were not for the longest time"
        )
    total = len(report.points) + len(report.unreadable)
    yield f"{good} of {plural(total, 'recovery point')} can be restored: {how}."


def _needing(report: VerifyReport, name: str) -> list[tuple[str, str]]:
    """The points, with their agents, that lose something with an object; if it is healed, those that it belongs to."""
    healed = name in report.healed
    return [
        (verdict.id, verdict.agent)
        for verdict in report.points
        if name in verdict.damaged_objects and (healed or not verdict.good)
    ]


def _who(report: VerifyReport, name: str) -> Iterator[str]:
    needing = _needing(report, name)
    if not needing:
        return
    agents = ", ".join(sorted({agent for _, agent in needing}))
    ids = ", ".join(point[:8] for point, _ in needing[:_POINTS_SHOWN])
    more = f" and {len(needing) - _POINTS_SHOWN} more" if len(needing) > _POINTS_SHOWN else ""
    points = f"{plural(len(needing), 'point')} ({ids}{more}) of {agents}"
    yield (
        f"  healed: other packs have all that {points} needs of it"
        if name in report.healed
        else f"  needed by {points}"
    )
