"""Tables of packs from the index: at a remote target, fetching them with each pack costs more than reading the packs does."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from trinity_snap.errors import ForeignRepository, IntegrityError, ObjectMissing, TargetDenied
from trinity_snap.repository.keys import HostSecret
from trinity_snap.repository.packs import TRAILER_BYTES, Table
from trinity_snap.repository.sealed import HEADER_BYTES, TAG_BYTES
from trinity_snap.targets.protocol import Target

__all__ = ["tables_from_index"]


def tables_from_index(
    target: Target, host: HostSecret, wanted: Mapping[bytes, int], *, at_any_price: bool = False
) -> dict[bytes, Table]:
    """The tables of those of the packs (digest to length) on which the whole index agrees; the others' are in the packs.

    Whoever has the host's credentials may add to the index, and must not be able to spoil what is there: a pack of which
    two objects of the index say different things is in neither. Nothing is read if the packs themselves are fewer than the
    index's objects, unless `at_any_price`: the packs' own tables are lost.
    """
    names = list(target.list_prefix("index/"))
    if len(names) > len(wanted) and not at_any_price:
        return {}
    found: dict[bytes, Table] = {}
    contested: set[bytes] = set()
    with ThreadPoolExecutor(target.parallel_gets, thread_name_prefix="index") as pool:
        for tables in pool.map(lambda name: _read(target, host, name), names):
            for digest, (length, table) in tables.items():
                if digest not in wanted:
                    continue
                ends = HEADER_BYTES + sum(segment.sealed_length for segment in table) + TAG_BYTES + TRAILER_BYTES
                if length != wanted[digest] or ends > length or found.setdefault(digest, table) != table:
                    contested.add(digest)
    return {digest: table for digest, table in found.items() if digest not in contested}


def _read(target: Target, host: HostSecret, name: str) -> dict[bytes, tuple[int, Table]]:
    from trinity_snap.repository.session import read_index

    try:
        return {pack.digest: (pack.length, pack.table) for pack in read_index(target.get(name), host, name)}
    except (IntegrityError, ForeignRepository, ObjectMissing, TargetDenied):
        return {}
