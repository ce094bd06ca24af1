"""Undoing what somebody did to objects in a bucket that keeps versions: overwritten and deleted ones come back.

What lies above the original is taken away, so that the original keeps its time. Where that is refused, because it is locked
itself, the original's bytes are put on top.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from trinity_snap.errors import IntegrityError, ObjectMissing, TargetDenied
from trinity_snap.progress import Progress
from trinity_snap.targets.s3_lock import retention_of
from trinity_snap.targets.s3_versions import Version, put_over, read_version, remove_version
from trinity_snap.trusted.originals import Originals

__all__ = ["Healing", "Repair", "heal", "plan"]

Harm = Literal["overwritten", "deleted"]


@dataclass(frozen=True)
class Repair:
    """An object that readers do not get as it was stored, the version that they shall get, and what lies above that."""

    name: str
    harm: Harm
    original: Version
    above: tuple[Version, ...]


@dataclass
class Healing:
    """What there is to do, what is lost for good (name to reason), and points that were deleted and are left so."""

    repairs: list[Repair] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    deleted_points: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)


def plan(originals: Originals, needed: Collection[str]) -> Healing:
    """What is to be done. Deleted objects come back if they are needed, or as the originals were told.

    Raise TargetError, TargetDenied.
    """
    healing = Healing()
    wanted = set(needed)
    for name in sorted(wanted | originals.versions.keys(), key=_points_last):
        versions = originals.versions.get(name, [])
        kept = [version for version in versions if not version.marker]
        if not kept:
            if name in wanted:
                healing.lost[name] = "No version of it is left."
            continue
        deleted = versions[0].marker
        if deleted and name not in wanted and not originals.is_listed(name):
            if name.startswith("points/"):
                healing.deleted_points.append(name)
            continue
        if deleted or len(kept) > 1:
            _consider(originals, name, kept, "deleted" if deleted else "overwritten", healing)
    return healing


def _consider(originals: Originals, name: str, kept: list[Version], harm: Harm, healing: Healing) -> None:
    original = originals.original(name)
    if not originals.is_right(original):
        healing.lost[name] = "No version of it is what was stored."
        return
    if harm == "overwritten":
        data = read_version(originals.target, original)
        if kept[0] is original or _bytes_of(originals, kept[0]) == data:
            return
    above = tuple(version for version in originals.versions[name] if version.marker) + tuple(
        kept[: kept.index(original)]
    )
    healing.repairs.append(Repair(name, harm, original, above))


def heal(originals: Originals, healing: Healing, progress: Progress) -> None:
    """Do it, points last, so that none shows before what it needs. Interrupted, it can be done again.

    Raise TargetDenied, TargetError; IntegrityError if the store then still gives something else.
    """
    progress.stage("healing (objects)", len(healing.repairs))
    for repair in healing.repairs:
        data = read_version(originals.target, repair.original)
        if not all(_removed(originals, version) for version in repair.above):
            put_over(originals.target, repair.name, data)
            healing.copied.append(repair.name)
        try:
            good = originals.target.get(repair.name) == data
        except ObjectMissing:
            good = False
        if not good:
            raise IntegrityError(
                f"{repair.name} was healed, and {originals.url} still gives something else for it.",
                untouched="The original is still there.",
                next_step="See whether somebody is changing the bucket just now, and take away those credentials first.",
            )
        progress.advance(1, repair.name)


def _removed(originals: Originals, version: Version) -> bool:
    """Take a version away; False if it is locked. Raise TargetDenied if these credentials may not do that at all."""
    try:
        remove_version(originals.target, version)
    except TargetDenied as error:
        lock = None if version.marker else retention_of(originals.target, version.name, version.id)
        if lock is None or lock.until <= datetime.now(UTC):
            raise TargetDenied(
                error.message,
                untouched="What was healed before stays so; no original was touched.",
                next_step="`trinity-snap target policy --heal` prints the rights that this needs. Then run it again.",
            ) from error
        return False
    return True


def _bytes_of(originals: Originals, version: Version) -> bytes | None:
    try:
        return read_version(originals.target, version)
    except ObjectMissing:
        return None


def _points_last(name: str) -> tuple[bool, str]:
    return name.startswith("points/"), name
