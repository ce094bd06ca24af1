"""Holds: recovery points that stay whatever the retention rules say (docs/format.md section 14)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trinity_snap.errors import PointAmbiguous, PointMissing
from trinity_snap.repository.receipts import put_hold, read_receipts

if TYPE_CHECKING:
    from trinity_snap.repository.repository import Repository

__all__ = ["held_points", "hold", "release"]

_MINIMUM_PREFIX = 4


def held_points(repository: Repository) -> list[str]:
    """The ids of the points that are held, sorted."""
    return sorted(read_receipts(repository.target, repository.host).holds)


def hold(repository: Repository, selectors: Sequence[str]) -> list[str]:
    """Hold the points of which these are ids, or their first digits. Return the ids. Holding twice is as good as once.

    Raise PointMissing or PointAmbiguous before anything is done.
    """
    present = repository.point_ids()
    chosen = [_resolve(selector, present) for selector in selectors]
    held = read_receipts(repository.target, repository.host).holds
    for point in chosen:
        if point not in held:
            put_hold(repository.target, repository.host, point)
    return chosen


def release(repository: Repository, selectors: Sequence[str]) -> list[str]:
    """Let held points go: the rules decide again. Return the ids. Raise PointMissing or PointAmbiguous."""
    held = read_receipts(repository.target, repository.host).holds
    chosen = [_resolve(selector, sorted(held)) for selector in selectors]
    for point in chosen:
        for name in held[point]:
            repository.target.delete(name)
    return chosen


def _resolve(selector: str, points: Sequence[str]) -> str:
    found = [point for point in points if point.startswith(selector.lower())]
    if len(selector) < _MINIMUM_PREFIX or not found:
        raise PointMissing(
            f"There is no such recovery point {selector!r}.",
            untouched="Nothing was changed.",
            next_step=f"`trinity-snap list` shows the ids; give at least {_MINIMUM_PREFIX} digits of one.",
        )
    if len(found) > 1:
        raise PointAmbiguous(f"{len(found)} recovery points begin with {selector!r}.", next_step="Give more digits.")
    return found[0]
