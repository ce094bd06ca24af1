"""`trinity-snap policy`: show, check, schema, and what changes it (`policy_editing`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trinity_snap.cli.context import load
from trinity_snap.cli.group import new_app
from trinity_snap.cli.options import JsonOption, PolicyOption, QuietOption
from trinity_snap.cli.output import emit, table
from trinity_snap.cli.policy_editing import add_to
from trinity_snap.errors import PolicyError

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy

app = new_app(help="Show, check, change or describe the policy.", no_args_is_help=True)


@app.command()
def show(
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="NAME", help="What holds for this agent.", show_default=False)
    ] = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """The effective policy, with where each value comes from."""
    from trinity_snap.policy.explain import explain
    from trinity_snap.policy.fields import in_yaml

    settings = load(policy)
    rows = explain(settings, agent)
    answer = {
        "path": str(settings.path),
        "agent": agent,
        "settings": [{"setting": row.setting, "value": row.value, "origin": row.origin} for row in rows],
    }
    cells = [(row.setting, in_yaml(row.setting, row.value), row.origin) for row in rows]
    emit(answer, lambda: table(("SETTING", "VALUE", "FROM"), cells), as_json)


@app.command()
def check(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A policy, instead of the one in force.", show_default=False)
    ] = None,
    instead_of: Annotated[
        Path | None,
        typer.Option(
            "--instead-of",
            metavar="PATH",
            help="Say also how many recovery points would go if it took the place of that one.",
            show_default=False,
        ),
    ] = None,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find the mistakes in a policy; each is named with its line."""
    from trinity_snap.policy.load import policy_path
    from trinity_snap.policy.schedules import check_schedules

    path = policy_path(file or policy)
    try:
        wanted = load(path)
        check_schedules(wanted)
    except PolicyError as error:
        if not as_json:
            raise
        mistakes = error.message.splitlines()
        emit({**error.to_json(), "good": False, "path": str(path), "mistakes": mistakes}, (), as_json)
        raise typer.Exit(error.exit_code) from error
    going, announced = (None, "") if instead_of is None else _consequences(instead_of, wanted)
    answer = {
        "good": True,
        "path": str(path),
        "mistakes": [],
        "points_going": going,
        "announced": announced or None,
    }
    emit(answer, [f"{path} is good.", *([announced] if announced else [])], as_json)


def _consequences(present: Path, wanted: Policy) -> tuple[int | None, str]:
    from trinity_snap.cli.policy_consequences import points_going

    try:
        before = load(present)
    except PolicyError as error:
        return None, f"How many recovery points would go cannot be said, as {present} has mistakes: {error.message}"
    return points_going(before, wanted)


@app.command()
def schema(policy: PolicyOption = None, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """The JSON Schema of policies, for editors."""
    from trinity_snap.policy.render import json_schema

    emit(json_schema(), (), True)


add_to(app)
