"""`trinity-snap diff`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
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
from trinity_snap.errors import PointMissing, UsageError
from trinity_snap.report.points import point_summary

if TYPE_CHECKING:
    from trinity_snap.browse import Change
    from trinity_snap.repository.points import RecoveryPoint
    from trinity_snap.repository.repository import Repository

app = new_app()

_MARKS = {"added": "+", "removed": "-", "changed": "M", "metadata": "m"}


@app.command()
def diff(
    points: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[POINT] [POINT]",
            help="Two points, ids or the starts of some; or one, and the one before it of the same agent.",
            show_default=False,
        ),
    ] = None,
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="NAME", help="The newest two of this agent.", show_default=False)
    ] = None,
    metadata: Annotated[
        bool, typer.Option("--metadata", help="List, too, of what only the owner, mode, time or attributes differ.")
    ] = False,
    target: TargetOption = None,
    policy: PolicyOption = None,
    identity: IdentityOption = None,
    passphrase_file: PassphraseFileOption = None,
    trinity_key_file: TrinityKeyFileOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> int:
    """What differs between two recovery points, from the first to the second: + added, - removed, M other content."""
    from trinity_snap.browse import differences

    selectors = points or []
    if len(selectors) > 2 or bool(selectors) == (agent is not None):
        raise UsageError("Which two? Name two recovery points, or one, or an agent with --agent.")
    repository = open_repository(load(policy), Unlock(identity, passphrase_file, trinity_key_file), target)
    before, after = _choose(repository, selectors, agent)
    counts: Counter[str] = Counter()
    shown = []
    for change in differences(repository, before, after):
        counts[change.kind] += 1
        if metadata or change.kind != "metadata":
            shown.append(change)
    answer = {
        "before": point_summary(before, None),
        "after": point_summary(after, None),
        "counts": {kind: counts[kind] for kind in _MARKS},
        "changes": [_one(change) for change in shown],
    }
    emit(answer, lambda: _lines(before, after, shown, counts), as_json)
    return 0


def _choose(repository: Repository, selectors: list[str], agent: str | None) -> tuple[RecoveryPoint, RecoveryPoint]:
    """The older one, or the one that was named first, and the other."""
    if len(selectors) == 2:
        return repository.resolve(selectors[0]), repository.resolve(selectors[1])
    after = repository.resolve(selectors[0] if selectors else None, agent=agent)
    older = [point for point in repository.points(after.agent) if point.created_ns < after.created_ns]
    if not older:
        raise PointMissing(f"There is no recovery point of {after.agent} before {after.id[:8]} to compare it with.")
    return older[0], after


def _one(change: Change) -> dict[str, object]:
    before, after = change.before, change.after
    return {
        "kind": change.kind,
        "volume": change.volume,
        "path": os.fsdecode(change.path),
        "type_before": None if before is None else before.type,
        "type_after": None if after is None else after.type,
        "bytes_before": None if before is None else before.size,
        "bytes_after": None if after is None else after.size,
    }


def _lines(before: RecoveryPoint, after: RecoveryPoint, changes: list[Change], counts: Counter[str]) -> Iterator[str]:
    for point in (before, after):
        yield f"{point.id[:8]} of {point.agent}, {local_time(point.created)}"
    for change in changes:
        sizes = [size(one.size) for one in (change.before, change.after) if one is not None and one.type == "f"]
        how = f" ({' -> '.join(dict.fromkeys(sizes))})" if sizes else ""
        yield f"{_MARKS[change.kind]} {change.volume}:{os.fsdecode(change.path) or '.'}{how}"
    words = [
        f"{plural(counts['added'], 'entry', 'entries')} added",
        f"{counts['removed']} removed",
        f"{counts['changed']} changed",
    ]
    yield f"{', '.join(words)}; of {counts['metadata']} only owner, mode, time or attributes."
