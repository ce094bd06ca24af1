"""`trinity-snap target`: check, policy, extend, heal."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from trinity_snap.cli.context import Unlock, load
from trinity_snap.cli.group import new_app
from trinity_snap.cli.options import (
    IdentityOption,
    JsonOption,
    PassphraseFileOption,
    PolicyOption,
    QuietOption,
    TrinityKeyFileOption,
)
from trinity_snap.cli.output import emit, plural
from trinity_snap.cli.progress import watched
from trinity_snap.report.times import timestamp

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy
    from trinity_snap.repository.repository import Repository
    from trinity_snap.trusted.heal import Healing
    from trinity_snap.trusted.originals import Originals

app = new_app(
    help="Check the place where the repository lives, and say who needs which rights there.", no_args_is_help=True
)


@app.command()
def check(policy: PolicyOption = None, as_json: JsonOption = False, quiet: QuietOption = False) -> int:
    """Store a small object and remove it again; say what protects objects there from being overwritten and deleted.

    The replicas are looked at, too; one that cannot be used is exit code 10.
    """
    from trinity_snap.errors import ObjectMissing, SomeFailed
    from trinity_snap.replication import check_replicas
    from trinity_snap.targets import LocalTarget, open_target
    from trinity_snap.targets.probe import probe

    settings = load(policy)
    place = open_target(settings.target.settings())
    try:
        ours = place.get("repository")
    except ObjectMissing:
        ours = None
    if isinstance(place, LocalTarget):
        place.try_out()
    protection = probe(place)
    replicas = check_replicas(settings, ours)
    answer = {
        "target": place.url,
        "repository": ours is not None,
        "protection": protection.to_json(),
        "replicas": [replica.to_json() for replica in replicas],
    }
    has = "no" if ours is None else "a"
    lines = [f"{place.url} can be used; there is {has} repository.", *protection.consequences()]
    emit(answer, [*lines, *(line for replica in replicas for line in replica.lines())], as_json)
    return 0 if all(replica.usable for replica in replicas) else SomeFailed.exit_code


@app.command("policy")
def rights(
    control: Annotated[bool, typer.Option("--control", help="For the control node, instead of this host.")] = False,
    target: Annotated[
        str | None, typer.Option("--target", metavar="NAME", help="At this replica of the policy.", show_default=False)
    ] = None,
    healing: Annotated[
        bool, typer.Option("--heal", help="For the time of a `target heal`, on the control node.")
    ] = False,
    policy: PolicyOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """The least rights that this host needs there: a policy for AWS IAM and stores like it, or settings of an SSH server."""
    settings = load(policy)
    place = settings.target if target is None else settings.replica(target)
    if place.url.startswith("sftp:"):
        from trinity_snap.targets.sftp_policy import server_settings

        answer = server_settings(place.settings(), control=control)
        emit(answer, lambda: _for_sshd(answer), as_json)
        return
    from trinity_snap.targets.s3_policy import control_policy, heal_policy, host_policy

    locks = place.lock.mode is not None
    if healing:
        answer = heal_policy(place.url, lock=locks)
    elif control:
        answer = control_policy(place.url, lock=locks)
    else:
        answer = host_policy(place.url, lock_days=place.lock.days if locks else None)
    emit(answer, (), True)


def _for_sshd(settings: dict[str, object]) -> Iterator[str]:
    prepare, notes = settings["prepare"], settings["notes"]
    assert isinstance(prepare, list) and isinstance(notes, list)
    yield "On the server, as root:"
    yield ""
    yield from (f"    {command}" for command in prepare)
    yield ""
    yield "In its sshd_config, at the end (then `systemctl reload ssh`):"
    yield ""
    yield from (f"    {line}" for line in str(settings["sshd_config"]).splitlines())
    yield ""
    yield f"In {settings['authorized_keys_file']}, one line:"
    yield ""
    yield f"    {settings['authorized_keys']}"
    yield ""
    yield from notes


@app.command()
def extend(
    days: Annotated[
        int | None,
        typer.Option("--days", metavar="N", min=1, max=3650, help="Until N days from now, instead of the policy's."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be extended.")] = False,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Extend the object lock of all that recovery points need, and of nothing else. For the control node.

    What is locked for long enough is left alone; nothing is ever shortened.
    """
    from trinity_snap.errors import IntegrityError, UsageError
    from trinity_snap.targets.s3_lock import Retention, bucket_lock
    from trinity_snap.trusted.extend import extend as extend_locks
    from trinity_snap.trusted.extend import lock_end
    from trinity_snap.trusted.needed import needed_names

    loaded = load(policy)
    originals, repository = _originals(loaded, Unlock(identity, passphrase_file, trinity_key_file))
    default = bucket_lock(originals.target)
    mode = loaded.target.lock.mode or (default.mode if default is not None else None)
    if mode is None:
        raise UsageError(
            f"Neither the policy nor the bucket of {originals.url} says how to lock objects.",
            untouched="Nothing was changed.",
            next_step="Set `target.lock.mode` in the policy.",
        )
    goal = Retention(mode, lock_end(loaded.target.lock.days if days is None else days))
    with watched(quiet=quiet) as progress:
        progress.stage("reading recovery points")
        points = repository.points()
        result = extend_locks(originals, needed_names(repository, points), goal, progress, dry_run=dry_run)
    unreadable = [{"id": point_id, "reason": reason} for point_id, reason in repository.unreadable_points]
    answer = {
        "target": originals.url,
        "dry_run": dry_run,
        "mode": mode,
        "until": timestamp(goal.until),
        "points": len(points),
        "extended": len(result.extended),
        "long_enough": len(result.long_enough),
        "missing": result.missing,
        "hidden": result.hidden,
        "unreadable": unreadable,
    }
    done = "would be locked" if dry_run else "locked"
    lines = [
        f"{plural(len(result.extended), 'object')} {done} until {goal.until:%Y-%m-%d}; {len(result.long_enough)} were already.",
        *(f"{name} is MISSING." for name in result.missing),
        *(f"{name} was overwritten or deleted: see `trinity-snap target heal --dry-run`." for name in result.hidden),
        *(
            f"{one['id'][:8]} cannot be read, and what only it needs was not extended: {one['reason']}"
            for one in unreadable
        ),
    ]
    emit(answer, lines, as_json)
    return IntegrityError.exit_code if result.missing or unreadable else 0


