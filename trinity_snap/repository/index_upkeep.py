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


def tidy_index(
    repository: Repository,
    progress: Progress,
    lost: Set[bytes] = frozenset(),
    *,
    spared: Set[str] = frozenset(),
) -> int:
    """Remove index objects of which fewer than half of the packs exist, after what they say of these is stored anew.

    What is said of the packs `lost` stays, too: points need them, and only that tells what stands in for them. Damaged ones go
    when others cover every pack that there is, as they do after `repair`; until then `verify` names them. `spared` names
    stay. One object is read at a time. Return how many were removed.
    """
    target = repository.target
    names = sorted(
        target.list_prefix("index/")
    )  # before the packs: an index object comes after the packs that it is of
    existing = {bytes.fromhex(name[-64:]) for name in target.list_prefix("packs/")}
    worth = existing | lost
    removed = 0
    covered: set[bytes] = set()
    damaged = []
    progress.stage("looking at the index (objects)", len(names))
    for name in names:
        progress.advance(1)
        if name in spared:
            continue
        try:
            packs = read_index(target.get(name), repository.host, name)
        except IntegrityError:
            damaged.append(name)
            continue
        except (ForeignRepository, ObjectMissing):
            continue
        living = [pack for pack in packs if pack.digest in worth]
        covered.update(pack.digest for pack in living)
        if 2 * len(living) >= len(packs) and living:
            continue
        if living:
            write_index(target, repository.host, living)
        target.delete(name)
        removed += 1
    if covered >= existing:
        for name in damaged:
            target.delete(name)
    return removed
