"""`trinity-snap fleet`: backup, status, verify, repair, drill, recover, restore, prune."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from trinity_snap.cli.asking import confirm
from trinity_snap.cli.entitled import require_fleet_restore
from trinity_snap.cli.fleet_onto import InstallOption, OntoOption, RunOption, onto_variables
from trinity_snap.cli.fleet_options import Common, OnControlOption
from trinity_snap.cli.gathered import gathered
from trinity_snap.cli.group import new_app
from trinity_snap.cli.shares import ReadDataOption, ShareCommand, share_of
from trinity_snap.errors import UsageError

_ALL_AT_ONCE = ("batch", "max_failures", "dry_run")
_NONE = "0"

app = new_app(no_args_is_help=True, help="Do it on many hosts, through Ansible; docs/fleet.md.")


@app.command()
@gathered(Common)
def backup(
    common: Common,
    agents: Annotated[
        list[str] | None, typer.Argument(metavar="[AGENT]...", help="Only these agents.", show_default=False)
    ] = None,
) -> int:
    """Back up the agents of many hosts, in runs that share one id."""
    own = {"trinity_snap_agents": agents}
    return common.run("backup", own)


@app.command()
@gathered(Common, without=_ALL_AT_ONCE)
def status(
    common: Common,
    max_age: Annotated[
        str | None,
        typer.Option("--max-age", metavar="TIME", help="A host with an older last point fails.", show_default=False),
    ] = None,
    on_control: OnControlOption = False,
) -> int:
    """How every agent of many hosts stands. With --on-control their repositories are asked, and not the hosts."""
    own = {"trinity_snap_status_on_control": on_control, "trinity_snap_status_max_age": max_age}
    return common.run("status", own)


@app.command(cls=ShareCommand)
@gathered(Common, without=("dry_run",))
def verify(
    common: Common,
    agents: Annotated[
        list[str] | None,
        typer.Option("--agent", metavar="NAME", help="Only points of this agent. Repeatable.", show_default=False),
    ] = None,
    read_data: ReadDataOption = None,
    hashes: Annotated[
        bool, typer.Option("--hashes", help="Compare every pack with its name; needs no identity.")
    ] = False,
    on_control: OnControlOption = False,
) -> int:
    """Check that the recovery points of many hosts can be restored."""
    share_of(read_data)
    own = {
        "trinity_snap_verify_read_data": read_data,
        "trinity_snap_verify_agents": agents,
        "trinity_snap_verify_hashes": hashes,
        "trinity_snap_verify_on_control": on_control,
    }
    return common.run("verify", own)


@app.command()
@gathered(Common)
def repair(
    common: Common,
    replicas: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="NAME", help="Take from this replica only. Repeatable.", show_default=False),
    ] = None,
    on_control: OnControlOption = False,
) -> int:
    """Bring back what is missing or was found damaged in the repositories of many hosts. Only adds."""
    own = {"trinity_snap_repair_from": replicas, "trinity_snap_repair_on_control": on_control}
    return common.run("repair", own)


@app.command()
@gathered(Common)
def drill(
    common: Common,
    agents: Annotated[
        list[str] | None,
        typer.Argument(metavar="[AGENT]...", help="Only these; else all that the policies name.", show_default=False),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="NAME", help="From this replica of the policies.", show_default=False),
    ] = None,
    on_control: OnControlOption = False,
) -> int:
    """Prove that the agents of many hosts can be restored: into a scratch place, compared, and removed again."""
    own = {
        "trinity_snap_drill_agents": agents,
        "trinity_snap_drill_target": target,
        "trinity_snap_drill_on_control": on_control,
    }
    return common.run("drill", own)


@app.command()
@gathered(Common, without=_ALL_AT_ONCE)
def recover(
    common: Common,
    wait: Annotated[
        str | None,
        typer.Option(
            "--wait",
            metavar="TIME",
            help="Wait so long for whoever holds a host; not for a backup.",
            show_default=False,
        ),
    ] = None,
    strays: Annotated[
        bool, typer.Option("--strays", help="Remove snapshots of ours, too, that nothing noted.")
    ] = False,
) -> int:
    """Undo whatever dead runs left behind on many hosts. Runs that are alive are left alone."""
    own = {"trinity_snap_recover_wait": wait, "trinity_snap_recover_strays": strays}
    return common.run("recover", own)


@app.command()
@gathered(Common)
def restore(
    common: Common,
    agents: Annotated[
        list[str] | None, typer.Argument(metavar="AGENT...", help="These agents of every host.", show_default=False)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every agent that has a recovery point.")] = False,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="The newest points not younger than that.", show_default=False),
    ] = None,
    containers: Annotated[bool, typer.Option("--containers", help="Make missing containers, too.")] = False,
    grant: Annotated[bool, typer.Option("--grant", help="With grants made here; hosts need no identity.")] = False,
    onto: OntoOption = None,
    run: RunOption = None,
    install: InstallOption = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> int:
    """Give agents of many hosts back, each from its own host's repository; `platform` first. Nothing is destroyed first.

    With --onto the agents of lost hosts come to other hosts, all of them unless some are named, with grants made here. Run it
    again to go on where it stopped.
    """
    if not common.dry_run:
        require_fleet_restore()
    if onto:
        moved = onto_variables(onto, agents, run, at, containers=containers, install=install)
        what = f"Restoring onto {', '.join(moved.hosts)} exchanges whatever these hosts have of the same names."
        _confirm(what, common, yes=yes)
        return replace(common, limit=moved.limit(common.limit)).run("restore_fleet", moved.variables)
    if run or install:
        raise UsageError(f"{'--run' if run else '--install'} goes with --onto.", untouched="Nothing was done.")
    if bool(agents) == every:
        raise UsageError("Name agents, or say --all.", untouched="Nothing was done.")
    what = f"Restoring {', '.join(agents or ['every agent'])} exchanges data on every host of the inventory."
    _confirm(what, common, yes=yes)
    own = {
        "trinity_snap_restore_agents": agents or ["*"],
        "trinity_snap_restore_containers": containers,
        "trinity_snap_restore_grant": grant,
        "trinity_snap_restore_at": at,
    }
    return _carefully(common).run("restore", own)


@app.command()
@gathered(Common)
def prune(
    common: Common,
    on_control: OnControlOption = False,
) -> int:
    """Let old recovery points of many hosts go, as their policies say, and free the space."""
    own = {"trinity_snap_prune_on_control": on_control}
    return _carefully(common).run("prune", own)


def _carefully(common: Common) -> Common:
    """Let no further batch begin after a failure, unless another number was given."""
    return replace(common, max_failures=common.max_failures or _NONE)


def _confirm(what: str, common: Common, *, yes: bool) -> None:
    confirm([what], what, needed=not common.dry_run, yes=yes, as_json=common.as_json, quiet=common.quiet)