@app.command()
def heal(
    deleted_since: Annotated[
        str | None,
        typer.Option(
            "--deleted-since",
            metavar="TIME",
            help="Bring back everything that was deleted since then: an ISO time, or '2h ago'.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Bring back what somebody overwrote or deleted in a bucket that keeps versions. For the control node.

    What was overwritten comes back, and of what was deleted what recovery points need. Recovery points that were deleted
    come back with --deleted-since: only you know which deletions were meant.
    """
    from trinity_snap.errors import IntegrityError
    from trinity_snap.report.times import parse_moment
    from trinity_snap.trusted.heal import heal as do_heal
    from trinity_snap.trusted.heal import plan
    from trinity_snap.trusted.needed import needed_names

    moment = None if deleted_since is None else parse_moment(deleted_since)
    originals, repository = _originals(load(policy), Unlock(identity, passphrase_file, trinity_key_file), moment)
    with watched(quiet=quiet) as progress:
        progress.stage("reading recovery points")
        healing = plan(originals, needed_names(repository, repository.points()))
        if not dry_run:
            do_heal(originals, healing, progress)
    repaired = [
        {
            "name": repair.name,
            "harm": repair.harm,
            "stored": timestamp(repair.original.time),
            "versions_above": len(repair.above),
            "copied": repair.name in healing.copied,
        }
        for repair in healing.repairs
    ]
    answer = {
        "target": originals.url,
        "dry_run": dry_run,
        "repaired": repaired,
        "lost": [{"name": name, "reason": reason} for name, reason in healing.lost.items()],
        "deleted_points": [name.removeprefix("points/") for name in healing.deleted_points],
    }
    emit(answer, lambda: _healed(healing, dry_run), as_json)
    return IntegrityError.exit_code if healing.lost else 0


def _healed(healing: Healing, dry_run: bool) -> Iterator[str]:
    for repair in healing.repairs:
        done = "would come back" if dry_run else "came back"
        yield f"{repair.name} was {repair.harm}: it {done} as it was stored at {timestamp(repair.original.time)}."
    for name in healing.copied:
        yield f"{name} has a new time, because what was put over it is locked, too."
    for name, reason in healing.lost.items():
        yield f"{name} is LOST: {reason}"
    if healing.deleted_points:
        yield (
            f"{plural(len(healing.deleted_points), 'recovery point')} that somebody or retention deleted can be had back with "
            "--deleted-since."
        )
    if not healing.repairs and not healing.lost:
        yield "Nothing that recovery points need was overwritten or deleted."


def _originals(loaded: Policy, unlock: Unlock, deleted_since: datetime | None = None) -> tuple[Originals, Repository]:
    """The bucket as honest writers left it, opened with the identity. Raise UsageError for any other target."""
    from trinity_snap.cli.context import find_identity
    from trinity_snap.errors import IdentityNeeded
    from trinity_snap.repository.identity import has_host_key, load_host_key
    from trinity_snap.targets import open_target
    from trinity_snap.trusted.opening import open_originals

    identity, host_key = find_identity(loaded, unlock), loaded.keys.host_key
    if identity is None:
        raise IdentityNeeded(
            "Which objects recovery points need is seen only with an identity.",
            untouched="Nothing was changed.",
            next_step="Give one with --identity, where it is: on the control node.",
        )
    host = load_host_key(host_key) if has_host_key(host_key) else None
    return open_originals(
        open_target(loaded.target.settings()), host=host, identity=identity, deleted_since=deleted_since
    )
