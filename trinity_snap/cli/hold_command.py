"""`trinity-snap hold`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from trinity_snap.cli.context import Unlock, load, open_repository
from trinity_snap.cli.group import new_app
from trinity_snap.cli.options import (
    IdentityOption,
    JsonOption,
    PassphraseFileOption,
    PolicyOption,
    QuietOption,
    TrinityKeyFileOption,
)
from trinity_snap.cli.output import emit
from trinity_snap.cli.replicas import do_at_replicas, replica_lines, replicas_answer, replicas_code
from trinity_snap.errors import UsageError

if TYPE_CHECKING:
    from trinity_snap.repository.repository import Repository

app = new_app()


@app.command()
def hold(
    points: Annotated[
        list[str] | None, typer.Argument(metavar="[POINT]...", help="The points to hold.", show_default=False)
    ] = None,
    list_held: Annotated[bool, typer.Option("--list", help="Show the points that are held.")] = False,
    release: Annotated[bool, typer.Option("--release", help="Let these points go again, instead.")] = False,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Keep recovery points whatever the policy says, until they are released; at every replica, too."""
    from trinity_snap.repository.holds import held_points
    from trinity_snap.repository.holds import hold as hold_points
    from trinity_snap.repository.holds import release as release_points

    loaded = load(policy)
    if list_held == bool(points) or (list_held and release):
        raise UsageError("Name recovery points, or give --list.", untouched="Nothing was changed.")
    unlock = Unlock(identity, passphrase_file, trinity_key_file)
    repository = open_repository(loaded, unlock)
    changed = [] if list_held else (release_points if release else hold_points)(repository, points or [])

    def at_replica(name: str, replica: Repository) -> list[str]:
        from trinity_snap.trusted.replicas import copy_holds, release_at_replica

        return release_at_replica(replica, changed) if release else copy_holds(repository, replica)

    names = [] if list_held else [replica.name for replica in loaded.replicas]
    others = do_at_replicas(loaded, unlock, names, at_replica)
    held = held_points(repository)
    present = set(repository.point_ids())
    answer = {
        "changed": changed,
        "held": [{"id": point, "present": point in present} for point in held],
        "replicas": replicas_answer(others, lambda points: {"changed": points}),
    }

    def lines() -> Iterator[str]:
        for point in changed:
            yield f"{point} is {'released' if release else 'held'}."
        if list_held:
            yield from (f"{point}{'' if point in present else ', which is not there'}" for point in held)
            if not held:
                yield "No recovery point is held."
        yield from replica_lines(others, lambda points: [])

    emit(answer, lines, as_json)
    return replicas_code(others)
