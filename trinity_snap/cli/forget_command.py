"""`trinity-snap forget`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from trinity_snap.cli.context import Unlock, load, open_repository
from trinity_snap.cli.entitled import require_at, rules_of
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
from trinity_snap.cli.output import emit, local_time, plural, table
from trinity_snap.cli.progress import watched
from trinity_snap.cli.replicas import chosen_replicas, do_at_replicas, replica_lines, replicas_answer, replicas_code
from trinity_snap.errors import SomeFailed
from trinity_snap.report.times import timestamp

if TYPE_CHECKING:
    from trinity_snap.repository.forget import ForgetReport
    from trinity_snap.repository.repository import Repository
    from trinity_snap.trusted.replicas import AtReplica

app = new_app()


@app.command()
def forget(
    chosen: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[AGENT|POINT]...",
            help="Apply the policy to these agents only; or remove just these points.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Show of each point why it stays or goes; remove nothing.")
    ] = False,
    accept: Annotated[
        list[str] | None,
        typer.Option(metavar="AGENT", help="Go on although its newest point is void or small.", show_default=False),
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
    """Remove recovery points that the policy does not keep. `prune` then frees their space."""
    loaded = load(policy)
    names = chosen_replicas(loaded, target, all_targets=all_targets)
    unlock = Unlock(identity, passphrase_file, trinity_key_file)
    if not dry_run:
        require_at(loaded, target, names)
    first = open_repository(loaded, unlock)
    with watched(quiet=quiet) as progress:

        def at_replica(name: str, replica: Repository) -> ForgetReport:
            from trinity_snap.trusted.replicas import forget_at_replica

            section = loaded.replica(name)
            return forget_at_replica(
                first, replica, rules_of(loaded, section, dry_run=dry_run), chosen or (), dry_run=dry_run,
                accept=accept or (), accept_missing=accept_missing, progress=progress, lenient=target is None,
            )  # fmt: skip

        others: list[AtReplica[ForgetReport]] = []
        if target is not None:
            report = at_replica(target, open_repository(loaded, unlock, target))
        else:
            from trinity_snap.repository.forget import forget as forget_points

            report = forget_points(
                first, rules_of(loaded, dry_run=dry_run), chosen or (), dry_run=dry_run, accept=accept or (),
                accept_missing=accept_missing, progress=progress,
            )  # fmt: skip
            others = do_at_replicas(loaded, unlock, names, at_replica)
    answer = {**_answer(report), "target": target, "replicas": replicas_answer(others, _answer)}
    emit(answer, lambda: (*_lines(report), *replica_lines(others, _lines)), as_json)
    reports = [report, *(one.report for one in others if one.report is not None)]
    if any(agent.refused for each in reports for agent in each.agents):
        return SomeFailed.exit_code
    return replicas_code(others)


def _moment(time_ns: int) -> datetime:
    return datetime.fromtimestamp(min(max(time_ns / 1e9, 0), 250e9), UTC)


def _answer(report: ForgetReport) -> dict[str, object]:
    return {
        "dry_run": report.dry_run,
        "agents": [
            {
                "agent": agent.agent,
                "refused": agent.refused,
                "points": [
                    {
                        "id": point.id,
                        "stored": timestamp(_moment(point.time_ns)),
                        "created": timestamp(_moment(point.created_ns)),
                        "counts": point.judgement.counts,
                        "keep": decision.keep or agent.refused is not None,
                        "reasons": list(decision.reasons),
                    }
                    for point, decision in agent.decisions
                ],
            }
            for agent in report.agents
        ],
        "forgotten": report.forgotten,
    }


def _lines(report: ForgetReport) -> Iterator[str]:
    rows = [
        (
            point.id[:8],
            agent.agent,
            local_time(_moment(point.time_ns)),
            "stays" if decision.keep or agent.refused else "goes",
            "; ".join(decision.reasons) + ("" if point.judgement.counts else f". {point.judgement.reason}"),
        )
        for agent in report.agents
        for point, decision in agent.decisions
    ]
    if report.dry_run and rows:
        yield from table(("POINT", "AGENT", "STORED", "", "WHY"), rows)
        yield ""
    for agent in report.agents:
        if agent.refused:
            yield f"Nothing of {agent.agent} is removed: {agent.refused}"
    done = "would be forgotten" if report.dry_run else "forgotten"
    yield f"{plural(len(report.forgotten), 'recovery point')} {done}, {len(rows) - len(report.forgotten)} stay."
