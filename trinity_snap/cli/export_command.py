"""`trinity-snap export`."""

from __future__ import annotations

import os
from pathlib import Path
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
from trinity_snap.cli.output import emit, plural, size
from trinity_snap.cli.progress import watched
from trinity_snap.errors import RestoreError, RestoreRefused, UsageError

if TYPE_CHECKING:
    from trinity_snap.progress import Progress
    from trinity_snap.repository.points import RecoveryPoint
    from trinity_snap.repository.repository import Repository
    from trinity_snap.trinity.portable import Exported

app = new_app()


@app.command()
def export(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Whose data.")],
    portable: Annotated[
        Path, typer.Option("--portable", metavar="FILE", help="The tar to write (0600); nothing may be there.")
    ],
    point: Annotated[
        str | None,
        typer.Option("--point", metavar="ID", help="From which point: an id, the start of one, or latest (default)."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="From the newest point as old as this: an ISO time, or '2h ago'."),
    ] = None,
    target: TargetOption = None,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write an agent's `data/` from a recovery point as Trinity's portable tar, which its import and `import` read."""
    if point is not None and at is not None:
        raise UsageError("--point and --at exclude each other.")
    if os.path.lexists(portable):
        raise RestoreRefused(f"There is something at {portable} already.", untouched="Nothing was changed.")
    from trinity_snap.report.times import parse_moment

    moment = None if at is None else parse_moment(at)
    repository = open_repository(load(policy), Unlock(identity, passphrase_file, trinity_key_file), target)
    found = repository.resolve(point, agent=agent, at=moment)
    with watched(quiet=quiet) as progress:
        done = _write(repository, found, portable, progress)
    answer = {
        "agent": found.agent,
        "point": found.id,
        "created": found.created.isoformat(),
        "file": str(portable),
        "file_bytes": portable.stat().st_size,
        "entries": done.entries,
        "files": done.files,
        "bytes": done.bytes,
        "data_paths": done.data_paths,
        "notes": done.notes,
    }
    lines = [
        f"Wrote {plural(done.files, 'file')}, {size(done.bytes)}, of {found.agent} from {found.id[:8]} to {portable}.",
        *done.notes,
    ]
    emit(answer, lines, as_json)


def _write(repository: Repository, point: RecoveryPoint, file: Path, progress: Progress) -> Exported:
    """Write the tar beside, have it on disk, and only then give it its name."""
    from trinity_snap.durable import fsync_directory
    from trinity_snap.trinity.portable import export_portable

    draft = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb", buffering=0) as out:
                done = export_portable(point, repository.reader(point), out, progress)
                os.fsync(out.fileno())
            os.link(draft, file)
        finally:
            os.unlink(draft)
        fsync_directory(file.absolute().parent)
    except OSError as error:
        raise RestoreError(
            f"{file} could not be written: {error.strerror or error}.", untouched="It is not there."
        ) from error
    return done
