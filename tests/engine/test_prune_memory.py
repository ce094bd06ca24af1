"""A prune's memory goes with packs and points, not with chunks; ten million are in `tests/bench/prune_memory.py`."""

from __future__ import annotations

from pathlib import Path

from tests.bench import prune_memory, repack_memory
from tests.bench.apart import measure_apart
from tests.bench.prune_memory import CHUNKS_PER_PACK

CHUNKS = 1_000_000
LIMIT_BYTES = 100_000_000


def test_a_prune_of_a_million_chunks_stays_small(tmp_path: Path) -> None:
    prune_memory.build(tmp_path, CHUNKS, points=5)
    found = measure_apart(prune_memory.__name__, tmp_path)
    assert found["packs"] >= CHUNKS / CHUNKS_PER_PACK
    assert found["fenced_packs"] >= found["packs"] / 10 - 1
    assert found["deleted_sessions"] == 11
    assert found["peak_bytes"] < LIMIT_BYTES, found


def test_finding_what_to_repack_among_many_chunks_stays_small(tmp_path: Path) -> None:
    repack_memory.build(tmp_path, 200_000, points=2)
    found = measure_apart(repack_memory.__name__, tmp_path)
    assert found["packs"] > 100
    assert 0.9 < found["dead_bytes"] / found["live_bytes"] < 1.1
    assert found["peak_bytes"] < LIMIT_BYTES, found
