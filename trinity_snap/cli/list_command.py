"""`trinity-snap list`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from trinity_snap.cli.context import Unlock, is_damaged, load, open_repository
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
from trinity_snap.cli.output import age, emit, local_time, plural, size, table
from trinity_snap.errors import IntegrityError
from trinity_snap.report.points import point_summary

if TYPE_CHECKING:
    from trinity_snap.repository.points import RecoveryPoint

app = new_app()


@app.command("list")
def list_points(
    agent: Annotated[
        str | None, typer.Argument(metavar="[AGENT]", help="Only this agent's.", show_default=False)
    ] = None,
    target: TargetOption = None,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """The recovery points, newest first. Those that do not count are marked: they are never taken for the latest."""
    from trinity_snap.repository.counting import void_points

    repository = open_repository(load(policy), Unlock(identity, passphrase_file, trinity_key_file), target)
    points = repository.points(agent)
    unreadable = list(repository.unreadable_points)
    void = void_points(repository, points)
    answer = {
        "points": [point_summary(point, void.get(point.id)) for point in points],
        "unreadable": [{"id": point_id, "reason": reason} for point_id, reason in unreadable],
    }
    emit(answer, lambda: _lines(points, void, unreadable, agent), as_json)
    return IntegrityError.exit_code if is_damaged(repository) else 0


def _lines(
    points: list[RecoveryPoint], void: dict[str, str], unreadable: list[tuple[str, str]], agent: str | None
) -> Iterator[str]:
    rows = [
        (
            point.id[:8],
            point.agent,
            local_time(point.created),
            age(point.created),
            str(point.files),
            size(point.bytes),
            "VOID" if point.id in void else point.consistency,
            point.host,
        )
        for point in points
    ]
    if rows:
        header = ("POINT", "AGENT", "CREATED", "AGE", "FILES", "SIZE", "CONSISTENCY", "HOST")
        yield from table(header, rows, right=(4, 5))
    else:
        yield "No recovery points." if agent is None else f"No recovery points of an agent “{agent}”."
    if void:
        yield ""
        yield f"{plural(len(void), 'recovery point')} void, and never taken for the latest:"
        yield from (f"  {point_id[:8]}: {reason}" for point_id, reason in void.items())
    if unreadable:
        yield ""
        yield f"{plural(len(unreadable), 'recovery point')} cannot be read:"
        yield from (f"  {point_id[:8]}: {reason}" for point_id, reason in unreadable)
