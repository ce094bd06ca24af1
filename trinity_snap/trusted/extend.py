"""Extending the lock of what is still needed, and of nothing else. Never shortens; interrupted, it goes on where it was."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from trinity_snap.errors import ObjectMissing
from trinity_snap.progress import Progress
from trinity_snap.targets.s3_lock import Retention, extend_retention, retention_of
from trinity_snap.trusted.originals import Originals

__all__ = ["Extension", "extend", "lock_end"]


@dataclass
class Extension:
    """What came of it: names by what was found. `hidden` are objects of which readers get another version, or none."""

    until: datetime
    extended: list[str] = field(default_factory=list)
    long_enough: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)


def lock_end(days: int, now: datetime | None = None) -> datetime:
    """The first midnight (UTC) at least so many days away.

    The same for all of a day, so that a second run that day has nothing to do for what the first one did.
    """
    end = (now or datetime.now(UTC)) + timedelta(days=days)
    midnight = end.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight if midnight == end else midnight + timedelta(days=1)


def extend(
    originals: Originals, names: Collection[str], goal: Retention, progress: Progress, *, dry_run: bool
) -> Extension:
    """See to it that the originals of these objects are locked until `goal.until` at least.

    An object that is locked in another mode than the goal's keeps its own. Raise TargetError, TargetDenied.
    """
    result = Extension(goal.until)

    def one(name: str) -> tuple[str, list[str]]:
        if not originals.is_plain(name):
            result.hidden.append(name)
        try:
            version = originals.original(name)
            present = retention_of(originals.target, name, version.id)
        except ObjectMissing:
            return name, result.missing
        if present is not None and present.until >= goal.until:
            return name, result.long_enough
        if not dry_run:
            mode = goal.mode if present is None else present.mode
            extend_retention(originals.target, name, version.id, Retention(mode, goal.until))
        return name, result.extended

    progress.stage("extending locks (objects)", len(names))
    pool = ThreadPoolExecutor(originals.parallel_gets, thread_name_prefix="extend")
    try:
        for name, found in pool.map(one, sorted(names)):
            found.append(name)
            progress.advance(1, name)
    finally:
        pool.shutdown(cancel_futures=True)
    result.hidden.sort()
    return result
