"""Letting go of points in whose place a repacked one has come (docs/format.md section 17).

That a point was repacked from another one is believed of nobody but the identity at hand; and nothing is let go of before the
one in its place counts, obeys, says the same, and its new packs have been read and found whole.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from msgspec.structs import replace

from trinity_snap.errors import ForeignRepository, IntegrityError, PointMissing, WrongKey
from trinity_snap.repository.packcheck import check_pack
from trinity_snap.repository.points import RecoveryPoint
from trinity_snap.repository.receipts import put_forgotten, put_hold, put_points, read_receipts
from trinity_snap.repository.survey import PointFacts, Survey

if TYPE_CHECKING:
    from trinity_snap.repository.repository import Repository

__all__ = ["supersede", "superseded"]


def superseded(found: Survey) -> list[tuple[PointFacts, list[PointFacts]]]:
    """The points that count and obey and were repacked, each with those that it could take the place of.

    Of several that were made of the same, one takes the place of all others, and it is the same one for all who look: who has
    been repacked more often, then whose id is smaller.
    """
    lineages: dict[str, list[PointFacts]] = {}
    for point in found.points:
        lineages.setdefault(point.lineage, []).append(point)
    pairs = []
    for members in lineages.values():
        ranked = sorted(members, key=lambda one: (-one.repacked, one.id))
        keeper = next((one for one in ranked if one.repacked and _stands(one)), None)
        if keeper is not None and len(members) > 1:
            pairs.append((keeper, ranked[ranked.index(keeper) + 1 :]))
    return pairs


def _stands(point: PointFacts) -> bool:
    return point.judgement.counts and point.judgement.obedient and point.judgement.complete


def supersede(
    repository: Repository, found: Survey, *, verified: set[bytes], spared: Collection[str] = (), dry_run: bool = False
) -> list[str]:
    """Let go of all points that a repacked one can take the place of. Return their ids. Raise TargetError.

    `found` is a look from after the repacked ones were stored. `verified` are packs (SHA-256) that were read and are whole;
    more are added. `spared` ids stay: at a replica, those that the first target has.
    """
    going: dict[str, PointFacts] = {}
    for keeper, others in superseded(found):
        new = _read(repository, keeper.id)
        for other in others:
            old = _read(repository, other.id)
            if other.id in spared or new is None or old is None or not _say_the_same(new, old):
                continue
            if dry_run or all(_is_whole(repository, digest, length, verified) for digest, length in _added(new, old)):
                going[other.id] = keeper
    if going and not dry_run:
        _let_go(repository, found, going)
    return sorted(going)


def _let_go(repository: Repository, found: Survey, going: dict[str, PointFacts]) -> None:
    target, host = repository.target, repository.host
    keepers = {keeper.id: keeper.time_ns for keeper in going.values()}
    if new := {point: time_ns for point, time_ns in keepers.items() if point not in found.receipts.points}:
        put_points(target, host, new)
    _move_holds(repository, going)
    put_forgotten(target, host, going)
    for point_id in sorted(going):
        target.delete(f"points/{point_id}")
    _move_holds(repository, going)  # once more: somebody may have held one just before it went
    found.points = [point for point in found.points if point.id not in going]
    found.receipts.forgotten.update(going)


def _move_holds(repository: Repository, going: dict[str, PointFacts]) -> None:
    """Hold what takes the place of points that are held, instead of these: `forget` keeps both, if one is held."""
    holds = read_receipts(repository.target, repository.host).holds
    held = sorted(holds.keys() & going.keys())
    for keeper in sorted({going[point].id for point in held} - holds.keys()):
        put_hold(repository.target, repository.host, keeper)
    for point in held:
        for name in holds[point]:
            repository.target.delete(name)


def _read(repository: Repository, point_id: str) -> RecoveryPoint | None:
    try:
        return repository.read_point(point_id)
    except (PointMissing, IntegrityError, ForeignRepository, WrongKey):
        return None


def _say_the_same(one: RecoveryPoint, other: RecoveryPoint) -> bool:
    """Whether two points differ in nothing but where their data is."""

    def bare(point: RecoveryPoint) -> RecoveryPoint:
        return replace(point, id="", session_id=b"", packs=b"", repacked=None)

    return bare(one) == bare(other)


def _added(new: RecoveryPoint, old: RecoveryPoint) -> list[tuple[bytes, int]]:
    before = {reference.name for reference in old.pack_references()}
    return [(bytes.fromhex(one.name), one.length) for one in new.pack_references() if one.name not in before]


def _is_whole(repository: Repository, digest: bytes, length: int, verified: set[bytes]) -> bool:
    if digest not in verified and check_pack(repository, digest.hex(), length).problem is None:
        verified.add(digest)
    return digest in verified
