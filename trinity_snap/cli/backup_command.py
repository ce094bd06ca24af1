"""`trinity-snap backup`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from trinity_snap.cli.context import load, require_root
from trinity_snap.cli.group import new_app
from trinity_snap.cli.options import JsonOption, PolicyOption, QuietOption
from trinity_snap.cli.output import emit, plural, seconds, size, table
from trinity_snap.cli.progress import watched
from trinity_snap.cli.recorded import recorded

if TYPE_CHECKING:
    from trinity_snap.backup.result import RunResult

app = new_app()

_ENDING = {
    "done": "Done.",
    "downgraded": "Done, with a weaker guarantee than the policy asks for.",
    "some-failed": "Some agents were not backed up, or not all of them.",
    "failed": "Nothing was backed up.",
}


@app.command()
def backup(
    agents: Annotated[
        list[str] | None, typer.Argument(metavar="[AGENT]...", help="Only these agents.", show_default=False)
    ] = None,
    run_id: Annotated[
        str | None,
        typer.Option("--run-id", metavar="HEX", help="Shared by the hosts of a fleet run.", show_default=False),
    ] = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Back up all agents of this host, or those named, in one run."""
    settings = load(policy)
    require_root("backup")
    from trinity_snap.trinity.entitlements import require, uses_of_run

    require(settings, uses_of_run(settings))
    from trinity_snap.backup.run import run_backup

    with recorded(settings, "backup", quiet=quiet) as run:
        with watched(quiet=quiet) as progress:
            result = run_backup(settings, agents or None, progress, run_id=run_id)
        run.backup(result, whole=not agents)
    emit(result.to_json(), lambda: _lines(result), as_json)
    return result.exit_code()


def _lines(result: RunResult) -> Iterator[str]:
    rows = [
        (
            agent.agent,
            agent.outcome,
            (agent.point or "-")[:8],
            str(agent.files),
            size(agent.bytes),
            size(agent.bytes_stored),
            seconds(agent.pause_seconds),
            agent.consistency or "-",
        )
        for agent in result.agents
    ]
    header = ("AGENT", "OUTCOME", "POINT", "FILES", "SIZE", "STORED", "PAUSE", "CONSISTENCY")
    yield from table(header, rows, right=(3, 4, 5, 6))
    yield ""
    for agent in result.agents:
        if agent.error:
            yield f"{agent.agent}: {agent.error}"
        if agent.stopped_seconds:
            yield f"{agent.agent}: It was shut down for {seconds(agent.stopped_seconds)}."
        for problem in agent.problems[:10]:
            yield f"{agent.agent}: {problem['volume']}: {problem['path']}: {problem['reason']}"
        if len(agent.problems) > 10:
            yield f"{agent.agent}: and {len(agent.problems) - 10} more; --json has them all."
    yield from result.left_behind
    yield from (replica.sentence() for replica in result.replicas)
    took = f"{plural(len(result.agents), 'agent')} in {seconds(result.duration_seconds)}"
    ending = _ENDING[result.outcome]
    if result.left_behind and not any(agent.outcome == "downgraded" for agent in result.agents):
        ending = _ENDING["done"]
    yield f"{ending} {took}, run {result.run_id[:8]}."
