"""`trinity-snap restored`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from trinity_snap.cli.context import require_root
from trinity_snap.cli.granted import load_or_default
from trinity_snap.cli.group import new_app
from trinity_snap.cli.options import JsonOption, PolicyOption, QuietOption
from trinity_snap.cli.output import emit, table
from trinity_snap.errors import AgentMissing, SomeFailed

if TYPE_CHECKING:
    from trinity_snap.restore.starting import Standing

app = new_app()


@app.command()
def restored(
    agents: Annotated[
        list[str] | None, typer.Argument(metavar="[AGENT]...", help="Only these agents.", show_default=False)
    ] = None,
    start: Annotated[
        bool,
        typer.Option(
            "--start",
            help="Make the containers that `restore --containers --later` noted, then start those that ran when backed up.",
        ),
    ] = False,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Which agents were restored on this host as a whole, from which points, and whether that is still there.

    With --start their containers are brought up: all are made before the first is started, and none whose volumes are not all
    there.
    """
    from trinity_snap.agents import connect
    from trinity_snap.quiesce import HostLock
    from trinity_snap.restore.restored import all_restored
    from trinity_snap.restore.starting import bring_up, standing

    settings, _ = load_or_default(policy)
    require_root("restored")
    state = settings.state.directory
    records = all_restored(state)
    unknown = sorted(set(agents or ()) - {one.agent for one in records})
    if unknown:
        raise AgentMissing(
            f"Nothing was restored here as a whole for {', '.join(unknown)}.",
            untouched="Nothing was changed.",
            next_step="`trinity-snap restored` lists what was.",
        )
    chosen = [one for one in records if not agents or one.agent in agents]
    docker = connect() if chosen else None
    if start and docker is not None:
        with HostLock(state, f"restored-{os.getpid()}", "restored") as lock:
            lock.hold_daemon(docker)
            found = standing(chosen, docker)
            bring_up(found, docker, state)
    else:
        found = standing(chosen, docker)
    emit({"agents": [one.to_json() for one in found]}, lambda: _lines(found), as_json)
    return SomeFailed.exit_code if any(one.error for one in found) else 0


def _lines(found: list[Standing]) -> Iterator[str]:
    if not found:
        yield "Nothing was restored here as a whole."
        return
    rows = [
        (
            one.restored.agent,
            one.restored.point[:8],
            one.restored.host,
            one.restored.restored[:19].replace("T", " "),
            "yes" if one.there else "NO",
            "-" if not one.restored.container else one.state or "none",
        )
        for one in found
    ]
    yield from table(("AGENT", "POINT", "OF HOST", "RESTORED (UTC)", "THERE", "CONTAINER"), rows)
    for one in found:
        if one.made or one.started:
            words = " and ".join(word for word, true in (("made", one.made), ("started", one.started)) if true)
            yield f"{one.restored.container} was {words}."
        if one.error:
            yield f"{one.restored.agent}: {one.error}"
