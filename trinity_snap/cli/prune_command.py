"""`trinity-snap prune`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trinity_snap.cli.context import Unlock, load, open_repository
from trinity_snap.cli.entitled import require_at
from trinity_snap.cli.group import new_app
from trinity_snap.cli.options import (
    AllTargetsOption,
    IdentityOption,
    JsonOption,
    PassphraseFileOption,
    PolicyOption,
    QuietOption,
    RemovalTargetOption,
    TrinityKeyFileOption,
)
from trinity_snap.cli.output import emit, local_time, plural, size
from trinity_snap.cli.progress import watched
from trinity_snap.cli.recorded import recorded
from trinity_snap.cli.repack_report import repack_answer, repack_lines
from trinity_snap.cli.replicas import chosen_replicas, do_at_replicas, replica_lines, replicas_answer, replicas_code
from trinity_snap.errors import UsageError
from trinity_snap.report.times import timestamp

if TYPE_CHECKING:
    from trinity_snap.policy.schema import RepackSection
    from trinity_snap.progress import Progress
    from trinity_snap.repository.prune import PruneReport
    from trinity_snap.repository.repack import RepackReport
    from trinity_snap.repository.repack_plan import RepackWish
    from trinity_snap.repository.repository import Repository
    from trinity_snap.trusted.replicas import AtReplica

app = new_app()

_LOOK_SECONDS = 600.0


@app.command()
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show what would be done; change nothing.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait, a day or more, until what is fenced now can be deleted.")
    ] = False,
    repack: Annotated[
        bool | None,
        typer.Option(
            "--repack/--no-repack",
            help="Move what is needed out of mostly dead packs first, at the first target. Else as the policy says.",
            show_default=False,
        ),
    ] = None,
    repack_budget: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="With --repack: store at most about so much anew in this call."),
    ] = None,
    repack_unused: Annotated[
        str | None,
        typer.Option(metavar="PERCENT", help="With --repack: stop when no more than this part of the data is dead."),
    ] = None,
    accept_missing: Annotated[
        bool, typer.Option("--accept-missing", help="Go on although points are gone that nobody forgot.")
    ] = False,
    target: RemovalTargetOption = None,
    all_targets: AllTargetsOption = False,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Delete what no recovery point needs: what an earlier prune condemned long enough ago. Backups may go on meanwhile."""
    if repack and target is not None:
        raise UsageError(
            "A replica is not repacked: it gets what the first target has.",
            untouched="Nothing was changed.",
            next_step="Use --repack without --target; `replicate` and `prune --target` then do the same there.",
        )
    loaded = load(policy)
    wish = None
    if loaded.repack.with_prune if repack is None else repack:
        wish = _wish(loaded.repack, repack_budget, repack_unused)
    names = chosen_replicas(loaded, target, all_targets=all_targets)
    unlock = Unlock(identity, passphrase_file, trinity_key_file)
    if not dry_run:
        require_at(loaded, target, names)
    first = open_repository(loaded, unlock)
    state = loaded.state.directory
    repacked: RepackReport | None = None
    with recorded(loaded, "prune", quiet=quiet, dry_run=dry_run) as run, watched(quiet=quiet) as progress:

        def at_first() -> PruneReport:
            from trinity_snap.repository.prune import prune

            return prune(
                first, dry_run=dry_run, accept_missing=accept_missing, progress=progress, memory=_memory(state, "first")
            )

        def at_replica(name: str, replica: Repository) -> PruneReport:
            from trinity_snap.trusted.replicas import prune_at_replica

            def again() -> PruneReport:
                return prune_at_replica(
                    first, replica, dry_run=dry_run, accept_missing=accept_missing, progress=progress,
                    memory=_memory(state, f"replica-{name}"),
                )  # fmt: skip

            return _waited(again, progress, wait=wait and not dry_run)

        if wish is not None and target is None:
            from trinity_snap.repository.repack import repack as repack_packs

            repacked = repack_packs(first, wish=wish, dry_run=dry_run, accept_missing=accept_missing, progress=progress)
        if target is not None:
            report = at_replica(target, open_repository(loaded, unlock, target))
            others: list[AtReplica[PruneReport]] = []
        else:
            report = _waited(at_first, progress, wait=wait and not dry_run)
            others = do_at_replicas(loaded, unlock, names, at_replica)
        outcome = "some-failed" if replicas_code(others) else "done"
        run.ended(outcome, target=target, deleted=report.deleted_packs, deleted_bytes=report.deleted_bytes)
    answer = {
        **_answer(report),
        "repack": repack_answer(repacked),
        "target": target,
        "replicas": replicas_answer(others, _answer),
    }
    emit(answer, lambda: (*repack_lines(repacked), *_lines(report), *replica_lines(others, _lines)), as_json)
    return replicas_code(others)


def _wish(settings: RepackSection, budget: str | None, unused: str | None) -> RepackWish:
    """What the options say and, where they say nothing, the policy. Raise UsageError."""
    from trinity_snap.policy.values import parse_size
    from trinity_snap.repository.repack_plan import RepackWish

    try:
        size_wanted = settings.budget if budget is None else parse_size(budget)
    except ValueError as error:
        raise UsageError(f"--repack-budget: {error}.", next_step="Give a size, as 2GiB.") from error
    percent = str(settings.unused_percent) if unused is None else unused.removesuffix("%")
    if not percent.isdecimal() or int(percent) > 100:
        raise UsageError("--repack-unused: it is no percentage from 0% to 100%.", next_step="Give one, as 10%.")
    return RepackWish(size_wanted, int(percent) / 100, settings.share_percent / 100, settings.small_packs)


def _waited(work: Callable[[], PruneReport], progress: Progress, *, wait: bool) -> PruneReport:
    """Do it; with `wait` again when what was fenced can be deleted, until nothing waits."""
    report = work()
    while wait and report.waiting:
        due_ns = max(waiting.due_ns for waiting in report.waiting)
        progress.stage(f"waiting until {local_time(_moment(due_ns))}, by the storage's clock (seconds)")
        until = time.time() + (due_ns - report.now_ns) / 1e9 + 1
        while (left := until - time.time()) > 0:
            time.sleep(min(left, _LOOK_SECONDS))
        report = work()
    return report


def _memory(state: Path, name: str) -> Path:
    """Where this machine remembers which session each pack at a place is of."""
    return state / "packs" / name


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
        "deleted_sessions": report.deleted_sessions,
        "deleted_copy_notes": report.deleted_copy_notes,
        "superseded_points": report.superseded,
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
