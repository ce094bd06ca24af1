"""Measure how much memory a prune takes in a large repository, made up for it.

    python -m tests.bench.prune_memory [--chunks 10000000] [--points 10] [--json FILE]

It has to be less than 300 MB at 10 million chunks. The index and the recovery points are real objects in a directory; packs
are names only, 30 chunks each, which is what large files give (5 TB at 10 million). Each point needs all but a tenth of the
packs, so that as many are condemned. The prune runs in a process of its own, whose peak is measured.
`tests/engine/test_prune_memory.py` does the same with fewer.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.apart import main, peak_bytes
from trinity_snap.errors import ObjectMissing
from trinity_snap.repository.keys import (
    HostSecret,
    Identity,
    generate_host_secret,
    generate_identity,
    generate_session_key,
    repository_id_of,
)
from trinity_snap.repository.packs import Segment
from trinity_snap.repository.points import RecoveryPoint, Volume, encode_pack_references, seal_point
from trinity_snap.repository.prune import prune
from trinity_snap.repository.recipients import seal_session
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.sealed import PACK_MAGIC, POINT_MAGIC, new_header
from trinity_snap.repository.session import _IndexedPack, seal_index
from trinity_snap.targets import ObjectStat, Target, open_target

TARGET_BYTES = 300_000_000
CHUNKS_PER_PACK = 30
PACKS_PER_INDEX = 64
PACK_BYTES = 16 << 20
_OLD_SECONDS = 30 * 86400


class NamedPacks:
    """A target whose packs are a file of digests; they are as old as that, and all of one session. Deleting one does nothing."""

    def __init__(self, inner: Target, names: Path, header: bytes) -> None:
        self._inner = inner
        self._names = names
        self._header = header
        self._time_ns = names.stat().st_mtime_ns

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def list_prefix(self, prefix: str) -> Iterator[str]:
        """The names of packs one by one; of all else as it is."""
        if prefix != "packs/":
            yield from self._inner.list_prefix(prefix)
            return
        with self._names.open("rb") as file:
            while digest := file.read(32):
                yield f"packs/{digest[:1].hex()}/{digest.hex()}"

    def stat(self, name: str) -> ObjectStat:
        """Packs are of one length."""
        return ObjectStat(PACK_BYTES, self._time_ns) if name.startswith("packs/") else self._inner.stat(name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """The header of a pack, or a range of another object."""
        if name.startswith("packs/"):
            if offset + length > len(self._header):
                raise ObjectMissing(f"There is nothing more of {name}.")
            return self._header[offset : offset + length]
        return self._inner.get_range(name, offset, length)

    def delete(self, name: str) -> None:
        """Packs stay."""
        if not name.startswith("packs/"):
            self._inner.delete(name)


def build(directory: Path, chunks: int, points: int) -> None:
    """Make the repository, its keys beside it, and let it look a month old."""
    host, identity = generate_host_secret(), generate_identity("operator")
    target = open_target(str(directory / "repository"), create=True)
    Repository.create(target, host, [identity.recipient])
    session_id, key = os.urandom(16), generate_session_key()
    for number in range(12):  # enough of them that prune looks which are needed
        name = session_id if number == 0 else os.urandom(16)
        sealed = seal_session(key, host.repository_id, name, [identity.recipient], host.mac_key)
        target.put_if_absent(f"sessions/{name.hex()}", sealed)
    packs: list[bytes] = []
    while len(packs) * CHUNKS_PER_PACK < chunks:
        group = [
            _IndexedPack(
                os.urandom(32), PACK_BYTES,
                [Segment(1 << 19, os.urandom(32), [1 << 19]) for _ in range(CHUNKS_PER_PACK)],
            )
            for _ in range(PACKS_PER_INDEX)
        ]  # fmt: skip
        target.put_if_absent(*seal_index(host, session_id, group))
        packs += [pack.digest for pack in group]
    (directory / "packs").write_bytes(b"".join(packs))
    needed = encode_pack_references((pack, PACK_BYTES) for pack in packs[: len(packs) * 9 // 10])
    for _ in range(points):
        header, point_id = new_header(POINT_MAGIC, host.repository_id, session_id), os.urandom(16).hex()
        point = _point(point_id, session_id, needed)
        target.put_if_absent(f"points/{point_id}", seal_point(point, header, key, host.mac_key))
    (directory / "keys").write_bytes(host.secret + identity.seed + session_id)
    old = time.time() - _OLD_SECONDS
    for path in (directory / "packs", *(directory / "repository").rglob("*")):
        os.utime(path, (old, old))


def _point(point_id: str, session_id: bytes, packs: bytes) -> RecoveryPoint:
    volume = Volume(name="v", kind="volume", root=bytes(32), root_length=0, entries=0, files=0, bytes=0)
    return RecoveryPoint(
        id=point_id, session_id=session_id, agent="agent", host="host", run_id="f" * 32, created_ns=0, mode="none",
        provider="none", consistency="none", pause_ns=0, files=1, bytes=1, volumes=[volume], packs=packs,
    )  # fmt: skip


def measure(directory: Path) -> dict[str, float]:
    """Prune in this process: what it condemned, its seconds, and the peak of its memory in bytes."""
    keys = (directory / "keys").read_bytes()
    host, identity, session_id = HostSecret(keys[:32], repository_id_of(keys[:32])), Identity(keys[32:64]), keys[64:]
    header = PACK_MAGIC + host.repository_id + session_id + bytes(32)
    target = NamedPacks(open_target(str(directory / "repository")), directory / "packs", header)
    repository = Repository.open(target, host=host, identity=identity)  # type: ignore[arg-type]  # passes the rest on
    before = peak_bytes()
    began = time.perf_counter()
    report = prune(repository, memory=directory / "memory")
    return {
        "packs": report.packs,
        "fenced_packs": report.fenced_packs,
        "deleted_sessions": report.deleted_sessions,
        "seconds": round(time.perf_counter() - began, 1),
        "before_bytes": before,
        "peak_bytes": peak_bytes(),
    }


if __name__ == "__main__":
    sys.exit(main("tests.bench.prune_memory", __doc__ or "", build, measure, points=10, limit_bytes=TARGET_BYTES))
