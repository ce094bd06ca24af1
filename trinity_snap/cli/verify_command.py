"""`trinity-snap verify`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from trinity_snap.cli.context import Unlock, load, open_keyless, open_repository
from trinity_snap.cli.group import new_app
from trinity_snap.cli.options import (
    IdentityOption,
    JsonOption,
    PassphraseFileOption,
    PolicyOption,
    QuietOption,
    TargetOption,
    TrinityKeyFileOption,
)
from trinity_snap.cli.output import emit, plural, size
from trinity_snap.cli.progress import watched
from trinity_snap.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy
    from trinity_snap.repository.stored import StoredReport
    from trinity_snap.repository.verify import VerifyReport
    from trinity_snap.trusted.hidden import Hidden

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
    hashes: Annotated[
        bool,
        typer.Option("--hashes", help="Compare every pack with the hash that is its name; needs no identity."),
    ] = False,
    target: TargetOption = None,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Check that recovery points can be restored. Nothing is changed.

    Without an identity, only that everything is there that was stored, with its length or, with --hashes, as it was.
    """
    from trinity_snap.repository.verify import verify as verify_points
    from trinity_snap.trusted.hidden import hidden_objects

    settings = load(policy)
    if hashes and (points or read_data):
        raise UsageError("--hashes goes with neither POINT nor --read-data.")
    if hashes or (identity is None and settings.keys.identity is None and not points and not read_data):
        return _without_identity(settings, target, hashes=hashes, as_json=as_json, quiet=quiet)
    repository = open_repository(settings, Unlock(identity, passphrase_file, trinity_key_file), target)
    chosen = [repository.resolve(selector) for selector in points] if points else repository.points()
    with watched(quiet=quiet) as progress:
        report = verify_points(repository, chosen, read_data=read_data, progress=progress)
        hidden = hidden_objects(repository.target)
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
        "overwritten": list(hidden.overwritten),
        "deleted_points": [name.removeprefix("points/") for name in hidden.deleted_points],
        "packs_checked": report.packs_checked,
        "bytes_read": report.bytes_read,
        "opened": True,
        "notes": [],
    }
    emit(answer, lambda: (*_lines(report, read_data), *_hidden(hidden)), as_json)
    return 0 if report.good else IntegrityError.exit_code


def _without_identity(policy: Policy, replica: str | None, *, hashes: bool, as_json: bool, quiet: bool) -> int:
    from trinity_snap.backup.treecache import needed_packs
    from trinity_snap.repository.stored import verify_stored

    repository = open_keyless(policy, replica)
    needed = needed_packs(policy.state.directory / "cache" / repository.id.hex() / "trees")
    with watched(quiet=quiet) as progress:
        report = verify_stored(repository, needed, hashes=hashes, progress=progress)
    answer = {
        "good": report.good,
        "read_data": False,
        "points": [],
        "unreadable": [],
        "damaged_objects": [
            {"name": name, "reason": reason} for name, reason in sorted(report.damaged_objects.items())
        ],
        "overwritten": [],
        "deleted_points": [],
        "packs_checked": report.packs_checked,
        "bytes_read": report.bytes_read,
        "opened": False,
        "notes": report.notes,
    }
    emit(answer, lambda: _stored_lines(report), as_json)
    return 0 if report.good else IntegrityError.exit_code


def _stored_lines(report: StoredReport) -> Iterator[str]:
    for name, reason in sorted(report.damaged_objects.items()):
        yield f"{name}: {reason}"
    yield from report.notes
    looked = f"{report.packs_checked} of {plural(report.packs, 'pack')} compared by length"
    if report.bytes_read:
        looked += f", {size(report.bytes_read)} by hash"
    there = f"{plural(report.points, 'recovery point')} and {plural(report.packs, 'pack')}"
    yield f"{there} are there: {looked}. No point was opened."


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


def _hidden(hidden: Hidden) -> Iterator[str]:
    how = "see `trinity-snap target heal --dry-run`, on the control node"
    if hidden.overwritten:
        yield f"{plural(len(hidden.overwritten), 'object')} of the bucket had something put over it: {how}."
    if hidden.deleted_points:
        yield f"{plural(len(hidden.deleted_points), 'recovery point')} that retention or somebody deleted can be had back: {how}."
