"""Writing and reading past the page cache, on real filesystems."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.lab.disks import filesystem
from trinity_snap.restore.direct import DIRECT_BYTES, DirectFiles

DATA = random.Random(5).randbytes(3 << 20)


@pytest.fixture(scope="module", params=["ext4", "xfs", "btrfs"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A new filesystem of each kind."""
    with filesystem(request.param, tmp_path_factory.mktemp(request.param), 512 << 20) as mounted:
        yield mounted


def cached_bytes(path: Path) -> int:
    """How much of a file is in the page cache (mincore(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    length = path.stat().st_size
    resident = (ctypes.c_ubyte * -(-length // mmap.PAGESIZE))()
    with open(path, "rb") as file:
        mapped = libc.mmap(None, ctypes.c_size_t(length), mmap.PROT_READ, mmap.MAP_PRIVATE, file.fileno(), 0)
    assert libc.mincore(ctypes.c_void_p(mapped), ctypes.c_size_t(length), resident) == 0
    libc.munmap(ctypes.c_void_p(mapped), ctypes.c_size_t(length))
    return sum(page & 1 for page in resident) * mmap.PAGESIZE


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.integers(1, len(DATA) - 1), max_size=6),
    before=st.integers(0, 9000),
    order=st.randoms(use_true_random=False),
)
def test_parts_of_any_length_at_any_place_make_up_the_file(
    place: Path, cuts: list[int], before: int, order: random.Random
) -> None:
    path = place / "file"
    path.unlink(missing_ok=True)
    edges = [0, *sorted(set(cuts)), len(DATA)]
    parts = list(pairwise(edges))
    order.shuffle(parts)
    directory = os.open(place, os.O_RDONLY)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        files = DirectFiles(directory)
        os.ftruncate(descriptor, before + len(DATA))
        for start, end in parts:
            files.write(descriptor, memoryview(DATA)[start:end], before + start)
        for start, end in parts:
            assert files.read(descriptor, before + start, end - start) == DATA[start:end]
        last = len(DATA) - min(len(DATA), 2 * DIRECT_BYTES)
        assert files.read(descriptor, before + last, 4 * DIRECT_BYTES) == DATA[last:]
    finally:
        os.close(descriptor)
        os.close(directory)
    assert path.read_bytes() == b"\0" * before + DATA


def test_large_parts_leave_the_page_cache_alone_where_nothing_is_lost_by_it(place: Path) -> None:
    path = place / "large"
    directory = os.open(place, os.O_RDONLY)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        files = DirectFiles(directory)
        files.write(descriptor, memoryview(DATA), 100)
        files.read(descriptor, 100, len(DATA))
    finally:
        os.close(descriptor)
        os.close(directory)
    assert files.usable == ("btrfs" not in place.parts[-2])
    assert (cached_bytes(path) <= 64 * 1024) == files.usable


def test_a_filesystem_that_refuses_is_written_through_the_cache(tmp_path: Path) -> None:
    directory = os.open("/dev/shm", os.O_RDONLY)  # a tmpfs
    path = Path("/dev/shm") / f"trinity-snap-{os.getpid()}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        files = DirectFiles(directory)
        assert not files.usable
        files.usable = True
        files.write(descriptor, memoryview(DATA), 1)
        assert files.read(descriptor, 1, len(DATA)) == DATA
    finally:
        os.close(descriptor)
        os.close(directory)
        path.unlink()
