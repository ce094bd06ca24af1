"""The chunk index agrees with a dictionary, through spills, merges, reloads and packs that come and go."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from trinity_snap.repository import chunkindex
from trinity_snap.repository.chunkindex import ChunkIndex
from trinity_snap.repository.packs import Segment


def test_it_agrees_with_a_dictionary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunkindex, "_SPILL_RECORDS", 500)
    source = random.Random(11)
    model: dict[bytes, set[bytes]] = {}  # chunk -> digests of the packs that hold it
    packs: list[bytes] = []
    dead: set[bytes] = set()  # what is gone never comes back: names are hashes of sealed bytes
    for _ in range(12):
        index = ChunkIndex(tmp_path / "index")
        dead |= {digest for digest in packs if source.random() < 0.1}
        alive = set(packs) - dead
        index.set_alive(alive)
        for _ in range(6):
            digest = source.randbytes(32)
            ids = [source.randbytes(32) for _ in range(source.randrange(1, 200))]
            ids += source.sample(sorted(model), min(len(model), 5))
            index.learn(digest, 100, [Segment(50, b"".join(ids), [1] * len(ids))])
            packs.append(digest)
            alive.add(digest)
            for chunk_id in ids:
                model.setdefault(chunk_id, set()).add(digest)
        for chunk_id, holders in model.items():
            ordinal = index.pack_of(chunk_id)
            if ordinal >= 0:
                assert index.pack_reference(ordinal)[0] in holders & alive
            if holders <= alive:
                assert ordinal >= 0
        for _ in range(300):
            assert not index.known(source.randbytes(32))
        if source.random() < 0.8:
            index.save()
        else:  # not saved: what was learnt since is forgotten, nothing else
            packs = [digest for digest in packs if ChunkIndexState.holds(tmp_path / "index", digest)]
            model = {
                chunk_id: kept for chunk_id, holders in model.items() if (kept := {h for h in holders if h in packs})
            }
        index.close()


class ChunkIndexState:
    """What a fresh look at the directory knows."""

    @staticmethod
    def holds(directory: Path, digest: bytes) -> bool:
        index = ChunkIndex(directory)
        try:
            return any(known == digest for known, _ in index._state.packs)
        finally:
            index.close()


def test_chunks_on_their_way_are_known_but_not_saved(tmp_path: Path) -> None:
    index = ChunkIndex(tmp_path / "index")
    index.expect(b"c" * 32)
    assert index.known(b"c" * 32)
    assert index.pack_of(b"c" * 32) == -1
    index.save()
    index.close()
    assert not ChunkIndex(tmp_path / "index").known(b"c" * 32)
