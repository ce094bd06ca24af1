"""`trinity-snap restore`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trinity_snap.cli.asking import alone, confirm
from trinity_snap.cli.context import Unlock, load, open_repository, require_root
from trinity_snap.cli.granted import check_wishes, load_or_default, open_grant, read_grant, saying_what_expired
from trinity_snap.cli.group import new_app
from trinity_snap.cli.options import (
    IdentityOption,
    JsonOption,
    PassphraseFileOption,
    PolicyOption,
    QuietOption,
    TrinityKeyFileOption,
)
from trinity_snap.cli.output import emit, plural, seconds, size
from trinity_snap.cli.progress import watched
from trinity_snap.cli.recorded import recorded
from trinity_snap.errors import (
    DockerUnavailable,
    GuaranteeNotMet,
    KeyFileError,
    RestoreRefused,
    TrinityError,
    UsageError,
)

if TYPE_CHECKING:
    from docker import DockerClient

    from trinity_snap.policy.schema import Policy
    from trinity_snap.restore import KeptData, RestorePlan, RestoreResult
    from trinity_snap.restore.salvage import Salvage
    from trinity_snap.restore.source import Repository
    from trinity_snap.targets import Target

app = new_app()

_LOST_SHOWN = 50


@app.command()
def restore(
    agent: Annotated[
        str | None,
        typer.Argument(
            metavar="[AGENT]", help="Whose data; with --release also the id of a restore.", show_default=False
        ),
    ] = None,
    point: Annotated[
        str | None,
        typer.Option("--point", metavar="ID", help="From which point: an id, the start of one, or latest (default)."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="From the newest point as old as this: an ISO time, or '2h ago'."),
    ] = None,
    paths: Annotated[
        list[str] | None,
        typer.Option("--path", metavar="PATH", help="Only this file or directory, as the agent sees it. Repeatable."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Into this directory, which must be empty or new.")
    ] = None,
    as_name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Into new volumes, for an agent of this name.")
    ] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Write only what differs.")] = False,
    containers: Annotated[
        bool, typer.Option("--containers", help="Make the agent's container, too, if it is missing.")
    ] = False,
    later: Annotated[
        bool,
        typer.Option(
            "--later", help="With --containers: note it; `trinity-snap restored --start` makes and starts it."
        ),
    ] = False,
    salvage: Annotated[
        bool,
        typer.Option(
            "--salvage",
            help="Of a damaged point, restore what can be read, and list what cannot. With --to, --as or all of it.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show the plan and stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Replace data without asking.")] = False,
    release: Annotated[
        bool, typer.Option("--release", help="Remove the previous data that earlier restores kept.")
    ] = False,
    kept: Annotated[bool, typer.Option("--kept", help="List the previous data that is kept.")] = False,
    grant: Annotated[
        str | None,
        typer.Option(
            "--grant",
            metavar="-",
            help="With the grant on the standard input (`trinity-snap grant`), instead of an identity.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="NAME",
            help="Read from this replica of the policy, instead of the first target. With --grant also a directory or URL.",
            show_default=False,
        ),
    ] = None,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Give back an agent, or parts of it, from a recovery point.

    The plan is shown first. What is there now stays until its replacement is complete and checked, and is then
    kept until `trinity-snap restore AGENT --release`.
    """
    if kept or release:
        changes = {"--point": point, "--at": at, "--path": paths, "--to": to, "--as": as_name, "--in-place": in_place}
        changes |= {"--containers": containers, "--kept": kept and release, "--grant": grant, "--target": target}
        alone("--release" if release else "--kept", changes)
    if grant is not None:
        if at is not None or identity or passphrase_file or trinity_key_file:
            raise UsageError("--grant goes with none of --at and of the options for an identity.")
        settings, there = load_or_default(policy)
    else:
        settings, there = load(policy), True
    if kept:
        _show_kept(settings, agent, as_json)
        return 0
    if agent is None and grant is None:
        raise UsageError("Whose data? Name an agent.", next_step="`trinity-snap list` shows what there is.")
    require_root("restore")
    if release and agent is not None:
        _release(settings, agent, as_json, dry_run)
        return 0
    if point is not None and at is not None:
        raise UsageError("--point and --at exclude each other.")
    if later and not containers:
        raise UsageError("--later goes with --containers.")
    if salvage and (in_place or (paths and to is None)):
        raise UsageError(
            "--salvage goes with neither --in-place nor, without --to, --path: what is left out would be removed there.",
            next_step="Salvage into a directory with --to, look at the list, and take from there what you want.",
        )
    from trinity_snap.report.times import parse_moment
    from trinity_snap.restore import plan_restore

    source: Repository
    opened: Target
    newer: list[tuple[str, str]] = []
    granted = None if grant is None else read_grant(grant)
    if granted is not None:
        paths = check_wishes(granted, agent, point, paths or (), containers=containers)
        reads = open_grant(granted, settings if there else None, target)
        source, opened, found = reads, reads.target, granted.point
    else:
        moment = None if at is None else parse_moment(at)
        repository = open_repository(settings, Unlock(identity, passphrase_file, trinity_key_file), target)
        source, opened = repository, repository.target
        found = repository.resolve(point, agent=agent, at=moment, at_any_price=salvage)
        newer = repository.passed_over
    if to is not None:
        _check_outside(to, opened)
    salvaging = None
    if salvage:
        from trinity_snap.restore.salvage import Salvage

        source = salvaging = Salvage(source)
    docker = _docker(needed=to is None and any(volume.kind == "volume" for volume in found.volumes))
    with saying_what_expired(granted, "Nothing was changed."):
        plan = plan_restore(
            source,
            found,
            state_dir=settings.state.directory,
            agent=agent,
            docker=docker,
            to=None if to is None else Path(os.path.abspath(to)),
            as_name=as_name,
            paths=paths or (),
            in_place=in_place,
            containers=containers,
            platform_paths=settings.platform.paths,
        )
    plan = replace(plan, warnings=(*plan.warnings, *map(_passed_over, newer)))
    if dry_run:
        lines = plan.lines()
        emit({**plan.to_json(), "outcome": "planned", "lines": lines}, lines, as_json)
        return 0
    from trinity_snap.trinity.platform import refuse_while_in_use

    refuse_while_in_use(plan, docker)
    _confirm(plan, yes=yes, as_json=as_json, quiet=quiet)
    from trinity_snap.quiesce import HostLock
    from trinity_snap.restore import execute
    from trinity_snap.restore.restored import forget_restored, note_restored

    container = plan.create_container
    if later:
        plan = replace(plan, create_container="")

    holding = HostLock(settings.state.directory, plan.id, "restore")
    with recorded(settings, "restore", quiet=quiet) as run, holding as lock, watched(quiet=quiet) as progress:
        if docker is not None and plan.mode != "directory":
            lock.hold_daemon(docker)
        live = plan.mode != "directory" and plan.as_name is None
        if live:
            forget_restored(settings.state.directory, plan.agent)
        with saying_what_expired(granted, "What was there is as it was; what was restored so far is removed again."):
            result = execute(plan, source, docker, progress)
        if live and plan.mode != "paths" and salvaging is None:
            note_restored(
                plan, docker, files=result.files, amount=result.bytes, container=container if later else ""
            ).save(settings.state.directory)
        lossless = salvaging is None or salvaging.lost.nothing
        run.ended("done" if lossless else "downgraded", agent=plan.agent, point=plan.point.id, mode=plan.mode)
    result = replace(result, notes=(*result.notes, *_started_by_trinity(plan, settings)))
    if salvaging is not None:
        return _salvaged(result, salvaging, as_json)
    emit({**result.to_json(), "lines": plan.lines()}, lambda: _lines(result), as_json)
    return 0


