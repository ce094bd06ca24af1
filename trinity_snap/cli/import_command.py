"""`trinity-snap import`."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from trinity_snap.cli.asking import confirm
from trinity_snap.cli.context import load, require_root
from trinity_snap.cli.group import new_app
from trinity_snap.cli.options import JsonOption, PolicyOption, QuietOption
from trinity_snap.cli.output import emit, plural, seconds, size
from trinity_snap.cli.progress import watched
from trinity_snap.errors import RestoreError, RestoreRefused, UsageError

if TYPE_CHECKING:
    from docker import DockerClient

    from trinity_snap.policy.schema import Policy
    from trinity_snap.progress import Progress
    from trinity_snap.restore.swap import Swapped
    from trinity_snap.trinity.portable_import import Home, ImportPlan

app = new_app()


@app.command("import")
def import_(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Whose `data/` it becomes.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The portable tar.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Look through it, show the plan and stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Replace data without asking.")] = False,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Read Trinity's portable tar into an agent: its `data/` is put together beside, and exchanged while it is stopped.

    What was there is kept until `trinity-snap restore AGENT --release`.
    """
    settings = load(policy)
    require_root("import")
    from trinity_snap.agents import connect
    from trinity_snap.quiesce import HostLock
    from trinity_snap.restore.journal import refuse_unfinished
    from trinity_snap.restore.names import new_restore_id
    from trinity_snap.trinity.portable_import import ImportPlan, look_through

    client = connect()
    name, home = _home(client, settings, agent)
    with _opened(file) as opened:
        contents = look_through(opened)
        _require_room(home, contents.bytes)
        refuse_unfinished(settings.state.directory)
        exists = os.path.lexists(home.live / "data")
        plan = ImportPlan(new_restore_id(), name, settings.state.directory, home, file, contents, exists)
        if dry_run:
            emit({**_answer(plan), "outcome": "planned"}, plan.lines(), as_json)
            return
        what = f"This would replace the data/ of {name} on this host."
        confirm(plan.lines(), what, needed=exists, yes=yes, as_json=as_json, quiet=quiet)
        with HostLock(settings.state.directory, plan.id, "restore") as lock, watched(quiet=quiet) as progress:
            lock.hold_daemon(client)
            progress.stage(f"import {home.name}", contents.bytes)
            swapped = _carry_out(plan, client, opened, progress)
    answer = {
        **_answer(plan),
        "outcome": "imported",
        "downtime_seconds": round(swapped.downtime_seconds, 3),
        "previous": [str(path) for path in swapped.previous],
    }
    emit(answer, lambda: _lines(plan, swapped.previous, swapped.downtime_seconds), as_json)


def _carry_out(plan: ImportPlan, client: DockerClient, file: IO[bytes], progress: Progress) -> Swapped:
    import signal

    from trinity_snap.restore.signals import Interrupted, Interruption
    from trinity_snap.restore.swap import Part, swap_in
    from trinity_snap.trinity.portable_import import write_tar

    def write(part: Part) -> None:
        write_tar(part, file, progress)

    with Interruption() as interruption:
        try:
            return swap_in(plan, client, interruption, write)
        except Interrupted as error:
            if error.number == signal.SIGINT:
                raise KeyboardInterrupt from error
            raise RestoreError(
                f"The import was stopped by {error}.", untouched="What was live is as it was."
            ) from error


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.", untouched="Nothing was changed.") from error
    with open(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UsageError(f"{file} is no regular file.", untouched="Nothing was changed.")
        yield opened


def _home(client: DockerClient, policy: Policy, agent: str) -> tuple[str, Home]:
    from trinity_snap.agents import discover
    from trinity_snap.trinity.naming import DESTINATIONS
    from trinity_snap.trinity.portable_import import Home

    found = discover(client, policy).agent(agent)
    for source in found.sources:
        if source.kind == "volume" and source.destination == DESTINATIONS["workspace"]:
            return found.name, Home(source.name, "volume", source.path)
    raise UsageError(
        f"{found.name} has no home of a Trinity agent ({DESTINATIONS['workspace']}) in a volume of this host.",
        untouched="Nothing was changed.",
        next_step="Create the agent in Trinity first, or restore its volumes.",
    )


def _require_room(home: Home, amount: int) -> None:
    found = os.statvfs(home.live)
    free = found.f_bavail * found.f_frsize
    if free < amount:
        raise RestoreRefused(
            f"There is not enough room at {home.live}: {size(amount)} needed, {size(free)} free.",
            untouched="Nothing was changed.",
            next_step="Make room: what is there now stays until it is released.",
        )


def _answer(plan: ImportPlan) -> dict[str, object]:
    return {
        "restore_id": plan.id,
        "agent": plan.agent,
        "volume": plan.home.name,
        "file": str(plan.file),
        "manifest": plan.contents.manifest,
        "entries": plan.contents.entries,
        "files": plan.contents.files,
        "bytes": plan.contents.bytes,
        "replaces": plan.exists,
        "downtime_seconds": 0.0,
        "previous": [],
    }


def _lines(plan: ImportPlan, previous: tuple[Path, ...], downtime: float) -> Iterator[str]:
    yield f"Imported {plural(plan.contents.files, 'file')}, {size(plan.contents.bytes)}, into {plan.agent}."
    if downtime:
        yield f"Its containers were stopped for {seconds(downtime)}."
    if previous:
        yield "The previous data is kept in:"
        yield from (f"  {path}" for path in previous)
        yield f"Remove it with `trinity-snap restore {plan.agent} --release`."
