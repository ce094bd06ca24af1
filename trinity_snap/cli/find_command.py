"""`trinity-snap find`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
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
from trinity_snap.cli.output import emit, local_time, plural, size
from trinity_snap.cli.progress import watched
from trinity_snap.errors import AgentMissing, IntegrityError, UsageError
from trinity_snap.report.times import timestamp

if TYPE_CHECKING:
    from trinity_snap.browse.search import Found, Search, Version
    from trinity_snap.repository.points import RecoveryPoint

app = new_app()


@app.command()
def find(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A name with * and ?, or, with a / in it, a path from the volume's root."),
    ],
    agents: Annotated[
        list[str] | None,
        typer.Option("--agent", metavar="NAME", help="Only in this agent's points. Repeatable.", show_default=False),
    ] = None,
    gone: Annotated[bool, typer.Option("--gone", help="Only what the agent's newest point no longer has.")] = False,
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="Show so many paths at most.", min=1)] = 1000,
    target: TargetOption = None,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """Where a file is, over all recovery points: every version of it, and which points have it. Exit code 1 if it is nowhere.

    Quote patterns, so that the shell leaves them alone: '*.db'.
    """
    from trinity_snap.browse import search

    if not name.strip("/"):
        raise UsageError("Which name?")
    repository = open_repository(load(policy), Unlock(identity, passphrase_file, trinity_key_file), target)
    points = repository.points()
    missing = sorted(set(agents or ()) - {point.agent for point in points})
    if missing:
        raise AgentMissing(
            f"The repository has no recovery point of an agent {missing[0]!r}.",
            next_step="`trinity-snap list` shows what there is.",
        )
    if agents:
        points = [point for point in points if point.agent in agents]
    with watched(quiet=quiet) as progress:
        result = search(repository, points, name, progress)
    result.unread += [f"Recovery point {one[:8]} cannot be read: {why}" for one, why in repository.unreadable_points]
    found = [one for one in result.found if not (gone and one.in_latest)]
    answer = {
        "found": [_one(one) for one in found[:limit]],
        "total": len(found),
        "points": result.points,
        "unread": result.unread,
    }
    emit(answer, lambda: _lines(found, limit, result), as_json)
    if result.unread:
        return IntegrityError.exit_code
    return 0 if found else 1


def _one(found: Found) -> dict[str, object]:
    return {
        "agent": found.agent,
        "volume": found.volume,
        "path": os.fsdecode(found.path),
        "in_latest": found.in_latest,
        "versions": [
            {
                "type": version.entry.type,
                "bytes": version.entry.size,
                "modified": timestamp(_modified(version)),
                "newest": _point(version.points[0]),
                "oldest": _point(version.points[-1]),
                "points": len(version.points),
            }
            for version in found.versions
        ],
    }


def _point(point: RecoveryPoint) -> dict[str, str]:
    return {"id": point.id, "created": timestamp(point.created)}


def _modified(version: Version) -> datetime:
    return datetime.fromtimestamp(version.entry.mtime_ns / 1e9, UTC)


def _lines(found: list[Found], limit: int, result: Search) -> Iterator[str]:
    for one in found[:limit]:
        yield f"{one.agent}  {one.volume}:{os.fsdecode(one.path)}{'' if one.in_latest else '  (not in the newest point)'}"
        for version in one.versions:
            newest, oldest = version.points[0], version.points[-1]
            since = f", since {oldest.id[:8]} of {local_time(oldest.created)}" if oldest is not newest else ""
            yield (
                f"  {size(version.entry.size):>10}, modified {local_time(_modified(version))}: "
                f"in {newest.id[:8]} of {local_time(newest.created)}{since}"
            )
    if len(found) > limit:
        yield f"and {len(found) - limit} more paths; --limit shows more of them."
    yield from (f"NOT looked at: {sentence}" for sentence in result.unread)
    yield f"{plural(len(found), 'path')} in {plural(result.points, 'recovery point')}."
