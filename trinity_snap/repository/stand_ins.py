"""Which packs stand in for lost ones: no point names them, and yet points are restored with them (docs/format.md section 16)."""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING

from trinity_snap.errors import IntegrityError, ObjectMissing
from trinity_snap.repository.packs import pack_name
from trinity_snap.repository.reader import open_pack
from trinity_snap.repository.spares import chunk_ids, indexed_packs
from trinity_snap.repository.survey import Survey

if TYPE_CHECKING:
    from trinity_snap.repository.repository import Repository

__all__ = ["lost_packs", "stand_ins"]


def lost_packs(found: Survey) -> set[bytes]:
    """The packs (SHA-256) that points need and that are missing, or were damaged when they were read last."""
    damaged = found.receipts.damaged_packs.keys()
    return {digest for digest in found.marks.needed if digest not in found.existing or digest in damaged}


def stand_ins(repository: Repository, lost: Set[bytes], candidates: Set[bytes]) -> set[bytes]:
    """Those of the packs `candidates` that hold a chunk which one of the packs `lost` held, or of which that is not known.

    What the lost ones held is known from the index, and from what can be read of them; of one of which nothing is known nothing
    can be said. Raise TargetError.
    """
    wanted: set[bytes] = set()
    for pack in indexed_packs(repository.target, repository.host):
        if pack.digest in lost:
            wanted.update(chunk_ids(pack.table))
    for digest in lost:
        wanted |= _chunks_of(repository, digest) or set()
    if not wanted:
        return set()
    found, looked = set(), set()
    for pack in indexed_packs(repository.target, repository.host):
        if pack.digest in candidates:
            looked.add(pack.digest)
            if not wanted.isdisjoint(chunk_ids(pack.table)):
                found.add(pack.digest)
    for digest in candidates - looked:
        ids = _chunks_of(repository, digest)
        if ids is None or not wanted.isdisjoint(ids):
            found.add(digest)
    return found


def _chunks_of(repository: Repository, digest: bytes) -> set[bytes] | None:
    """The chunks of a pack as its own table says, None if that cannot be read."""
    try:
        length = repository.target.stat(pack_name(digest.hex())).size
        return set(chunk_ids(open_pack(repository.target, repository.point_keys(), digest.hex(), length).table))
    except (IntegrityError, ObjectMissing):
        return None
