"""`trinity-snap status`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trinity_snap.cli.context import Unlock, load, open_keyless, open_repository
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
from trinity_snap.errors import SnapshotError, TrinitySnapError

if TYPE_CHECKING:
    from trinity_snap.errors import TargetError
    from trinity_snap.policy.schema import Policy
    from trinity_snap.report.drills import DrillStatus
    from trinity_snap.report.status import Status
    from trinity_snap.repository.repository import Repository

app = new_app()


@app.command()
def status(
    max_age: Annotated[
        str | None,
        typer.Option(
            "--max-age",
            metavar="TIME",
            help="Exit with 1 if a last point is older, as 26h or 2d, or a replica behind for too long.",
            show_default=False,
        ),
    ] = None,
    list_replicas: Annotated[
        bool, typer.Option("--list-replicas", help="Look what the replicas lack, instead of what is remembered.")
    ] = False,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """The last recovery point of every agent: age, size, duration, pause, consistency."""
    from trinity_snap.errors import ObjectMissing, TargetError
    from trinity_snap.quiesce.running import running
    from trinity_snap.report.times import parse_duration
    from trinity_snap.trinity.platform import dump_warnings

    limit = None if max_age is None else parse_duration(max_age)
    settings = load(policy)
    try:
        found = _look(settings, Unlock(identity, passphrase_file, trinity_key_file), limit)
    except ObjectMissing:
        raise
    except TargetError as error:
        found = _remember(settings, limit, error)
    found.warnings += dump_warnings(settings.platform.paths)
    found.running = running(settings.state.directory)
    _count_local(found, settings.state.directory)
    if settings.replicas:
        from trinity_snap.report.replicas import replica_status

        found.replicas = replica_status(settings, list_them=list_replicas)
    emit(found.to_json(), lambda: _lines(found), as_json)
    late = limit is not None and any(replica.stale for replica in found.replicas)
    return 1 if found.stale or late or found.target_error else 0


def _look(policy: Policy, unlock: Unlock, max_age: timedelta | None) -> Status:
    """What the repository says, and this host's record of its runs."""
    from trinity_snap.backup.result import last_runs
    from trinity_snap.drill.result import remembered
    from trinity_snap.report.checked import checked_data, checked_warnings
    from trinity_snap.report.drills import add_drills, known_drills
    from trinity_snap.report.removed import removed_agents
    from trinity_snap.report.status import assemble
    from trinity_snap.repository.counting import void_points

    repository = _open(policy, unlock)
    points = None if repository.identity is None else repository.points()
    ids = repository.point_ids() if points is None else ()
    void = void_points(repository, points or ())
    found = assemble(
        last_runs(policy.state.directory), points=points, point_ids=ids, void=void, max_age=max_age,
        removed=lambda names: removed_agents(policy, names),
    )  # fmt: skip
    for point_id, reason in repository.unreadable_points:
        found.warnings.append(f"Recovery point {point_id[:8]} cannot be read: {reason}")
    if points is None and found.unnamed_points:
        found.warnings += _nothing_remembered(found)
    found.warnings += _recipients(repository)
    found.data_checked = checked_data(repository)
    found.warnings += checked_warnings(found.data_checked)
    add_drills(found, known_drills(repository, remembered(policy.state.directory)), policy.drill)
    return found


def _remember(policy: Policy, max_age: timedelta | None, why: TargetError) -> Status:
    """What this host's record says alone, when the target cannot be asked; that the points of its runs still exist is assumed."""
    from trinity_snap.backup.result import last_runs
    from trinity_snap.drill.result import remembered
    from trinity_snap.report.drills import add_drills, known_drills
    from trinity_snap.report.removed import removed_agents
    from trinity_snap.report.status import assemble, points_of

    runs = last_runs(policy.state.directory)
    found = assemble(
        runs,
        points=None,
        point_ids=points_of(runs),
        max_age=max_age,
        removed=lambda names: removed_agents(policy, names),
    )
    found.target_error = str(why)
    found.warnings.append(
        f"The target could not be asked: {why} What is shown is what this host remembers of its runs."
    )
    add_drills(found, known_drills(None, remembered(policy.state.directory)), policy.drill)
    return found