def _started_by_trinity(plan: RestorePlan, settings: Policy) -> Iterator[str]:
    """Have Trinity start an agent that was given back as a whole and has no container; what came of it, as sentences."""
    trinity = settings.trinity.settings() if settings.trinity.start_agents else None
    whole = (
        plan.mode in ("swap", "in_place") and plan.as_name is None and not plan.containers and not plan.create_container
    )
    if trinity is None or not whole or all(volume.kind == "path" for volume in plan.volumes):
        return
    from trinity_snap.trinity.client import TrinityClient

    try:
        TrinityClient(trinity).start(plan.agent)
    except (TrinityError, KeyFileError) as error:
        yield f"Its data is in place, and Trinity has not started it: {error}"
    else:
        yield f"Trinity has started {plan.agent}."


def _salvaged(result: RestoreResult, salvaging: Salvage, as_json: bool) -> int:
    """Say what was restored and what is lost; all of that is in a file, too."""
    from trinity_snap.restore.salvage import write_report

    plan, lost = result.plan, salvaging.lost
    report = None
    if not lost.nothing:
        report = (plan.to or plan.state_dir) / f"trinity-snap-salvage-{plan.id}.json"
        write_report(report, lost, {"agent": plan.agent, "point": plan.point.id, "restore_id": plan.id})
    answer = {
        **result.to_json(),
        "outcome": "restored" if lost.nothing else "salvaged",
        "lines": plan.lines(),
        "lost": lost.to_json(),
        "report": None if report is None else str(report),
    }

    def lines() -> Iterator[str]:
        yield from _lines(result)
        yield from lost.lines(_LOST_SHOWN)
        if report is not None:
            yield f"NOT EVERYTHING could be restored. The whole list of what is lost is in {report}."

    emit(answer, lines, as_json)
    return 0 if lost.nothing else GuaranteeNotMet.exit_code


