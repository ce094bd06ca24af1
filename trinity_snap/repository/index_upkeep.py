"""Keeping `index/` from growing without end: objects whose packs are gone go, too."""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING

from trinity_snap.errors import ForeignRepository, IntegrityError, ObjectMissing
from trinity_snap.progress import Progress
from trinity_snap.repository.session import read_index, write_index

if TYPE_CHECKING:
    from trinity_snap.repository.repository import Repository

__all__ = ["tidy_index"]


def tidy_index(repository: Repository, progress: Progress, *, spared: Set[str] = frozenset()) -> int:
    """Remove index objects of which fewer than half of the packs exist, after what they say of these is stored anew.

    Return how many were removed; `spared` names stay. One object is read at a time. Damaged ones are left for `verify` to name.
    """
    target = repository.target
    names = sorted(
        target.list_prefix("index/")
    )  # before the packs: an index object comes after the packs that it is of
    existing = {bytes.fromhex(name[-64:]) for name in target.list_prefix("packs/")}
    removed = 0
    progress.stage("looking at the index (objects)", len(names))
    for name in names:
        progress.advance(1)
        if name in spared:
            continue
        try:
            packs = read_index(target.get(name), repository.host, name)
        except (IntegrityError, ForeignRepository, ObjectMissing):
            continue
        living = [pack for pack in packs if pack.digest in existing]
        if 2 * len(living) >= len(packs) and living:
            continue
        if living:
            write_index(target, repository.host, living)
        target.delete(name)
        removed += 1
    return removed
