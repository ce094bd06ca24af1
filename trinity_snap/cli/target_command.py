"""`trinity-snap target`: check, policy."""

from __future__ import annotations

from typing import Annotated

import typer

from trinity_snap.cli.context import load
from trinity_snap.cli.group import new_app
from trinity_snap.cli.options import JsonOption, PolicyOption, QuietOption
from trinity_snap.cli.output import emit

app = new_app(
    help="Check the place where the repository lives, and say who needs which rights there.", no_args_is_help=True
)


@app.command()
def check(policy: PolicyOption = None, as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Store a small object and remove it again; say what protects objects there from being overwritten and deleted."""
    from trinity_snap.errors import ObjectMissing
    from trinity_snap.targets import open_target
    from trinity_snap.targets.probe import probe

    place = open_target(load(policy).target.settings())
    try:
        place.stat("repository")
        there = True
    except ObjectMissing:
        there = False
    protection = probe(place)
    answer = {"target": place.url, "repository": there, "protection": protection.to_json()}
    lines = [f"{place.url} can be used; there is {'a' if there else 'no'} repository.", *protection.consequences()]
    emit(answer, lines, as_json)


@app.command("policy")
def rights(
    control: Annotated[bool, typer.Option("--control", help="For the control node, instead of this host.")] = False,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """The least rights in the bucket that this host needs, as a policy for AWS IAM and stores like it."""
    from trinity_snap.targets.s3_policy import control_policy, host_policy

    url = load(policy).target.url
    emit(control_policy(url) if control else host_policy(url), (), True)
