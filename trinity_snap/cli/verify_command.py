"""`trinity-snap verify`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from trinity_snap.cli.context import Unlock, load, open_repository
from trinity_snap.cli.group import new_app
from trinity_snap.cli.options import (
    IdentityOption,
    JsonOption,
    PassphraseFileOption,
    PolicyOption,
    QuietOption,
    TrinityKeyFileOption,
)
from trinity_snap.cli.output import emit, plural, size
from trinity_snap.cli.progress import watched
from trinity_snap.errors import IntegrityError

if TYPE_CHECKING:
    from trinity_snap.repository.verify import VerifyReport

app = new_app()

_FILES_SHOWN = 20


@app.command()
def verify(
    points: Annotated[
        list[str] | None, typer.Argument(metavar="[POINT]...", help="Only these points.", show_default=False)
    ] = None,
    read_data: Annotated[
        bool, typer.Option("--read-data", help="Read and check every byte, not only that everything is there.")
    ] = False,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Check that recovery points can be restored. Nothing is changed."""
    from trinity_snap.repository.verify import verify as verify_points

    repository = open_repository(load(policy), Unlock(identity, passphrase_file, trinity_key_file))
    chosen = [repository.resolve(selector) for selector in points] if points else repository.points()
    with watched(quiet=quiet) as progress:
        report = verify_points(repository, chosen, read_data=read_data, progress=progress)
    answer = {
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
        "damaged_objects": [{"name": name, "reason": reason} for name, reason in report.damaged_objects.items()],
        "packs_checked": report.packs_checked,
        "bytes_read": report.bytes_read,
    }
    emit(answer, lambda: _lines(report, read_data), as_json)
    return 0 if report.good else IntegrityError.exit_code


def _lines(report: VerifyReport, read_data: bool) -> Iterator[str]:
    for verdict in report.points:
        if verdict.good:
            continue
        yield f"{verdict.id[:8]} of {verdict.agent} is DAMAGED:"
        yield from (f"  {problem}" for problem in verdict.problems)
        for volume, path in verdict.files[:_FILES_SHOWN]:
            yield f"  lost: {volume}:{os.fsdecode(path)}"
        if verdict.files_affected > _FILES_SHOWN:
            yield f"  and {verdict.files_affected - _FILES_SHOWN} more"
    for point_id, reason in report.unreadable:
        yield f"{point_id[:8]} cannot be read: {reason}"
    for name, reason in report.damaged_objects.items():
        yield f"{name}: {reason}"
    good = sum(verdict.good for verdict in report.points)
    how = (
        f"every byte of {plural(report.packs_checked, 'pack')} read ({size(report.bytes_read)})"
        if read_data
        else (f"{plural(report.packs_checked, 'pack')} there; --read-data reads them, too")
    )
    total = len(report.points) + len(report.unreadable)
    yield f"{good} of {plural(total, 'recovery point')} can be restored: {how}."
