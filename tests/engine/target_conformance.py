"""What every target must do.

A test module for a target subclasses `TargetConformance` and gives the fixture `target`, new and empty.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from trinity_snap.errors import ObjectMissing, TargetError
from trinity_snap.targets import Target

FLAT_KINDS = ("copies", "fences", "index", "points", "receipts", "recipients", "sessions")

HOSTILE_NAMES = [
    "",
    "/",
    ".",
    "..",
    "../repository",
    "points/../repository",
    "points/..",
    "points/",
    "points",
    "/points/" + "a" * 32,
    "points//" + "a" * 32,
    "points/" + "a" * 31,
    "points/" + "a" * 33,
    "points/" + "A" * 32,
    "points/" + "g" * 32,
    "points/" + "a" * 32 + "\n",
    "points/" + "a" * 32 + "\0",
    "points/" + "a" * 32 + "/",
    "points/" + "١" * 32,
    "points\\" + "a" * 32,
    "packs/" + "a" * 64,
    "packs/ab/" + "c" * 64,
    "packs/../" + "a" * 64,
    "packs/aa/" + "a" * 63,
    "packs/aa/" + "a" * 64 + "/" + "a" * 64,
    "repository/",
    "repository\n",
    "Repository",
    ".tmp/" + "a" * 32,
    "other/" + "a" * 32,
    "x" * 5000,
]


def flat_name(kind: str = "points") -> str:
    return f"{kind}/{os.urandom(16).hex()}"


def pack_name(data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    return f"packs/{digest[:2]}/{digest}"


class TargetConformance:
    def test_what_was_put_is_got(self, target: Target) -> None:
        for data in (b"", b"x", os.urandom(100_000)):
            name = flat_name()
            assert target.put_if_absent(name, data) is True
            assert target.get(name) == data
            assert target.stat(name).size == len(data)

    @pytest.mark.parametrize("start", [0, 512, 1, 4095])
    @pytest.mark.parametrize("length", [2 << 20, (2 << 20) + 1, (2 << 20) - 4096])
    def test_large_objects_are_stored_from_wherever_they_lie_in_memory(
        self, target: Target, start: int, length: int
    ) -> None:
        memory = mmap.mmap(-1, 3 << 20)  # it begins at a page
        memory[:] = os.urandom(len(memory))
        with memoryview(memory) as whole, whole[start : start + length] as data:
            name = pack_name(bytes(data))
            assert target.put_if_absent(name, data) is True
            assert target.get(name) == data

    @pytest.mark.parametrize("kind", FLAT_KINDS)
    def test_every_kind_has_room(self, target: Target, kind: str) -> None:
        name = flat_name(kind)
        assert target.put_if_absent(name, kind.encode()) is True
        assert target.get(name) == kind.encode()
        assert list(target.list_prefix(f"{kind}/")) == [name]

    def test_buffers_of_every_sort_are_stored_as_their_bytes(self, target: Target) -> None:
        data = os.urandom(4096)
        buffers: list[bytes | bytearray | memoryview] = [
            data,
            bytearray(data),
            memoryview(bytearray(data)),
            memoryview(data).cast("I"),
            memoryview(b"!" + data)[1:],
        ]
        for buffer in buffers:
            name = flat_name()
            assert target.put_if_absent(name, buffer)
            assert target.get(name) == data

    def test_an_object_is_never_overwritten(self, target: Target) -> None:
        name = flat_name()
        assert target.put_if_absent(name, b"first") is True
        before = target.stat(name)
        assert target.put_if_absent(name, b"second, and longer") is False
        assert target.get(name) == b"first"
        assert target.stat(name) == before

    def test_of_many_that_put_the_same_name_exactly_one_succeeds(self, target: Target) -> None:
        for _ in range(10):
            name = flat_name()
            contents = [bytes([number]) * 50_000 for number in range(8)]
            with ThreadPoolExecutor(8) as pool:
                outcomes = list(pool.map(lambda data, name=name: target.put_if_absent(name, data), contents))
            assert outcomes.count(True) == 1
            assert target.get(name) == contents[outcomes.index(True)]

    def test_what_is_missing_is_said_to_be_missing(self, target: Target) -> None:
        for name in ("repository", flat_name(), pack_name(b"nothing")):
            with pytest.raises(ObjectMissing):
                target.get(name)
            with pytest.raises(ObjectMissing):
                target.get_range(name, 0, 1)
            with pytest.raises(ObjectMissing):
                target.stat(name)
            target.delete(name)

    def test_a_range_has_exactly_the_length_asked_for(self, target: Target) -> None:
        data = os.urandom(70_000)
        name = pack_name(data)
        target.put_if_absent(name, data)
        for offset, length in ((0, 70_000), (0, 1), (69_999, 1), (12_345, 50_000), (7, 0), (70_000, 0)):
            assert target.get_range(name, offset, length) == data[offset : offset + length]

    @pytest.mark.parametrize(("offset", "length"), [(0, 11), (5, 6), (10, 1), (11, 0), (-1, 2), (2, -1), (0, 1 << 60)])
    def test_a_range_outside_the_object_is_an_error(self, target: Target, offset: int, length: int) -> None:
        name = flat_name()
        target.put_if_absent(name, b"0123456789")
        with pytest.raises(TargetError):
            target.get_range(name, offset, length)

    def test_lists_give_every_name_once(self, target: Target) -> None:
        names = {flat_name(kind) for kind in FLAT_KINDS for _ in range(5)}
        names |= {pack_name(os.urandom(8)) for _ in range(20)} | {"repository"}
        for name in names:
            target.put_if_absent(name, name.encode())
        one = next(iter(name for name in names if name.startswith("packs/")))
        prefixes = [
            "",
            "repository",
            "packs/",
            one,
            one[:7],
            one[:8],
            one[:9],
            one[:20],
            "points/",
            "points/a",
            "fences/ff",
        ]
        for prefix in prefixes:
            listed = list(target.list_prefix(prefix))
            assert sorted(listed) == sorted(name for name in names if name.startswith(prefix)), prefix

    def test_an_empty_target_lists_nothing(self, target: Target) -> None:
        for prefix in ("", "packs/", "packs/ab/", "points/"):
            assert list(target.list_prefix(prefix)) == []

    @pytest.mark.parametrize(
        "prefix",
        ["/", "..", "../", "point", "points/../", "packs/AB/", "packs/abc", ".tmp/", "points/\n", "*"],
    )
    def test_hostile_prefixes_are_refused(self, target: Target, prefix: str) -> None:
        with pytest.raises(TargetError):
            list(target.list_prefix(prefix))

    def test_what_was_deleted_is_gone_and_can_be_put_again(self, target: Target) -> None:
        name = pack_name(b"data")
        target.put_if_absent(name, b"data")
        target.delete(name)
        target.delete(name)
        assert list(target.list_prefix("")) == []
        with pytest.raises(ObjectMissing):
            target.get(name)
        assert target.put_if_absent(name, b"data") is True
        assert target.get(name) == b"data"

    def test_times_are_those_of_the_put_and_do_not_go_back(self, target: Target) -> None:
        times = []
        start = time.time_ns()
        for _ in range(5):
            name = flat_name()
            target.put_if_absent(name, b"x")
            times.append(target.stat(name).time_ns)
        assert times == sorted(times)
        assert abs(times[0] - start) < 3_600 * 10**9

    @pytest.mark.parametrize("name", HOSTILE_NAMES)
    def test_hostile_names_are_refused_by_every_operation(self, target: Target, name: str) -> None:
        with pytest.raises(TargetError, match="not the name"):
            target.put_if_absent(name, b"")
        with pytest.raises(TargetError, match="not the name"):
            target.get(name)
        with pytest.raises(TargetError, match="not the name"):
            target.get_range(name, 0, 0)
        with pytest.raises(TargetError, match="not the name"):
            target.stat(name)
        with pytest.raises(TargetError, match="not the name"):
            target.delete(name)
        assert list(target.list_prefix("")) == []

    def test_threads_may_share_a_target(self, target: Target) -> None:
        blobs = [os.urandom(20_000) for _ in range(40)]

        def put_and_get(data: bytes) -> bytes:
            assert target.put_if_absent(pack_name(data), data)
            return target.get_range(pack_name(data), 10, 1000)

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(put_and_get, blobs)) == [data[10:1010] for data in blobs]
        assert sorted(target.list_prefix("packs/")) == sorted(pack_name(data) for data in blobs)
