"""`trinity-snap show`."""

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
    TargetOption,
    TrinityKeyFileOption,
)
from trinity_snap.cli.output import age, emit, local_time, plural, seconds, size, table
from trinity_snap.report.listing import Listed, list_directory
from trinity_snap.report.points import point_details, point_summary

if TYPE_CHECKING:
    from trinity_snap.repository.points import RecoveryPoint

app = new_app()


@app.command()
def show(
    point: Annotated[str, typer.Argument(metavar="POINT", help="The id of a recovery point, or the start of one.")],
    path: Annotated[
        str | None,
        typer.Option(
            "--path",
            metavar="PATH",
            help="List what is there: a path as the agent sees it, or VOLUME:PATH.",
            show_default=False,
        ),
    ] = None,
    target: TargetOption = None,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """What a recovery point holds."""
    from trinity_snap.repository.counting import Counting

    repository = open_repository(load(policy), Unlock(identity, passphrase_file, trinity_key_file), target)
    found = repository.resolve(point)
    void = Counting(repository).void(found)
    if path is None:
        emit(point_details(found, void), lambda: _details(found, void), as_json)
        return
    entries = list(list_directory(repository.reader(found), found, path))
    answer = {**point_summary(found, void), "path": path, "entries": [entry.to_json() for entry in entries]}
    emit(answer, lambda: _listing(found, entries), as_json)


def _heading(point: RecoveryPoint) -> str:
    return (
        f"Recovery point {point.id} of {point.agent} on {point.host}, "
        f"{local_time(point.created)} ({age(point.created)})"
    )


def _details(point: RecoveryPoint, void: str | None) -> Iterator[str]:
    yield _heading(point)
    if void is not None:
        yield f"  VOID         {void} It is never taken for the latest."
    yield f"  run          {point.run_id}"
    yield f"  consistency  {point.consistency} (mode {point.mode}, provider {point.provider})"
    yield f"  pause        {seconds(point.pause_ns / 1e9)}"
    packs = point.pack_references()
    needs = f"{plural(len(packs), 'pack')} of {size(sum(pack.length for pack in packs))}"
    yield f"  content      {plural(point.files, 'file')}, {size(point.bytes)}; needs {needs}"
    yield f"  container    {'its definition is included' if point.container else 'no definition'}"
    yield ""
    rows = [
        (
            volume.name,
            volume.kind,
            volume.destination or volume.source,
            str(volume.entries),
            str(volume.files),
            size(volume.bytes),
        )
        for volume in point.volumes
    ]
    yield from table(("VOLUME", "KIND", "PLACE", "ENTRIES", "FILES", "SIZE"), rows, right=(3, 4, 5))
    if point.problems:
        yield ""
        yield f"What could not be backed up ({len(point.problems)}):"
        for volume, path, reason in point.problems:
            yield f"  {volume}: {path.decode(errors='backslashreplace')}: {reason}"


def _listing(point: RecoveryPoint, entries: list[Listed]) -> Iterator[str]:
    yield _heading(point)
    if not entries:
        yield "An empty directory."
        return
    yield from table(
        ("MODE", "UID", "GID", "SIZE", "MODIFIED", "NAME"), [entry.cells() for entry in entries], (1, 2, 3)
    )
