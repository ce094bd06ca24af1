"""`trinity-snap drill`."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

import typer

from trinity_snap.cli.context import Unlock, load, open_repository, require_root
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
from trinity_snap.cli.output import emit, plural, seconds, size
from trinity_snap.cli.progress import watched
from trinity_snap.cli.recorded import recorded
from trinity_snap.errors import IntegrityError, SomeFailed, UsageError

if TYPE_CHECKING:
    from trinity_snap.drill import DrillResult, Swept
    from trinity_snap.policy.schema import Policy
    from trinity_snap.repository.points import RecoveryPoint
    from trinity_snap.repository.repository import Repository

app = new_app()


@app.command()
def drill(
    agents: Annotated[
        list[str] | None,
        typer.Argument(metavar="[AGENT]...", help="Only these; else all that the policy names.", show_default=False),
    ] = None,
    point: Annotated[
        str | None,
        typer.Option("--point", metavar="ID", help="Which point: an id, the start of one, or latest (default)."),
    ] = None,
    command: Annotated[
        str | None,
        typer.Option(
            "--command",
            metavar="CMD",
            help="Run this in the scratch place, instead of the policy's command; its exit code decides. '' runs none.",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave what was restored, and say where.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Show what would be drilled; restore nothing.")
    ] = False,
    target: TargetOption = None,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Prove that recovery points are good: restore them into a scratch place, compare, check databases, remove it again.

    No agent and no volume is touched, and backups may go on meanwhile. Exit code 10 if an agent could not be proved, 90
    if its recovery point is damaged.
    """
    from trinity_snap.drill import DrillSettings, scratch_directory, sweep
    from trinity_snap.drill import drill as drill_point

    settings = load(policy)
    require_root("drill")
    repository = open_repository(settings, Unlock(identity, passphrase_file, trinity_key_file), target)
    points = _choose(repository, settings, agents or [], point)
    if dry_run:
        emit(_plan(points), lambda: _plan_lines(points), as_json)
        return 0
    section = settings.drill
    swept = sweep(settings.state.directory)
    how = DrillSettings(
        settings.state.directory,
        scratch_directory(settings.state.directory, section.directory),
        (section.command if command is None else command) or None,
        section.time_limit_seconds,
        section.databases,
        section.ignore,
        keep,
        target,
    )
    with recorded(settings, "drill", quiet=quiet) as run:
        with watched(quiet=quiet) as progress:
            results = [drill_point(repository, one, how, progress) for one in points]
        run.drills(result.summary() for result in results)
    answer = {
        "drills": [result.to_json() for result in results],
        "removed": [str(path) for path in swept.removed],
        "problems": swept.problems,
    }
    emit(answer, lambda: _lines(results, swept), as_json)
    if any(result.damaged for result in results):
        return IntegrityError.exit_code
    failed = swept.problems or any(result.outcome != "proved" for result in results)
    return SomeFailed.exit_code if failed else 0


def _choose(repository: Repository, policy: Policy, agents: list[str], point: str | None) -> list[RecoveryPoint]:
    """The points to drill, by name of their agents."""
    if point is not None and point != "latest":
        if len(agents) > 1:
            raise UsageError("A recovery point is of one agent: name one, or none, with --point.")
        return [repository.resolve(point, agent=agents[0] if agents else None)]
    if agents:
        return [repository.resolve(agent=agent) for agent in sorted(set(agents))]
    wanted = policy.drill.agents
    chosen = [one for one in repository.latest_of_each() if any(fnmatchcase(one.agent, each) for each in wanted)]
    if not chosen:
        raise UsageError(
            "There is no agent to drill.",
            next_step="`trinity-snap list` shows whose recovery points there are, `drill: agents:` in the policy says which.",
        )
    return chosen


def _plan(points: list[RecoveryPoint]) -> dict[str, object]:
    return {
        "outcome": "planned",
        "drills": [
            {"agent": point.agent, "point": point.id, "files": point.files, "bytes": point.bytes} for point in points
        ],
        "lines": list(_plan_lines(points)),
    }


def _plan_lines(points: list[RecoveryPoint]) -> Iterator[str]:
    for point in points:
        yield f"Drill {point.agent} with recovery point {point.id[:8]}: {plural(point.files, 'file')}, {size(point.bytes)}"


def _lines(results: list[DrillResult], swept: Swept) -> Iterator[str]:
    yield from (f"Removed {path}, which a drill that died had left." for path in swept.removed)
    yield from swept.problems
    for result in results:
        yield from _result_lines(result)


def _result_lines(result: DrillResult) -> Iterator[str]:
    point = (result.point or "")[:8]
    if result.outcome == "proved":
        checked = [f"{plural(result.files, 'file')} of {size(result.bytes)} came back as they were"]
        if result.databases:
            checked.append(f"{plural(result.databases, 'SQLite database')} sound")
        if result.command is not None:
            checked.append("the command succeeded")
        yield f"{result.agent}: recovery point {point} is good: {'; '.join(checked)} ({seconds(result.duration_seconds)})."
    else:
        yield f"{result.agent}: recovery point {point} was NOT proved: {result.reason}"
    for one in result.damaged_databases:
        yield f"  {one.path}: {one.detail}"
    for one in result.unchecked_databases:
        yield f"  {one.path} was not checked: {one.detail}"
    if result.command is not None and result.command.exit_code != 0 and result.command.output:
        yield from (f"  | {line}" for line in result.command.output.splitlines()[-10:])
    if result.skipped:
        yield f"  {plural(result.skipped, 'device')} not made: a scratch place has none."
    if result.kept:
        yield f"  What was restored is in {result.kept}; remove it when you are done."
    if not result.recorded:
        yield "  It is noted on this host only: the repository could not be written."
