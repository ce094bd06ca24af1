"""Measure how much memory it takes to find out what is worth repacking in a large repository, made up for it.

    python -m tests.bench.repack_memory [--chunks 10000000] [--points 5] [--json FILE]

As `tests/bench/prune_memory.py`, with manifests: points need every second chunk of their packs. What is moved in one call is
bounded by `MAXIMUM_CHUNKS`, however large the repository is; this measures what goes with its size, a dry run.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from tests.bench.apart import main, peak_bytes
from tests.bench.prune_memory import (
    CHUNKS_PER_PACK,
    PACK_BYTES,
    PACKS_PER_INDEX,
    TARGET_BYTES,
    NamedPacks,
    _point,
)
from trinity_snap.errors import ObjectMissing
from trinity_snap.repository.keys import (
    HostSecret,
    Identity,
    generate_host_secret,
    generate_identity,
    repository_id_of,
)
from trinity_snap.repository.manifest import Entry, PageReference, encode_page, encode_root
from trinity_snap.repository.packs import Segment
from trinity_snap.repository.points import encode_pack_references
from trinity_snap.repository.repack import repack
from trinity_snap.repository.repack_plan import RepackWish
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.session import _IndexedPack, seal_index
from trinity_snap.targets import ObjectStat, open_target

_CHUNKS_PER_FILE = 1000
_FILES_PER_PAGE = 15
_OLD_SECONDS = 30 * 86400


class PacksAndNames(NamedPacks):
    """A target that has packs, and names of others."""

    def list_prefix(self, prefix: str) -> Iterator[str]:
        """Both kinds."""
        yield from super().list_prefix(prefix)
        if prefix == "packs/":
            yield from self._inner.list_prefix(prefix)

    def stat(self, name: str) -> ObjectStat:
        """Of one that is there as it is."""
        try:
            return self._inner.stat(name)
        except ObjectMissing:
            return super().stat(name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Of one that is there as it is."""
        return self._inner.get_range(name, offset, length)


def build(directory: Path, chunks: int, points: int) -> None:
    """Make the repository, its keys beside it, and let it look a month old."""
    host, identity = generate_host_secret(), generate_identity("operator")
    target = open_target(str(directory / "repository"), create=True)
    Repository.create(target, host, [identity.recipient])
    repository = Repository.open(target, host=host, identity=identity)
    names: list[bytes] = []
    pages: list[PageReference] = []
    with repository.begin_session(directory / "cache") as session:
        entries: list[Entry] = []
        needed: list[bytes] = []

        def close_page() -> None:
            data = encode_page(entries)
            pages.append(PageReference(entries[0].path, session.store_manifest(data), len(data), len(entries)))
            entries.clear()

        while len(names) * CHUNKS_PER_PACK < chunks:
            group = [
                _IndexedPack(
                    os.urandom(32), PACK_BYTES,
                    [Segment(1 << 19, os.urandom(32), [1 << 19]) for _ in range(CHUNKS_PER_PACK)],
                )
                for _ in range(PACKS_PER_INDEX)
            ]  # fmt: skip
            target.put_if_absent(*seal_index(host, session.session_id, group))
            names += [pack.digest for pack in group]
            needed += [segment.ids for made in group for segment in made.table[::2]]
            while len(needed) >= _CHUNKS_PER_FILE:
                ids, needed = b"".join(needed[:_CHUNKS_PER_FILE]), needed[_CHUNKS_PER_FILE:]
                name = b"%010d" % (len(pages) * _FILES_PER_PAGE + len(entries))
                entries.append(Entry(name, "f", 0o600, 0, 0, 0, size=_CHUNKS_PER_FILE << 19, chunks=ids))
                if len(entries) == _FILES_PER_PAGE:
                    close_page()
        close_page()
        data = encode_root(pages)
        root = session.store_manifest(data)
        session.flush()
        ordinals = session.packs_of([root, *(page.page_id for page in pages)])
        packs = [session.index.pack_reference(one) for one in ordinals] + [(name, PACK_BYTES) for name in names]
        for _ in range(points):
            point = _point("0" * 32, session.session_id, encode_pack_references(packs))
            session.commit(replace(point, volumes=[replace(point.volumes[0], root=root, root_length=len(data))]))
    (directory / "packs").write_bytes(b"".join(names))
    (directory / "keys").write_bytes(host.secret + identity.seed)
    old = time.time() - _OLD_SECONDS
    for path in (directory / "packs", *(directory / "repository").rglob("*")):
        os.utime(path, (old, old))


def measure(directory: Path) -> dict[str, float]:
    """Look in this process: what would be repacked, the seconds, and the peak of memory in bytes."""
    keys = (directory / "keys").read_bytes()
    host, identity = HostSecret(keys[:32], repository_id_of(keys[:32])), Identity(keys[32:])
    target = PacksAndNames(open_target(str(directory / "repository")), directory / "packs", b"")
    repository = Repository.open(target, host=host, identity=identity)  # type: ignore[arg-type]  # passes the rest on
    began = time.perf_counter()
    report = repack(repository, wish=RepackWish(unused=0.0), dry_run=True)
    return {
        "packs": report.packs,
        "live_bytes": report.live_bytes,
        "dead_bytes": report.dead_bytes,
        "seconds": round(time.perf_counter() - began, 1),
        "peak_bytes": peak_bytes(),
    }


if __name__ == "__main__":
    sys.exit(main("tests.bench.repack_memory", __doc__ or "", build, measure, points=5, limit_bytes=TARGET_BYTES))
