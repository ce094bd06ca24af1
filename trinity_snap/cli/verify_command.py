"""`trinity-snap verify`."""

from __future__ import annotations

from collections.abc import Iterator
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
from trinity_snap.cli.output import emit, plural, size
from trinity_snap.cli.progress import watched
from trinity_snap.cli.recorded import recorded
from trinity_snap.cli.shares import ReadDataOption, ShareCommand, share_of
from trinity_snap.cli.verify_report import answer_of, lines_of
from trinity_snap.errors import AgentMissing, IntegrityError, UsageError

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy
    from trinity_snap.repository.points import RecoveryPoint
    from trinity_snap.repository.stored import StoredReport
    from trinity_snap.trusted.hidden import Hidden

app = new_app()


@app.command(cls=ShareCommand)
def verify(
    points: Annotated[
        list[str] | None, typer.Argument(metavar="[POINT]...", help="Only these points.", show_default=False)
    ] = None,
    agents: Annotated[
        list[str] | None,
        typer.Option("--agent", metavar="NAME", help="Only points of this agent. Repeatable.", show_default=False),
    ] = None,
    read_data: ReadDataOption = None,
    hashes: Annotated[
        bool,
        typer.Option("--hashes", help="Compare every pack with the hash that is its name; needs no identity."),
    ] = False,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="NAME",
            help="Read from this replica of the policy. With --hashes also a directory or URL: needs neither policy nor key.",
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
    """Check that recovery points can be restored. What was read is noted in the repository, and nothing else is changed.

    Without an identity, only that everything is there that was stored, with its length or, with --hashes, as it was.
    """
    from trinity_snap.repository.verify import verify as verify_points
    from trinity_snap.trusted.hidden import hidden_objects

    share = share_of(read_data)
    if hashes and (points or agents or read_data):
        raise UsageError("--hashes goes with none of POINT, --agent and --read-data.")
    if hashes and target is not None and ("/" in target or ":" in target):
        return _without_keys(target, as_json=as_json, quiet=quiet)
    settings = load(policy)
    none_here = settings.keys.identity is None and not settings.keys.identity_command
    if hashes or (identity is None and none_here and not points and not agents and not read_data):
        return _without_identity(settings, target, hashes=hashes, as_json=as_json, quiet=quiet)
    repository = open_repository(settings, Unlock(identity, passphrase_file, trinity_key_file), target)
    chosen = [repository.resolve(selector) for selector in points] if points else repository.points()
    if agents:
        chosen = _of_agents(chosen, agents)
    whole = not points and not agents and target is None
    with recorded(settings, "verify", quiet=quiet) as run:
        with watched(quiet=quiet) as progress:
            report = verify_points(
                repository, chosen, read_data=share or False, record=True, condemn=target is None, progress=progress
            )
            hidden = hidden_objects(repository.target)
        lost = len(report.damaged_objects.keys() - report.healed) + len(report.unreadable)
        run.ended(whole=whole, target=target, good=report.good, damaged=lost, read=report.bytes_read)
    emit(answer_of(report, share is not None, hidden), lambda: (*lines_of(report, share), *_hidden(hidden)), as_json)
    return 0 if report.good else IntegrityError.exit_code


def _of_agents(points: list[RecoveryPoint], agents: list[str]) -> list[RecoveryPoint]:
    missing = sorted(set(agents) - {point.agent for point in points})
    if missing:
        raise AgentMissing(
            f"The repository has no recovery point of an agent {missing[0]!r}.",
            next_step="`trinity-snap list` shows what there is.",
        )
    return [point for point in points if point.agent in agents]


def _without_keys(where: str, *, as_json: bool, quiet: bool) -> int:
    from trinity_snap.repository.scrub import scrub
    from trinity_snap.targets import open_target

    target = open_target(where)
    with watched(quiet=quiet) as progress:
        report = scrub(target, progress)
    return _stored(report, as_json)


def _without_identity(policy: Policy, replica: str | None, *, hashes: bool, as_json: bool, quiet: bool) -> int:
    from trinity_snap.backup.treecache import needed_packs
    from trinity_snap.repository.stored import verify_stored

    repository = open_keyless(policy, replica)
    needed = needed_packs(policy.state.directory / "cache" / repository.id.hex() / "trees")
    with recorded(policy, "verify", quiet=quiet) as run:
        with watched(quiet=quiet) as progress:
            report = verify_stored(repository, needed, hashes=hashes, progress=progress)
        lost = len(report.damaged_objects)
        run.ended(whole=replica is None, target=replica, good=report.good, damaged=lost, read=report.bytes_read)
    return _stored(report, as_json)


def _stored(report: StoredReport, as_json: bool) -> int:
    answer = {
        "good": report.good,
        "read_data": False,
        "points": [],
        "unreadable": [],
        "damaged_objects": [
            {"name": name, "reason": reason, "healed": False, "points": [], "points_affected": 0, "agents": []}
            for name, reason in sorted(report.damaged_objects.items())
        ],
        "overwritten": [],
        "deleted_points": [],
        "packs_checked": report.packs_checked,
        "packs_read": 0,
        "bytes_read": report.bytes_read,
        "opened": False,
        "notes": report.notes,
    }
    emit(answer, lambda: _stored_lines(report), as_json)
    return 0 if report.good else IntegrityError.exit_code


def _stored_lines(report: StoredReport) -> Iterator[str]:
    for name, reason in sorted(report.damaged_objects.items()):
        yield f"{name}: {reason}"
    yield from report.notes
    looked = f"{report.packs_checked} of {plural(report.packs, 'pack')} compared by length"
    if report.bytes_read:
        looked += f", {size(report.bytes_read)} by hash"
    there = f"{plural(report.points, 'recovery point')} and {plural(report.packs, 'pack')}"
    yield f"{there} are there: {looked}. No point was opened."


def _hidden(hidden: Hidden) -> Iterator[str]:
    how = "see `trinity-snap target heal --dry-run`, on the control node"
    if hidden.overwritten:
        yield f"{plural(len(hidden.overwritten), 'object')} of the bucket had something put over it: {how}."
    if hidden.deleted_points:
        yield f"{plural(len(hidden.deleted_points), 'recovery point')} that retention or somebody deleted can be had back: {how}."
