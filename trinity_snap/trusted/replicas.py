"""Forgetting and pruning at replicas, by the rules that keep them from harming what is copied there (docs/format.md section 15).

Each replica has fences, receipts and a clock of its own. What the first target has is spared there, listed just before: the
replicator may be relying on it, and would bring it back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from trinity_snap.errors import AgentMissing, ForeignRepository, PointMissing, TrinitySnapError
from trinity_snap.progress import Progress
from trinity_snap.repository.forget import ForgetReport, forget
from trinity_snap.repository.prune import PruneReport, prune
from trinity_snap.repository.receipts import put_hold, read_receipts

if TYPE_CHECKING:
    from trinity_snap.repository.repository import Repository
    from trinity_snap.repository.retention import RetentionRules

__all__ = ["AtReplica", "at_replicas", "copy_holds", "forget_at_replica", "prune_at_replica", "release_at_replica"]

_Report = TypeVar("_Report")


@dataclass(frozen=True)
class AtReplica(Generic[_Report]):
    """What came of it at the replica of that name: a report, or why there is none."""

    name: str
    report: _Report | None
    error: TrinitySnapError | None = None


def at_replicas(
    names: Iterable[str], opened: Callable[[str], Repository], work: Callable[[str, Repository], _Report]
) -> list[AtReplica[_Report]]:
    """Do the same at each replica; one that fails does not keep the others from it."""
    results = []
    for name in names:
        try:
            results.append(AtReplica(name, work(name, opened(name))))
        except TrinitySnapError as error:
            results.append(AtReplica(name, None, error))
    return results


def copy_holds(first: Repository, replica: Repository) -> list[str]:
    """Hold at the replica, too, what is held at the first target. Return what was not held there before."""
    _require_same(first, replica)
    held = read_receipts(replica.target, replica.host).holds
    missing = sorted(read_receipts(first.target, first.host).holds.keys() - held.keys())
    for point in missing:
        put_hold(replica.target, replica.host, point)
    return missing


def release_at_replica(replica: Repository, points: Collection[str]) -> list[str]:
    """Let these points, given by whole ids, go at a replica. Return those that were held there."""
    held = read_receipts(replica.target, replica.host).holds
    chosen = sorted(held.keys() & set(points))
    for point in chosen:
        for name in held[point]:
            replica.target.delete(name)
    return chosen


def forget_at_replica(
    first: Repository,
    replica: Repository,
    rules_for: Callable[[str], RetentionRules],
    chosen: Sequence[str] = (),
    *,
    dry_run: bool = False,
    accept: Collection[str] = (),
    accept_missing: bool = False,
    progress: Progress | None = None,
    lenient: bool = False,
) -> ForgetReport:
    """Apply the rules at a replica to what is no longer at the first target. Holds of the first are copied before.

    `lenient`: what is chosen need not be there. Raise as `forget`, and TargetError if the first cannot be listed.
    """
    _require_same(first, replica)
    spared = first.point_ids()
    if dry_run:
        spared += read_receipts(first.target, first.host).holds
    else:
        copy_holds(first, replica)
    try:
        return forget(
            replica, rules_for, chosen, dry_run=dry_run, accept=accept, accept_missing=accept_missing,
            spared=spared, progress=progress,
        )  # fmt: skip
    except (AgentMissing, PointMissing):
        if not lenient:
            raise
        return ForgetReport(dry_run, 0, [])


def prune_at_replica(
    first: Repository,
    replica: Repository,
    *,
    dry_run: bool = False,
    accept_missing: bool = False,
    progress: Progress | None = None,
    memory: Path | None = None,
) -> PruneReport:
    """Prune a replica. Raise as `prune`, and TargetError if the first target cannot be listed: nothing is deleted then."""
    _require_same(first, replica)
    if not dry_run:
        copy_holds(first, replica)
    packs = frozenset(bytes.fromhex(name[-64:]) for name in first.target.list_prefix("packs/"))
    objects = {name for kind in ("sessions/", "index/") for name in first.target.list_prefix(kind)}
    return prune(
        replica, dry_run=dry_run, accept_missing=accept_missing, spared=packs, spared_objects=objects,
        spared_points=first.point_ids(), progress=progress, memory=memory,
    )  # fmt: skip


def _require_same(first: Repository, replica: Repository) -> None:
    if first.id != replica.id:
        raise ForeignRepository(
            f"{replica.target.url} holds another repository than {first.target.url}.",
            untouched="Nothing of it was touched.",
            next_step="Give the replica a place of its own in the policy.",
        )
