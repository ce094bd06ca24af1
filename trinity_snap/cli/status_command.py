"""`trinity-snap status`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
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
    TrinityKeyFileOption,
)
from trinity_snap.cli.output import age, emit, plural, seconds, size, table
from trinity_snap.errors import SnapshotError

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy
    from trinity_snap.report.status import Status
    from trinity_snap.repository.repository import Repository

app = new_app()


@app.command()
def status(
    max_age: Annotated[
        str | None,
        typer.Option(
            "--max-age", metavar="TIME", help="Exit with 1 if a last point is older, as 26h or 2d.", show_default=False
        ),
    ] = None,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """The last recovery point of every agent: age, size, duration, pause, consistency."""
    from trinity_snap.backup.result import last_runs
    from trinity_snap.report.running import running
    from trinity_snap.report.status import assemble
    from trinity_snap.report.times import parse_duration

    limit = None if max_age is None else parse_duration(max_age)
    settings = load(policy)
    repository = _open(settings, Unlock(identity, passphrase_file, trinity_key_file))
    points = None if repository.identity is None else repository.points()
    ids = repository.point_ids() if points is None else ()
    found = assemble(last_runs(settings.state.directory), points=points, point_ids=ids, max_age=limit)
    for point_id, reason in repository.unreadable_points:
        found.warnings.append(f"Recovery point {point_id[:8]} cannot be read: {reason}")
    found.running = running(settings.state.directory)
    _count_local(found, settings.state.directory)
    emit(found.to_json(), lambda: _lines(found), as_json)
    return 1 if found.stale else 0


def _count_local(found: Status, state_dir: Path) -> None:
    """Add the local snapshots, and a warning for what looks like one and is not noted here."""
    from trinity_snap.snapshot.local import local_snapshots, unregistered

    try:
        found.local_snapshots = len(local_snapshots(state_dir))
        found.warnings += [
            f"{one.where} is a local snapshot without a note; `trinity-snap rollback --remove {one.id}` removes it."
            for one in unregistered(state_dir)
        ]
    except SnapshotError as error:
        found.warnings.append(str(error))


def _open(policy: Policy, unlock: Unlock) -> Repository:
    """The repository; without the identity where opening that would need a question to be asked."""
    from trinity_snap.cli.secrets import may_open_unasked
    from trinity_snap.repository.identity import load_host_key
    from trinity_snap.repository.repository import Repository
    from trinity_snap.targets import open_target

    path = unlock.identity or policy.keys.identity
    if path is not None and may_open_unasked(path, unlock.passphrase_file, unlock.trinity_key_file):
        return open_repository(policy, unlock)
    return Repository.open(open_target(policy.target.settings()), host=load_host_key(policy.keys.host_key))


def _lines(found: Status) -> Iterator[str]:
    rows = [
        (
            agent.agent,
            "never" if agent.created is None else age(datetime.fromisoformat(agent.created)),
            (agent.point or "-")[:8],
            size(agent.bytes) if agent.point else "-",
            seconds(agent.duration_seconds),
            seconds(agent.pause_seconds),
            agent.consistency or "-",
            str(agent.points),
        )
        for agent in found.agents
    ]
    if rows:
        header = ("AGENT", "LAST", "POINT", "SIZE", "TOOK", "PAUSE", "CONSISTENCY", "POINTS")
        yield from table(header, rows, right=(3, 4, 5, 7))
    else:
        yield "No recovery points, and no runs on this host."
    warnings = [f"{agent.agent}: {warning}" for agent in found.agents for warning in agent.warnings]
    if warnings or found.warnings:
        yield ""
        yield from warnings
        yield from found.warnings
    if found.local_snapshots:
        yield ""
        yield f"{plural(found.local_snapshots, 'local snapshot')} for `trinity-snap rollback`."
    if found.running is not None:
        yield ""
        yield f"Now: {found.running['what']} {found.running['run_id']}, since {found.running['since']}."
    if found.source == "runs":
        yield ""
        yield "(From this host's own record of its runs: the identity was not opened.)"
