"""`trinity-snap grant`."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TextIO

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
from trinity_snap.cli.output import plural, safe, size
from trinity_snap.cli.progress import watched
from trinity_snap.cli.secrets import forbid_core_dumps
from trinity_snap.errors import ForeignRepository, IdentityNeeded, UsageError

if TYPE_CHECKING:
    from trinity_snap.repository.grants import Grant
    from trinity_snap.repository.points import RecoveryPoint
    from trinity_snap.repository.repository import Repository

app = new_app()

_SHORTEST_SECONDS = 60


@app.command()
def grant(
    what: Annotated[
        str,
        typer.Argument(metavar="POINT|AGENT", help="A recovery point's id, the start of one, or whose newest point."),
    ],
    point: Annotated[
        str | None,
        typer.Option("--point", metavar="ID", help="Which point of the agent: an id, the start of one, or latest."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="The agent's newest point as old as this: an ISO time, or '2h ago'."),
    ] = None,
    paths: Annotated[
        list[str] | None,
        typer.Option("--path", metavar="PATH", help="Only this file or directory, as the agent sees it. Repeatable."),
    ] = None,
    valid: Annotated[
        str, typer.Option("--valid", metavar="TIME", help="For how long: 30min, 12h, 2d; a bucket's at most 7d.")
    ] = "1h",
    repository_id: Annotated[
        str | None,
        typer.Option("--repository-id", metavar="ID", help="Refuse every repository but this.", show_default=False),
    ] = None,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Let a host restore one recovery point without an identity: the grant goes to the standard output, into a pipe.

    `trinity-snap grant researcher | ssh root@host trinity-snap restore --grant - --yes`. What is said of it, with
    --json too, goes to the standard error.
    """
    if sys.stdout.isatty() or _is_file(sys.stdout):
        raise UsageError(
            "A grant holds keys: it belongs into a pipe, and not on a terminal or into a file.",
            untouched="Nothing was granted.",
            next_step="Pipe it: trinity-snap grant … | ssh root@HOST trinity-snap restore --grant - --yes",
        )
    if point is not None and at is not None:
        raise UsageError("--point and --at exclude each other.")
    valid_seconds = _valid(valid)
    from trinity_snap.repository.grantform import encode_grant
    from trinity_snap.restore.granting import grant_restore

    forbid_core_dumps()
    repository = open_repository(load(policy), Unlock(identity, passphrase_file, trinity_key_file))
    if repository.identity is None:
        raise IdentityNeeded(
            "Only an identity can grant.", next_step="Give one with --identity, or with `keys.identity` in the policy."
        )
    if repository_id is not None and repository.id.hex() != repository_id.strip().lower():
        raise ForeignRepository(
            f"The repository at {repository.target.url} has the id {repository.id.hex()}, which is another one.",
            untouched="Nothing was granted.",
            next_step="See docs/security.md, “An invented repository”.",
        )
    found = _resolve(repository, what, point, at)
    with watched(quiet=quiet or as_json) as progress:
        made = grant_restore(repository, found, valid_seconds=valid_seconds, paths=paths or (), progress=progress)
    data = encode_grant(made)
    _say(made, len(data), as_json, quiet)
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _is_file(stream: TextIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):  # no file at all
        return False


def _valid(text: str) -> int:
    from trinity_snap.report.times import parse_duration
    from trinity_snap.targets.presigned import LONGEST_SECONDS

    length = int(parse_duration(text).total_seconds())
    if not _SHORTEST_SECONDS <= length <= LONGEST_SECONDS:
        raise UsageError(
            f"A grant cannot be valid for {text}: at least a minute, at most 7d (stores sign no address for longer)."
        )
    return length


def _resolve(repository: Repository, what: str, point: str | None, at: str | None) -> RecoveryPoint:
    """The point that is meant. Raise UsageError if it could be an agent's name and an id."""
    from trinity_snap.errors import AgentMissing, PointMissing
    from trinity_snap.report.times import parse_moment

    if point is not None or at is not None:
        return repository.resolve(point, agent=what, at=None if at is None else parse_moment(at))
    by_id = None
    try:
        by_id = repository.resolve(what)
    except PointMissing:
        pass
    try:
        newest = repository.resolve(agent=what)
    except AgentMissing:
        if by_id is None:
            raise PointMissing(
                f"There is neither a recovery point {what!r:.60} nor an agent of that name that has one.",
                next_step="`trinity-snap list` shows what there is.",
            ) from None
        return by_id
    if by_id is not None and what != "latest":
        raise UsageError(f"{what} is an agent and the beginning of a point's id.", next_step="Add --point.")
    return newest


def _say(grant: Grant, length: int, as_json: bool, quiet: bool) -> None:
    if as_json:
        sys.stderr.write(json.dumps(_summary(grant, length), indent=2) + "\n")
    elif not quiet:
        sys.stderr.write("".join(safe(line) + "\n" for line in _lines(grant, length)))
    sys.stderr.flush()


def _summary(grant: Grant, length: int) -> dict[str, object]:
    return {
        "repository": grant.repository_id.hex(),
        "target": grant.target,
        "point": grant.point.id,
        "agent": grant.point.agent,
        "host": grant.point.host,
        "created": grant.point.created.isoformat(),
        "paths": list(grant.paths),
        "expires": _time(grant.expires),
        "addresses": grant.addresses is not None,
        "packs": len(grant.packs),
        "pack_bytes": grant.pack_bytes,
        "missing": [{"pack": name, "reason": grant.reasons[name]} for name in grant.missing],
        "grant_bytes": length,
    }


def _lines(grant: Grant, length: int) -> Iterator[str]:
    point = grant.point
    what = f"{', '.join(grant.paths)} of " if grant.paths else ""
    yield (
        f"Granted {what}recovery point {point.id[:8]} of {point.agent} ({point.created:%Y-%m-%d %H:%M:%S} UTC, host "
        f"{point.host}) until {_time(grant.expires)}: {plural(len(grant.packs), 'pack')}, {size(grant.pack_bytes)}; "
        f"the grant has {size(length)}."
    )
    if grant.addresses is None:
        yield f"It has keys and no addresses: the host must be able to read {grant.target} itself."
    if grant.missing:
        yield f"warning: {plural(len(grant.missing), 'pack')} cannot be read, and what only they hold cannot be restored."


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
