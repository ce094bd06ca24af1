"""Content that other threads write."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.lab.descriptors import open_below
from trinity_snap.restore.writes import WritesAhead


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[int]:
    """The open directory that is written to."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def test_everything_is_written_to_its_place_and_ended_in_order(tmp_path: Path, holder: int) -> None:
    source = random.Random(3)
    before = open_below(tmp_path)
    writes = WritesAhead(lambda path: pytest.fail(f"{path!r} failed"), holder)
    ended: list[int] = []
    wanted = []

    def end(number: int, _: int) -> None:
        ended.append(number)

    for number in range(300):
        data = source.randbytes(source.randrange(1, 300_000))
        middle = source.randrange(len(data))
        places = ((middle + 10, middle, len(data) - middle), (5, 0, middle))
        path = tmp_path / str(number)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        writes.begin(os.fsencode(path), descriptor, data, places, partial(end, number))
        wanted.append(b"\0" * 5 + data[:middle] + b"\0" * 5 + data[middle:])
    writes.drain()
    assert ended == list(range(300))
    assert [(tmp_path / str(number)).read_bytes() for number in range(300)] == wanted
    writes.close()
    assert open_below(tmp_path) == before


def test_a_write_that_fails_is_raised_with_its_path_and_nothing_stays_open(tmp_path: Path, holder: int) -> None:
    before = open_below(tmp_path, "/dev/full")
    failed: list[bytes] = []
    writes = WritesAhead(failed.append, holder)

    def write_all() -> None:
        for number in range(50):
            path = "/dev/full" if number == 7 else tmp_path / str(number)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
            writes.begin(os.fsencode(path), descriptor, b"x" * 100_000, ((0, 0, 100_000),))
        writes.drain()

    with pytest.raises(OSError, match="No space left"):
        write_all()
    writes.close()
    assert failed == [b"/dev/full"]
    assert open_below(tmp_path, "/dev/full") == before