def _check_outside(to: Path, opened: Target) -> None:
    root = getattr(opened, "root", None)  # of one that is a directory of this host
    if root is not None and Path(os.path.realpath(to)).is_relative_to(os.path.realpath(root)):
        raise RestoreRefused(
            f"{to} is in the repository, where nothing but its own objects may be.",
            untouched="Nothing was changed.",
            next_step="Name a directory elsewhere.",
        )


def _passed_over(newer: tuple[str, str]) -> str:
    point_id, reason = newer
    return f"Recovery point {point_id[:8]} is newer, and does not count: {reason}"


def _docker(*, needed: bool) -> DockerClient | None:
    from trinity_snap.agents import connect

    try:
        return connect()
    except DockerUnavailable:
        if needed:
            raise
        return None


def _confirm(plan: RestorePlan, *, yes: bool, as_json: bool, quiet: bool) -> None:
    replaces = plan.mode != "directory" and any(volume.exists for volume in plan.volumes)
    what = f"This would replace data of {plan.agent} on this host."
    confirm(plan.lines(), what, needed=replaces, yes=yes, as_json=as_json, quiet=quiet)


def _lines(result: RestoreResult) -> Iterator[str]:
    plan = result.plan
    where = f" to {plan.to}" if plan.to else f" as {plan.as_name}" if plan.as_name else ""
    yield (
        f"Restored {plan.agent}{where}: {plural(result.files, 'file')}, {size(result.bytes)} in "
        f"{seconds(result.seconds)}, every byte checked."
    )
    if result.downtime_seconds:
        yield f"Its containers were stopped for {seconds(result.downtime_seconds)}."
    if result.created_container:
        yield f"Container {result.created_container} was made; it is not started."
    yield from result.notes
    if result.previous:
        yield "The previous data is kept in:"
        yield from (f"  {path}" for path in result.previous)
        yield f"Remove it with `trinity-snap restore {plan.agent} --release`."


def _show_kept(policy: Policy, agent: str | None, as_json: bool) -> None:
    from trinity_snap.restore import list_kept

    kept = list_kept(policy.state.directory, agent)
    emit({"kept": [one.to_json() for one in kept]}, _kept_lines(kept) if kept else ["Nothing is kept."], as_json)


def _release(policy: Policy, selector: str, as_json: bool, dry_run: bool) -> None:
    from trinity_snap.quiesce import HostLock
    from trinity_snap.restore import list_kept, release

    state = policy.state.directory
    if dry_run:
        chosen = [one for one in list_kept(state) if selector in (one.id, one.agent)]
        answer = {"outcome": "planned", "released": [one.to_json() for one in chosen]}
        emit(answer, ["Would remove:", *_kept_lines(chosen)] if chosen else ["Nothing is kept."], as_json)
        return
    with HostLock(state, f"release-{os.getpid()}", "release"):
        released = release(state, selector)
    answer = {"outcome": "released", "released": [one.to_json() for one in released]}
    emit(answer, ["Removed:", *_kept_lines(released)], as_json)


def _kept_lines(kept: list[KeptData]) -> list[str]:
    lines = []
    for one in kept:
        lines.append(f"{one.agent}: data before restore {one.id} of {one.restored} (point {one.point[:8]})")
        lines += [f"  {path}" for path in one.paths]
    return lines
