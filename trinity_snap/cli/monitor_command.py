"""`trinity-snap monitor`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from trinity_snap.cli.context import load
from trinity_snap.cli.group import new_app
from trinity_snap.cli.options import JsonOption, PolicyOption, QuietOption
from trinity_snap.cli.output import emit, plural
from trinity_snap.errors import SomeFailed, TrinitySnapError

if TYPE_CHECKING:
    from trinity_snap.monitor.conditions import Condition
    from trinity_snap.monitor.telling import Observation

app = new_app()


@app.command()
def monitor(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Show what is wrong; tell nobody, and note nothing.")
    ] = False,
    test: Annotated[
        bool, typer.Option("--test", help="Send a test message to everybody who is told of alarms.")
    ] = False,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """What is wrong with the backups of this host, told once to whoever should know. Writes the metrics, too.

    Every run does the same at its end; a timer does it for runs that never began. Exit code 1 while something is wrong, 10
    if somebody could not be told.
    """
    settings = load(policy)
    if test:
        from trinity_snap.monitor.telling import try_sinks

        told, problems = try_sinks(settings)
        emit({"told": told, "problems": problems}, lambda: _test_lines(told, problems), as_json)
        return SomeFailed.exit_code if problems else 0
    from trinity_snap.monitor.surroundings import look_around
    from trinity_snap.monitor.telling import look, observe

    if dry_run:
        seen, not_seen = look(settings), list[str]()
    else:
        try:
            not_seen = look_around(settings)
            seen = observe(settings)
        except (OSError, TimeoutError) as error:
            raise TrinitySnapError(
                f"Nobody was told about alarms: {error.strerror or error}.",
                next_step="See whether the state directory can be written, or look with --dry-run.",
            ) from error
    emit(_answer(seen, not_seen), lambda: _lines(seen, not_seen), as_json)
    if seen.problems:
        return SomeFailed.exit_code
    return 1 if seen.conditions else 0


def _answer(seen: Observation, not_seen: list[str]) -> dict[str, object]:
    return {
        "well": not seen.conditions,
        "alarms": [_one(condition) for condition in seen.conditions],
        "raised": [f"{one.kind}:{one.subject}" for one in seen.raised],
        "cleared": [f"{one.kind}:{one.subject}" for one in seen.cleared],
        "told": seen.told,
        "problems": seen.problems,
        "not_seen": not_seen,
    }


def _one(condition: Condition) -> dict[str, object]:
    return {
        "kind": condition.kind,
        "subject": condition.subject,
        "severity": condition.severity,
        "sentence": condition.sentence,
        "advice": condition.advice,
    }


def _lines(seen: Observation, not_seen: list[str]) -> Iterator[str]:
    for condition in seen.conditions:
        yield f"{condition.severity.upper()}: {condition.sentence}"
        yield f"  {condition.advice}"
    yield from (f"Over: {episode.sentence}" for episode in seen.cleared)
    if not seen.conditions:
        yield "All is well."
    for sink, count in seen.told.items():
        yield f"Told {sink}: {plural(count, 'message')}." if sink not in ("ping", "textfile") else f"Told {sink}."
    yield from (f"NOT told: {problem}" for problem in seen.problems)
    yield from not_seen


def _test_lines(told: dict[str, int], problems: list[str]) -> Iterator[str]:
    yield from (f"Told {sink}." for sink in told)
    yield from (f"NOT told: {problem}" for problem in problems)
    if not told and not problems:
        yield "The policy names nobody to tell: `monitor: notify_file:`."
