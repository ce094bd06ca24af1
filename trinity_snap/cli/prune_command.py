"""`trinity-snap prune`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
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
from trinity_snap.cli.output import emit, local_time, plural, size
from trinity_snap.cli.progress import watched
from trinity_snap.report.times import timestamp

if TYPE_CHECKING:
    from trinity_snap.repository.prune import PruneReport

app = new_app()

_LOOK_SECONDS = 600.0


@app.command()
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show what would be done; change nothing.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait, a day or more, until what is fenced now can be deleted.")
    ] = False,
    accept_missing: Annotated[
        bool, typer.Option("--accept-missing", help="Go on although points are gone that nobody forgot.")
    ] = False,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Delete what no recovery point needs: what an earlier prune condemned long enough ago. Backups may go on meanwhile."""
    from trinity_snap.repository.prune import prune as prune_repository

    repository = open_repository(load(policy), Unlock(identity, passphrase_file, trinity_key_file))
    with watched(quiet=quiet) as progress:
        report = prune_repository(repository, dry_run=dry_run, accept_missing=accept_missing, progress=progress)
        while wait and not dry_run and report.waiting:
            due_ns = max(waiting.due_ns for waiting in report.waiting)
            progress.stage(f"waiting until {local_time(_moment(due_ns))}, by the storage's clock (seconds)")
            until = time.time() + (due_ns - report.now_ns) / 1e9 + 1
            while (left := until - time.time()) > 0:
                time.sleep(min(left, _LOOK_SECONDS))
            report = prune_repository(repository, progress=progress)
    emit(_answer(report), lambda: _lines(report), as_json)
    return 0


def _moment(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns / 1e9, UTC)


def _answer(report: PruneReport) -> dict[str, object]:
    return {
        "dry_run": report.dry_run,
        "storage_time": timestamp(_moment(report.now_ns)),
        "points": report.points,
        "not_counting": [
            {"id": point.id, "agent": point.agent, "reason": point.judgement.reason} for point in report.not_counting
        ],
        "packs": report.packs,
        "deleted_packs": report.deleted_packs,
        "deleted_bytes": report.deleted_bytes,
        "released_packs": report.released_packs,
        "kept_fenced_packs": report.kept_fenced_packs,
        "fenced_packs": report.fenced_packs,
        "fenced_bytes": report.fenced_bytes,
        "young_packs": report.young_packs,
        "deleted_index_objects": report.deleted_index_objects,
        "waiting": [
            {
                "fence": waiting.fence,
                "packs": waiting.packs,
                "bytes": waiting.bytes,
                "due": timestamp(_moment(waiting.due_ns)),
            }
            for waiting in report.waiting
        ],
    }


def _lines(report: PruneReport) -> Iterator[str]:
    for point in report.not_counting:
        yield f"{point.id[:8]} of {point.agent} does not count: {point.judgement.reason}"
    would = "would be " if report.dry_run else ""
    yield f"{plural(report.deleted_packs, 'pack')} {would}deleted: {size(report.deleted_bytes)}."
    if report.released_packs:
        yield f"{plural(report.released_packs, 'pack')} came into use, and stay."
    if report.fenced_packs:
        yield f"{plural(report.fenced_packs, 'pack')} {would}condemned: {size(report.fenced_bytes)}."
    if report.waiting:
        packs, size_waiting = sum(one.packs for one in report.waiting), sum(one.bytes for one in report.waiting)
        due = local_time(_moment(max(one.due_ns for one in report.waiting)))
        yield f"{plural(packs, 'condemned pack')} ({size(size_waiting)}) can be deleted by a prune after {due}."
    if report.young_packs:
        yield f"{plural(report.young_packs, 'pack')} needed by no point may belong to a run that is under way."
