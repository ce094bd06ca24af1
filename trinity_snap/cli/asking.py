"""Before something is done: options that make no sense together, and a plan that has to be confirmed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import typer

from trinity_snap.errors import RestoreRefused, UsageError

__all__ = ["alone", "confirm"]


def alone(option: str, others: Mapping[str, object]) -> None:
    """Raise UsageError if any of `others`, option → value, was given beside an option that does something else."""
    given = [name for name, value in others.items() if value]
    if given:
        raise UsageError(
            f"{option} and {given[0]} do not go together.",
            untouched="Nothing was done.",
            next_step=f"{option} shows or removes, and does nothing else: give one of them.",
        )


def confirm(plan: Sequence[str], what: str, *, needed: bool, yes: bool, as_json: bool, quiet: bool) -> None:
    """Show the plan to whoever watches, and have `what` it does confirmed if that is `needed`. Raise RestoreRefused."""
    if not quiet and not as_json:
        sys.stderr.write("\n".join(plan) + "\n")
    if yes or not needed:
        return
    if as_json or not sys.stdin.isatty():
        raise RestoreRefused(
            what,
            untouched="Nothing was changed.",
            next_step="Look at the plan with --dry-run, then give --yes.",
        )
    if not typer.confirm("Go on?", err=True):
        raise RestoreRefused("Not confirmed.", untouched="Nothing was changed.")
