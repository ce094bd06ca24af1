"""`--read-data [SHARE]`: an option that may stand alone, for the commands that verify."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from trinity_snap.errors import UsageError

if TYPE_CHECKING:
    from trinity_snap.repository.checks import Share

ReadDataOption = Annotated[
    str | None,
    typer.Option(
        "--read-data",
        metavar="[SHARE]",
        help="Read and check every byte; or a share of it, as 5% or 10GiB, what was not checked for the longest time first.",
        show_default=False,
    ),
]


class ShareCommand(typer.core.TyperCommand):
    """`--read-data` may stand alone, which the library knows of flags only."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # the context is the library's
        """Spell `--read-data` out where no share follows it."""
        from trinity_snap.repository.checks import parse_share

        spelled = []
        for number, argument in enumerate(args):
            following = args[number + 1] if number + 1 < len(args) else ""
            alone = argument == "--read-data" and parse_share(following) is None and "%" not in following
            spelled.append("--read-data=all" if alone else argument)
        return super().parse_args(ctx, spelled)


def share_of(text: str | None) -> Share | None:
    """The share that was asked for, if one was. Raise UsageError for what is none."""
    from trinity_snap.repository.checks import parse_share

    share = None if text is None else parse_share(text)
    if text is not None and share is None:
        raise UsageError(
            f"{text!r:.40} is no share of the data.",
            next_step="Give a percentage or a size: --read-data 5%, 10GiB.",
        )
    return share
