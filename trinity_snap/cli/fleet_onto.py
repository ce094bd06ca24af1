"""The options of `trinity-snap fleet restore --onto`, and what they are as variables of the role `restore_fleet`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from trinity_snap.errors import UsageError

OntoOption = Annotated[
    list[str] | None,
    typer.Option(
        "--onto", metavar="OLD=NEW",
        help="Agents of the host OLD come to the host NEW of the inventory; OLD:AGENT,AGENT=NEW for some. Repeatable.",
        show_default=False,
    ),
]  # fmt: skip
RunOption = Annotated[
    str | None,
    typer.Option("--run", metavar="ID", help="With --onto: from the points of this fleet run.", show_default=False),
]
InstallOption = Annotated[bool, typer.Option("--install", help="With --onto: install trinity-snap on new hosts first.")]


@dataclass(frozen=True)
class Onto:
    """A restore onto other hosts: the new `hosts`, and the `variables` of the role."""

    hosts: tuple[str, ...]
    variables: Mapping[str, object]

    def limit(self, given: str | None) -> str:
        """The new hosts as a pattern of Ansible's; of them those that `given` selects, if it is given."""
        return ",".join(self.hosts) + (f",&{given}" if given else "")


def onto_variables(
    onto: Sequence[str],
    agents: Sequence[str] | None,
    run: str | None,
    at: str | None,
    *,
    containers: bool,
    install: bool,
) -> Onto:
    """Take the options together. Raise UsageError for what is no mapping or no time; the rest is checked where it is played."""
    from trinity_snap.report.times import parse_moment

    for text in onto:
        old, sign, new = text.partition("=")
        if not sign or not old.strip() or not new.strip() or "=" in new:
            raise UsageError(
                f"{text!r:.80} is no OLD=NEW.",
                untouched="Nothing was done.",
                next_step="--onto OLD=NEW, or --onto OLD:AGENT,AGENT=NEW",
            )
    if run and at:
        raise UsageError("--run and --at exclude each other.", untouched="Nothing was done.")
    hosts = tuple(dict.fromkeys(text.partition("=")[2].strip() for text in onto))
    return Onto(
        hosts,
        {
            "trinity_snap_onto": list(onto),
            "trinity_snap_onto_agents": list(agents or ()),
            "trinity_snap_onto_run": run,
            "trinity_snap_onto_at": None if at is None else parse_moment(at).isoformat(),
            "trinity_snap_onto_containers": containers,
            "trinity_snap_onto_install": install,
        },
    )
