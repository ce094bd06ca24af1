"""`trinity-snap mount`."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Annotated

import typer

from trinity_snap.cli.context import Unlock, load, open_repository
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
from trinity_snap.cli.output import emit

app = new_app()


@app.command()
def mount(
    point: Annotated[
        str, typer.Argument(metavar="POINT", help="The id of a recovery point, the start of one, or an agent's name.")
    ],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="An empty directory.")],
    everybody: Annotated[
        bool, typer.Option("--everybody", help="Let every user look, as far as modes allow, and not only this one.")
    ] = False,
    target: TargetOption = None,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Show a recovery point as a read-only directory, until it is unmounted (`umount DIR`) or this is interrupted.

    Data is fetched when it is read. It needs FUSE, and trinity-snap[mount].
    """
    from trinity_snap.browse.mounting import mount as mount_point
    from trinity_snap.errors import PointMissing

    repository = open_repository(load(policy), Unlock(identity, passphrase_file, trinity_key_file), target)
    try:
        found = repository.resolve(point)
    except PointMissing:
        if point not in {one.agent for one in repository.points()}:
            raise
        found = repository.resolve(agent=point)
    place = Path(os.path.abspath(directory))

    def ready() -> None:
        answer = {"point": found.id, "agent": found.agent, "directory": str(place)}
        lines = [
            f"Recovery point {found.id[:8]} of {found.agent} is at {place}. Leave it with `umount {place}`, or Ctrl-C."
        ]
        emit(answer, lines, as_json)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # then the library unmounts when one arrives
    mount_point(repository, found, place, ready, everybody=everybody)
    return 0
