"""`trinity-snap recover`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trinity_snap.cli.context import load, require_root
from trinity_snap.cli.group import new_app
from trinity_snap.cli.options import JsonOption, PolicyOption, QuietOption
from trinity_snap.cli.output import emit
from trinity_snap.errors import DockerUnavailable, TrinitySnapError

if TYPE_CHECKING:
    from docker import DockerClient

    from trinity_snap.quiesce import RecoverReport
    from trinity_snap.restore import ResumedRestore

app = new_app()


@app.command()
def recover(policy: PolicyOption = None, as_json: JsonOption = False, quiet: QuietOption = False) -> int:
    """Undo whatever a dead run left behind: paused or stopped containers, hooks, snapshots, restores half done."""
    settings = load(policy)
    require_root("recover")
    from trinity_snap.quiesce import HostLock
    from trinity_snap.quiesce import recover as recover_runs
    from trinity_snap.restore import resume_restores
    from trinity_snap.rollback import forget_undone

    state = settings.state.directory
    client, unavailable = _docker()
    failures: list[TrinitySnapError] = []
    report: RecoverReport | None = None
    restores: list[ResumedRestore] = []
    with HostLock(state, f"recover-{os.getpid()}", "recover") as lock:
        if client is not None:
            lock.hold_daemon(client)
        try:
            report = recover_runs(state, client)
        except TrinitySnapError as error:
            failures.append(error)
        try:
            restores = resume_restores(state, client)
            undone = {one.id for one in restores if one.outcome == "undone"}
            problems = forget_undone(state, undone)
            if report is not None:
                report.problems += problems
        except TrinitySnapError as error:
            failures.append(error)
    if report is not None and unavailable is not None and report.runs:
        failures.append(unavailable)
    if failures:
        raise max(failures, key=lambda error: error.exit_code == 11)
    answer = {**({} if report is None else report.to_json()), "restores": [one.to_json() for one in restores]}
    emit(answer, lambda: _lines(report, restores), as_json)
    return 1 if report is not None and report.problems else 0


def _docker() -> tuple[DockerClient | None, DockerUnavailable | None]:
    from trinity_snap.agents import connect

    try:
        return connect(), None
    except DockerUnavailable as error:
        return None, error


def _lines(report: RecoverReport | None, restores: list[ResumedRestore]) -> Iterator[str]:
    quiet = True
    if report is not None:
        for name in report.resumed:
            quiet = False
            yield f"Resumed container {name}."
        for name in report.started:
            quiet = False
            yield f"Started container {name}."
        for agent in report.hooks:
            quiet = False
            yield f"Ran the after-hook of {agent}."
        for path in report.removed:
            quiet = False
            yield f"Removed {path}."
        for run in report.alive:
            quiet = False
            yield f"Run {run} is alive and was left alone."
        for path in report.strays:
            quiet = False
            yield f"{path} looks like ours, but nothing here noted it; it was left alone."
            if path.name.startswith("keep-"):
                yield "`trinity-snap rollback --list` shows how to remove it."
        for sentence in report.waiting:
            quiet = False
            yield sentence
        for problem in report.problems:
            quiet = False
            yield f"Not undone: {problem}"
    for restore in restores:
        quiet = False
        yield f"Restore {restore.id} of {restore.agent} was {restore.outcome}."
    if quiet:
        yield "Nothing was left behind."
