"""`trinity-snap rollback`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from trinity_snap.cli.asking import alone, confirm
from trinity_snap.cli.context import load, require_root
from trinity_snap.cli.group import new_app
from trinity_snap.cli.options import JsonOption, PolicyOption, QuietOption
from trinity_snap.cli.output import age, emit, local_time, plural, seconds, size, table
from trinity_snap.cli.progress import watched
from trinity_snap.cli.recorded import recorded
from trinity_snap.errors import DockerUnavailable, UsageError

if TYPE_CHECKING:
    from docker import DockerClient

    from trinity_snap.agents import Discovery
    from trinity_snap.policy.schema import Policy
    from trinity_snap.rollback import LocalListing, RollbackResult

app = new_app()


@app.command()
def rollback(
    agent: Annotated[str | None, typer.Argument(metavar="[AGENT]", help="Whose volumes.", show_default=False)] = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="LOCAL", help="A local snapshot: its id, or the start of it. Default: the newest."
        ),
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="Show the local snapshots, and stop.")] = False,
    remove: Annotated[
        str | None, typer.Option("--remove", metavar="LOCAL", help="Remove a local snapshot, and stop.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show the plan and stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Bring an agent's volumes back from a local snapshot, in seconds.

    Other agents are left alone. The present state is kept as a local snapshot first, so that a rollback can be
    rolled back. The policy says how many local snapshots backups keep: `snapshot: keep:`.
    """
    settings = load(policy)
    require_root("rollback")
    if listing:
        alone("--list", {"--remove": remove, "--to": to})
        _list(settings, agent, as_json)
        return
    if remove is not None:
        alone("--remove", {"--to": to, "the name of an agent": agent})
        _remove(settings, remove, as_json, dry_run)
        return
    if agent is None:
        raise UsageError("Which agent? Name one.", next_step="`trinity-snap rollback --list` shows what there is.")
    from trinity_snap.rollback import plan_rollback

    docker, discovery = _look(settings)
    plan = plan_rollback(agent, to=to, state_dir=settings.state.directory, discovery=discovery, docker=docker)
    if dry_run:
        emit({**plan.to_json(), "outcome": "planned", "lines": plan.lines()}, plan.lines(), as_json)
        return
    what = f"This would replace the present data of {plan.agent}."
    confirm(plan.lines(), what, needed=True, yes=yes, as_json=as_json, quiet=quiet)
    from trinity_snap.quiesce import HostLock
    from trinity_snap.rollback import execute

    holding = HostLock(settings.state.directory, plan.id, "rollback")
    with recorded(settings, "rollback", quiet=quiet) as run, holding as lock, watched(quiet=quiet) as progress:
        if docker is not None:
            lock.hold_daemon(docker)
        result = execute(plan, settings, docker, progress)
        run.ended(agent=plan.agent, local=plan.local.id)
    emit({**result.to_json(), "lines": plan.lines()}, lambda: _lines(result), as_json)


def _look(policy: Policy) -> tuple[DockerClient | None, Discovery]:
    """Docker and the agents of this host; without Docker only the pseudo-agent for paths of the host."""
    from trinity_snap.agents import Discovery, connect, discover
    from trinity_snap.agents.platform import platform_agent

    try:
        client = connect()
    except DockerUnavailable:
        if not policy.platform.paths:
            raise
        return None, Discovery((platform_agent(policy.platform.paths),), ())
    return client, discover(client, policy)


def _lines(result: RollbackResult) -> Iterator[str]:
    plan = result.plan
    yield (
        f"Rolled {plan.agent} back to {plan.local.id[:8]}: {plural(result.copied.files, 'file')}, "
        f"{size(result.copied.bytes)} in {seconds(result.seconds)}."
    )
    if result.downtime_seconds:
        yield f"Its containers were stopped for {seconds(result.downtime_seconds)}."
    yield from result.notes
    if result.before is not None:
        yield f"To undo it: `trinity-snap rollback {plan.agent} --to {result.before.id[:8]}`."


def _list(policy: Policy, agent: str | None, as_json: bool) -> None:
    from trinity_snap.rollback import list_local

    found = list_local(policy.state.directory, agent)
    emit(found.to_json(), lambda: _list_lines(found), as_json)


def _list_lines(found: LocalListing) -> Iterator[str]:
    rows = [
        (
            snapshot.id[:8],
            local_time(snapshot.created),
            age(snapshot.created),
            ", ".join(agent.name for agent in snapshot.agents),
            ", ".join(dict.fromkeys(agent.consistency for agent in snapshot.agents)),
            "before a rollback" if snapshot.before_rollback else "backup",
        )
        for snapshot in found.snapshots
    ]
    if rows:
        yield from table(("LOCAL", "CREATED", "AGE", "AGENTS", "CONSISTENCY", "FROM"), rows)
    else:
        yield "There are no local snapshots."
    for one in found.unregistered:
        yield f"{one.where} is one that this host has no note of. `trinity-snap rollback --remove {one.id}` removes it."


def _remove(policy: Policy, local: str, as_json: bool, dry_run: bool) -> None:
    from trinity_snap.quiesce import HostLock
    from trinity_snap.rollback import remove

    state = policy.state.directory
    with HostLock(state, f"remove-{os.getpid()}", "removal of a local snapshot"):
        name, *where = remove(state, local, dry_run=dry_run)
    answer = {"outcome": "planned" if dry_run else "removed", "local": name, "where": where}
    emit(answer, [f"{'Would remove' if dry_run else 'Removed'} {name}."], as_json)
