"""What `trinity-snap prune --repack` says of the repacking."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trinity_snap.cli.output import plural, size

if TYPE_CHECKING:
    from trinity_snap.repository.repack import RepackReport

__all__ = ["repack_answer", "repack_lines"]


def repack_answer(report: RepackReport | None) -> dict[str, object] | None:
    """The report for `--json`; None if nothing was to be repacked."""
    if report is None:
        return None
    return {
        "live_bytes": report.live_bytes,
        "dead_bytes": report.dead_bytes,
        "packs": report.packs,
        "written_bytes": report.written_bytes,
        "freed_bytes": report.freed_bytes,
        "bytes_stored": report.bytes_stored,
        "moved_points": [{"from": old, "to": new} for old, new in sorted(report.moved_points.items())],
        "superseded_points": sorted(report.superseded),
        "notes": report.notes,
    }


def repack_lines(report: RepackReport | None) -> Iterator[str]:
    """The report in words."""
    if report is None:
        return
    yield (
        f"Of the data in packs that points need, {size(report.live_bytes)} is needed and {size(report.dead_bytes)} is dead."
    )
    if report.dry_run:
        if report.packs:
            yield (
                f"{plural(report.packs, 'pack')} would be repacked: {size(report.written_bytes)} stored anew, "
                f"{size(report.freed_bytes)} free when the old ones have gone."
            )
    elif report.packs:
        yield (
            f"{plural(report.packs, 'pack')} repacked for {plural(len(report.moved_points), 'recovery point')}: "
            f"{size(report.bytes_stored)} stored anew, {size(report.freed_bytes)} free when the old ones have gone."
        )
    if not report.packs:
        yield "Nothing is worth repacking."
    yield from report.notes
