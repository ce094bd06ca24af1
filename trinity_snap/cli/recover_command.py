"""`trinity-snap recover`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from trinity_snap.cli.context import require_root
from trinity_snap.cli.granted import load_or_default
from trinity_snap.cli.group import new_app
from trinity_snap.cli.options import JsonOption, PolicyOption, QuietOption
from trinity_snap.cli.output import emit
from trinity_snap.cli.recorded import recorded
from trinity_snap.errors import DockerUnavailable, HostBusy, TrinitySnapError

if TYPE_CHECKING:
    from pathlib import Path

    from docker import DockerClient

    from trinity_snap.quiesce import HostLock, RecoverReport
    from trinity_snap.restore import ResumedRestore

app = new_app()
WaitOption = Annotated[
    str | None,
    typer.Option(
        "--wait", metavar="TIME",
        help="Wait so long for whoever holds the host (30s, 5m); leave it to a backup, which does the same first.",
        show_default=False,
    ),
]  # fmt: skip
StraysOption = Annotated[
    bool,
    typer.Option("--strays", help="Remove snapshots of ours, too, that nothing here noted, if no run is alive."),
]


@app.command()
def recover(
    policy: PolicyOption = None,
    wait: WaitOption = None,
    strays: StraysOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Undo whatever a dead run left behind: paused or stopped containers, hooks, snapshots, restores half done."""
    settings, _ = load_or_default(policy)  # restores with grants need no policy, and may need to be undone
    require_root("recover")
    from trinity_snap.quiesce import HostLock, RecoverReport
    from trinity_snap.report.times import parse_duration

    state = settings.state.directory
    wait_seconds = parse_duration(wait).total_seconds() if wait else 0.0
    client, unavailable = _docker()
    failures: list[TrinitySnapError] = []
    report: RecoverReport | None = None
    restores: list[ResumedRestore] = []
    left_to = ""
    with recorded(settings, "recover", quiet=quiet) as run:
        try:
            with HostLock(state, f"recover-{os.getpid()}", "recover", wait_seconds) as lock:
                if client is not None:
                    lock.hold_daemon(client)
                report, restores, failures = _undo(state, client, lock, and_strays=strays)
        except HostBusy as busy:
            if wait is None or strays or not busy.undoes_first:
                raise
            left_to = busy.message
        if report is not None and unavailable is not None and report.runs:
            failures.append(unavailable)
        if failures:
            raise max(failures, key=lambda error: error.exit_code == 11)
        if report is not None:
            problems = "; ".join(report.problems)[:500] or None
            undone = len(report.runs) + len(restores)
            run.ended("failed" if problems else "done", error=problems, undone=undone, resumed=len(report.resumed))
    answer = {
        **(report or RecoverReport()).to_json(),
        "restores": [one.to_json() for one in restores],
        "left_to": left_to or None,
    }
    emit(answer, lambda: _lines(report, restores, left_to), as_json)
    return 1 if report is not None and report.problems else 0


def _undo(
    state: Path, client: DockerClient | None, lock: HostLock, *, and_strays: bool
) -> tuple[RecoverReport | None, list[ResumedRestore], list[TrinitySnapError]]:
    """All of it, as far as it goes: what came of runs (None if that failed as a whole), of restores, and the errors."""
    from trinity_snap.drill import sweep
    from trinity_snap.quiesce import recover as recover_runs
    from trinity_snap.quiesce.recover import remove_strays
    from trinity_snap.restore import resume_restores
    from trinity_snap.rollback import forget_undone

    failures: list[TrinitySnapError] = []
    report: RecoverReport | None = None
    restores: list[ResumedRestore] = []
    try:
        report = recover_runs(state, client)
        if and_strays:
            remove_strays(report, lock)
    except TrinitySnapError as error:
        failures.append(error)
    swept = sweep(state)
    if report is not None:
        report.removed += swept.removed
        report.problems += swept.problems
    try:
        restores = resume_restores(state, client)
        undone = {one.id for one in restores if one.outcome == "undone"}
        problems = forget_undone(state, undone)
        if report is not None:
            report.problems += problems
    except TrinitySnapError as error:
        failures.append(error)
    return report, restores, failures


def _docker() -> tuple[DockerClient | None, DockerUnavailable | None]:
    from trinity_snap.agents import connect

    try:
        return connect(), None
    except DockerUnavailable as error:
        return None, error


def _lines(report: RecoverReport | None, restores: list[ResumedRestore], left_to: str) -> Iterator[str]:
    lines = [f"{left_to} It undid what dead runs had left before it began; nothing else was done."] if left_to else []
    lines += [] if report is None else _run_lines(report)
    lines += [f"Restore {restore.id} of {restore.agent} was {restore.outcome}." for restore in restores]
    yield from lines or ["Nothing was left behind."]


def _run_lines(report: RecoverReport) -> Iterator[str]:
    yield from (f"Resumed container {name}." for name in report.resumed)
    yield from (f"Started container {name}." for name in report.started)
    yield from (f"Ran the after-hook of {agent}." for agent in report.hooks)
    yield from (f"Switched the autonomy of {agent} on again." for agent in report.autonomy)
    yield from (f"Removed {path}." for path in report.removed)
    yield from (f"Run {run} is alive and was left alone." for run in report.alive)
    for path in report.strays:
        yield f"{path} looks like ours, but nothing here noted it; it was left alone."
        if "keep-" in path.name:
            yield "`trinity-snap rollback --list` shows how to remove it."
        else:
            yield "`trinity-snap recover --strays` removes it, if no run of any policy is alive on this host."
    yield from report.waiting
    yield from (f"Not undone: {problem}" for problem in report.problems)