def _count_local(found: Status, state_dir: Path) -> None:
    """Add the local snapshots, and warnings: for what looks like one and is not noted here, and for restores that did not end."""
    from trinity_snap.snapshot.local import local_snapshots, unregistered

    _warn_of_unfinished(found, state_dir)
    try:
        found.local_snapshots = len(local_snapshots(state_dir))
        found.warnings += [
            f"{one.where} is a local snapshot without a note; `trinity-snap rollback --remove {one.id}` removes it."
            for one in unregistered(state_dir)
        ]
    except SnapshotError as error:
        found.warnings.append(str(error))


def _warn_of_unfinished(found: Status, state_dir: Path) -> None:
    """Add a warning for each restore or rollback that did not end; one that is at it holds the host."""
    from trinity_snap.restore.journal import journals

    try:
        found.warnings += [
            f"A restore or rollback of {journal.agent} ({journal.id}) did not end; `trinity-snap recover` ends it."
            for journal in journals(state_dir)
            if journal.phase != "kept" and found.running is None
        ]
    except TrinitySnapError as error:
        found.warnings.append(str(error))


def _open(policy: Policy, unlock: Unlock) -> Repository:
    """The repository; without the identity where opening that would need a question to be asked."""
    from trinity_snap.cli.secrets import may_open_unasked

    path = unlock.identity or policy.keys.identity
    if unlock.identity is None and policy.keys.identity_command:  # on a control node, which has nothing else
        return open_repository(policy, unlock)
    if path is not None and may_open_unasked(path, unlock.passphrase_file, unlock.trinity_key_file):
        return open_repository(policy, unlock)
    return open_keyless(policy)


def _nothing_remembered(found: Status) -> Iterator[str]:
    if not found.agents:
        yield (
            f"The repository holds {plural(found.unnamed_points, 'recovery point')}, and this host remembers no run: "
            "whose they are only an identity can tell. The next run says how the agents of this host stand."
        )


def _recipients(repository: Repository) -> Iterator[str]:
    """What keeps the next run from sealing."""
    from trinity_snap.errors import KeyFileError

    try:
        repository.believed_recipients()
    except KeyFileError as error:
        yield f"The next run will stop: {error}"


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
            _proved(agent.drill),
        )
        for agent in found.agents
    ]
    if rows:
        header = ("AGENT", "LAST", "POINT", "SIZE", "TOOK", "PAUSE", "CONSISTENCY", "POINTS", "PROVED")
        yield from table(header, rows, right=(3, 4, 5, 7))
    else:
        yield "No recovery points, and no runs on this host."
    warnings = [f"{agent.agent}: {warning}" for agent in found.agents for warning in agent.warnings]
    if warnings or found.warnings:
        yield ""
        yield from warnings
        yield from found.warnings
    if found.replicas:
        yield ""
        yield from _replica_lines(found)
    if found.data_checked is not None and found.data_checked["packs"]:
        yield ""
        yield _checked_line(found.data_checked)
    if found.local_snapshots:
        yield ""
        yield f"{plural(found.local_snapshots, 'local snapshot')} for `trinity-snap rollback`."
    if found.running is not None:
        yield ""
        yield f"Now: {found.running['what']} {found.running['run_id']}, since {found.running['since']}."
    if found.source == "runs":
        yield ""
        yield "(From this host's own record of its runs: no recovery point was opened.)"
        if found.unnamed_points:
            yield f"{plural(found.unnamed_points, 'recovery point')} besides, of earlier runs than that."


def _proved(drill: DrillStatus | None) -> str:
    return "never" if drill is None or drill.proved is None else age(datetime.fromisoformat(drill.proved))


def _checked_line(checked: dict[str, object]) -> str:
    since = checked["complete_since"]
    if isinstance(since, str):
        return (
            f"All data was read and checked within the last {age(datetime.fromisoformat(since)).removesuffix(' ago')}."
        )
    return f"{checked['never']} of {checked['packs']} packs were never read and checked: `trinity-snap verify --read-data 5%`."


def _replica_lines(found: Status) -> Iterator[str]:
    rows = [
        (
            replica.name,
            "yes" if replica.reachable else "NO",
            "never" if replica.last_success is None else age(datetime.fromisoformat(replica.last_success)),
            "?" if replica.points_behind is None else plural(replica.points_behind, "point"),
            "?" if replica.bytes_behind is None else size(replica.bytes_behind),
            replica.url,
        )
        for replica in found.replicas
    ]
    yield from table(("REPLICA", "REACHABLE", "UP TO DATE", "BEHIND", "SIZE", "PLACE"), rows, right=(3, 4))
    yield from (f"{replica.name}: {warning}" for replica in found.replicas for warning in replica.warnings)
