"""Recovery points that no honest host writes: nothing of them gets outside the destination, and each is refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.fidelity import FakeReader, directory, fake_point, fake_volume, in_order, other
from trinity_snap.errors import IntegrityError, RestoreError, RestoreRefused, TrinitySnapError, UsageError
from trinity_snap.progress import NullProgress
from trinity_snap.repository.manifest import Entry
from trinity_snap.restore import execute, plan_restore
from trinity_snap.restore.selection import select_paths
from trinity_snap.restore.tree import TreeResult, TreeWriter

ROOT = directory(b"")


class Place:
    """A destination next to something precious."""

    def __init__(self, tmp_path: Path) -> None:
        self.top = tmp_path
        self.precious = tmp_path / "precious"
        self.precious.mkdir()
        (self.precious / "file").write_text("precious")
        os.chmod(self.precious / "file", 0o640)
        self.inside = tmp_path / "inside"
        self.inside.mkdir()
        self.before = self._look()

    def _look(self) -> list[object]:
        status = [os.lstat(path) for path in (self.top, self.precious, self.precious / "file")]
        return [
            sorted(os.listdir(self.top)),
            sorted(os.listdir(self.precious)),
            (self.precious / "file").read_text(),
            [(each.st_mode, each.st_uid, each.st_nlink, each.st_mtime_ns) for each in status[1:]],
        ]

    def write(self, reader: FakeReader, entries: Iterable[Entry], devices: bool = True) -> TreeResult:
        holder = os.open(self.inside, os.O_RDONLY)
        try:
            return TreeWriter(reader, holder, b"out", devices=devices, progress=NullProgress()).write(entries)
        finally:
            os.close(holder)
            assert self._look() == self.before
            assert set(os.listdir(self.inside)) <= {"out"}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def refused(place: Place, *entries: Entry, reader: FakeReader | None = None, match: str | None = None) -> None:
    with pytest.raises(IntegrityError, match=match):
        place.write(reader or FakeReader(), entries)


@pytest.mark.parametrize(
    "path",
    [b"..", b"../precious/new", b"a/../../precious/new", b"/etc/new", b"//etc", b".", b"./a", b"a/.", b"a//b", b"a/", b"/",
     b"a\0b", b"a/..", b"\0"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["f", "d", "l", "p"])
def test_impossible_paths(place: Place, path: bytes, kind: str) -> None:
    entry = other(path, kind, target=b"x") if kind == "l" else other(path, kind)
    refused(place, ROOT, directory(b"a"), entry)


@pytest.mark.parametrize("target", [b"../precious", b"/etc", b"."])
def test_a_path_through_a_link(place: Place, target: bytes) -> None:
    reader = FakeReader()
    refused(place, ROOT, other(b"a", "l", target=target), reader.file(b"a/new", b"x"), reader=reader)
    assert os.path.islink(place.inside / "out/a")


def test_a_link_that_becomes_a_directory(place: Place) -> None:
    reader = FakeReader()
    link = other(b"a", "l", target=b"../../precious")
    refused(place, ROOT, link, directory(b"a"), reader.file(b"a/new", b"x"), reader=reader, match="twice")


def test_a_directory_that_becomes_a_link(place: Place) -> None:
    reader = FakeReader()
    link = other(b"a", "l", target=b"../../precious")
    refused(place, ROOT, directory(b"a"), link, reader.file(b"a/new", b"x"), reader=reader, match="twice")


def test_names_given_twice(place: Place) -> None:
    reader = FakeReader()
    refused(place, ROOT, reader.file(b"a", b"x"), reader.file(b"a", b"y"), reader=reader, match="twice")


def test_names_out_of_order(place: Place) -> None:
    refused(place, ROOT, directory(b"b"), directory(b"a"), match="order")
    (place.inside / "out/b").rmdir()
    (place.inside / "out").rmdir()
    # "/" sorts before everything: what is in `a` comes before `a-b`.
    refused(place, ROOT, directory(b"a"), directory(b"a-b"), directory(b"a/c"), match="order")


def test_children_of_what_is_no_directory(place: Place) -> None:
    for kind in ("f", "p", "s"):
        reader = FakeReader()
        refused(place, ROOT, other(b"a", kind), reader.file(b"a/b", b"x"), reader=reader, match="directory")
        os.system(f"rm -rf {place.inside}/out")


def test_children_without_a_directory(place: Place) -> None:
    refused(place, ROOT, FakeReader().file(b"a/b", b""), match="directory")


def test_no_root(place: Place) -> None:
    refused(place, directory(b"a"))


@pytest.mark.parametrize(
    "target",
    [b"/etc/shadow", b"../../precious/file", b"../precious/file", b"link", b"link/file", b"dir", b"zz-later", b"h", b"none",
     b"a/../a", b"", b"fifo", b"a\0"],
)  # fmt: skip
def test_hard_links_to_anything_but_an_earlier_file(place: Place, target: bytes) -> None:
    reader = FakeReader()
    entries = [
        ROOT,
        reader.file(b"a", b"x"),
        directory(b"dir"),
        other(b"fifo", "p"),
        other(b"h", "h", target=target),
        other(b"link", "l", target=b"../../precious"),
        reader.file(b"zz-later", b"y"),
    ]
    refused(place, *entries, reader=reader)
    entries = [*entries[:4], entries[5], other(b"n", "h", target=target), entries[6]]
    os.system(f"rm -rf {place.inside}/out")
    refused(place, *entries, reader=reader)


def test_hard_links_to_hard_links(place: Place) -> None:
    reader = FakeReader()
    entries = [ROOT, reader.file(b"a", b"x"), other(b"b", "h", target=b"a"), other(b"c", "h", target=b"b")]
    refused(place, *entries, reader=reader, match="hard link")


@pytest.mark.skipif(os.geteuid() != 0, reason="devices need root")
def test_devices_are_made_only_when_wanted(place: Place) -> None:
    entries = [ROOT, other(b"disk", "b", device=(8, 0), mode=0o666), other(b"mem", "c", device=(1, 1))]
    result = place.write(FakeReader(), entries, devices=False)
    assert result.skipped == {b"disk", b"mem"}
    assert os.listdir(place.inside / "out") == []


@pytest.mark.parametrize("device", [(-1, 0), (0, 2**40), (2**32, 1)])
def test_impossible_devices(place: Place, device: tuple[int, int]) -> None:
    refused(place, ROOT, other(b"disk", "b", device=device))


@pytest.mark.parametrize(
    ("size", "extents"),
    [
        (3, []), (5, []), (2**63, []), (2**62, []), (-1, []), (0, []),
        (100, [(0, 4), (2, 2)]), (100, [(50, 2), (10, 2)]), (100, [(98, 4)]), (100, [(-4, 4)]), (100, [(0, 5)]),
        (100, [(0, 3)]), (100, [(0, -4), (0, 8)]), (2**70, [(2**69, 4)]), (100, [(2**64, 4)]), (4, [(0, 2), (2, 1)]),
    ],
)  # fmt: skip
def test_sizes_and_extents_that_lie(place: Place, size: int, extents: list[tuple[int, int]]) -> None:
    reader = FakeReader()
    refused(place, ROOT, reader.file(b"a", b"four", size=size, extents=extents), reader=reader)


def test_a_huge_sparse_file_is_refused_by_the_filesystem_and_named(place: Place) -> None:
    reader = FakeReader()
    entry = reader.file(b"a", b"four", size=2**62, extents=[(2**61, 4)])
    with pytest.raises(RestoreError, match="a could not be written"):
        place.write(reader, [ROOT, entry])


def test_files_without_their_data(place: Place) -> None:
    refused(place, ROOT, other(b"a", "f", size=10))


@pytest.mark.parametrize(
    "change",
    [
        {"uid": -1}, {"uid": 2**32 - 1}, {"gid": 2**40}, {"mode": 0o100644}, {"mode": -1}, {"mtime_ns": 2**80},
        {"xattrs": {b"": b"x"}}, {"xattrs": {b"user.a\0b": b"x"}}, {"target": b"x"}, {"device": (1, 1)},
    ],
)  # fmt: skip
def test_impossible_metadata(place: Place, change: dict) -> None:
    reader = FakeReader()
    refused(place, ROOT, reader.file(b"a", b"x", **change), reader=reader)


@pytest.mark.parametrize("kind", ["d", "l", "p", "c", "h"])
def test_content_of_what_has_none(place: Place, kind: str) -> None:
    refused(place, ROOT, other(b"a", kind, chunks=bytes(32), size=4, target=b"x" if kind in "lh" else b""))


@pytest.mark.parametrize("target", [b"", b"a\0b"])
def test_impossible_link_targets(place: Place, target: bytes) -> None:
    refused(place, ROOT, other(b"a", "l", target=target))


def test_chunks_that_are_not_what_their_id_says(place: Place) -> None:
    reader = FakeReader()
    good, bad = reader.file(b"a", b"good"), reader.file(b"b", b"evil")
    large = reader.file(b"c", b"part")
    large = msgspec.structs.replace(large, chunks=large.chunks + bad.chunks, size=8)
    reader.chunks[bad.chunks] = b"EVIL"
    result = place.write(reader, [ROOT, good, bad, large])
    assert set(result.damaged) == {b"b", b"c"}
    assert os.listdir(place.inside / "out") == ["a"]


def test_chunks_that_are_nowhere(place: Place) -> None:
    reader = FakeReader()
    good, bad = reader.file(b"a", b"good"), reader.file(b"b", b"gone")
    reader.missing.add(bad.chunks)
    result = place.write(reader, [ROOT, good, bad, other(b"c", "h", target=b"b")])
    assert set(result.damaged) == {b"b", b"c"}
    assert os.listdir(place.inside / "out") == ["a"]


def test_nothing_that_is_there_is_followed_or_overwritten(place: Place) -> None:
    reader = FakeReader()
    (place.inside / "out").symlink_to(place.precious)
    with pytest.raises(RestoreError):
        place.write(reader, [ROOT, reader.file(b"file", b"evil")])
    (place.inside / "out").unlink()
    (place.inside / "out").mkdir()
    with pytest.raises(RestoreError):
        place.write(reader, [ROOT, reader.file(b"file", b"evil")])


def test_until_it_is_done_nobody_else_can_look_in(place: Place) -> None:
    reader = FakeReader()
    entries = [directory(b"", mode=0o777), directory(b"d", mode=0o777), reader.file(b"d/suid", b"x", mode=0o4777)]

    def watched() -> Iterable[Entry]:
        yield from entries
        assert stat.S_IMODE(os.stat(place.inside / "out").st_mode) == 0o700
        assert stat.S_IMODE(os.stat(place.inside / "out/d").st_mode) == 0o700

    place.write(reader, watched())
    assert stat.S_IMODE(os.stat(place.inside / "out/d/suid").st_mode) == 0o4777
    assert stat.S_IMODE(os.stat(place.inside / "out").st_mode) == 0o777


# -- whole restores ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../../precious", "a\0b", "/etc", "a b", "-x"])
def test_volumes_with_impossible_names(tmp_path: Path, name: str) -> None:
    reader = FakeReader({name: [ROOT]})
    point = fake_point([fake_volume(name)])
    if name in ("a b", "-x"):
        return  # odd, but one name inside the directory
    with pytest.raises(IntegrityError):
        plan_restore(reader, point, state_dir=tmp_path / "state", to=tmp_path / "to")


def test_two_volumes_of_one_name(tmp_path: Path) -> None:
    reader = FakeReader({"v": [ROOT]})
    point = fake_point([fake_volume(), fake_volume()])
    with pytest.raises(IntegrityError):
        plan_restore(reader, point, state_dir=tmp_path / "state", to=tmp_path / "to")


@pytest.mark.parametrize("source", ["relative", "/", "", "/a/../etc"])
def test_impossible_paths_of_the_host(tmp_path: Path, source: str) -> None:
    point = fake_point([fake_volume(source, kind="path", source=source)])
    with pytest.raises(IntegrityError):
        plan_restore(FakeReader({source: [ROOT]}), point, state_dir=tmp_path / "state")


def test_paths_of_the_host_that_the_policy_does_not_name(tmp_path: Path) -> None:
    point = fake_point([fake_volume("/etc", kind="path", source="/etc")])
    with pytest.raises(RestoreRefused, match="policy"):
        plan_restore(FakeReader({"/etc": [ROOT]}), point, state_dir=tmp_path, platform_paths=[Path("/srv/data")])


def test_a_hostile_tree_leaves_no_trace_in_a_directory(tmp_path: Path) -> None:
    reader = FakeReader()
    reader.volumes["v"] = [ROOT, reader.file(b"a", b"x"), other(b"b", "l", target=b"/etc"), reader.file(b"b/c", b"x")]
    plan = plan_restore(reader, fake_point([fake_volume()]), state_dir=tmp_path / "state", to=tmp_path / "to")
    with pytest.raises(IntegrityError):
        execute(plan, reader)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("wish", ["../x", "v:../x", "a/../../x", "/etc/../x"])
def test_wishes_that_lead_outside(tmp_path: Path, wish: str) -> None:
    reader = FakeReader({"v": [ROOT]})
    with pytest.raises(UsageError):
        plan_restore(reader, fake_point([fake_volume()]), state_dir=tmp_path, to=tmp_path / "to", paths=[wish])


def test_a_selected_link_whose_target_is_elsewhere(place: Place) -> None:
    reader = FakeReader()
    reader.volumes["v"] = [ROOT, directory(b"d"), other(b"d/h", "h", target=b"../precious/file")]
    with pytest.raises(IntegrityError):
        place.write(reader, select_paths(reader, fake_volume(), [b"d"]))
    reader.volumes["v"][2] = other(b"d/h", "h", target=b"d")
    os.system(f"rm -rf {place.inside}/out")
    with pytest.raises(IntegrityError):
        place.write(reader, select_paths(reader, fake_volume(), [b"d"]))


# -- anything at all ----------------------------------------------------------------------------------------------------

pieces = st.sampled_from([b"a", b"b", b"..", b".", b"", b"precious", b"c\xff", b"out", b"\0"])
paths = st.lists(pieces, max_size=4).map(b"/".join)
integers = st.sampled_from([0, 1, -1, 1000, 0o755, 0o7777, 2**31, 2**32 - 1, 2**63, -(2**63), 10**18])
entries = st.builds(
    Entry,
    path=paths,
    type=st.sampled_from("fdlhpcbs"),
    mode=st.one_of(st.integers(0, 0o7777), integers),
    uid=st.one_of(st.just(0), integers),
    gid=st.one_of(st.just(0), integers),
    mtime_ns=st.one_of(st.just(0), integers),
    size=st.one_of(st.sampled_from([0, 4]), integers),
    chunks=st.sampled_from([b"", "four", "more", bytes(32)]),
    target=st.one_of(st.just(b""), paths),
    device=st.one_of(st.just((0, 0)), st.tuples(integers, integers)),
    xattrs=st.sampled_from([{}, {b"user.a": b"x"}, {b"": b""}, {b"nonsense": b""}]),
    extents=st.one_of(st.just([]), st.lists(st.tuples(integers, integers), max_size=3)),
)


@settings(max_examples=400, deadline=None)
@given(given_entries=st.lists(entries, max_size=10), ordered=st.booleans())
def test_anything_at_all_stays_inside(
    tmp_path_factory: pytest.TempPathFactory, given_entries: list[Entry], ordered: bool
) -> None:
    place = Place(tmp_path_factory.mktemp("any"))
    reader = FakeReader()
    ids = {"four": reader.add(b"four"), "more": reader.add(b"more")}
    tree = [
        msgspec.structs.replace(entry, chunks=ids.get(entry.chunks, entry.chunks))  # type: ignore[call-overload]
        for entry in given_entries
    ]
    tree = [ROOT, *(in_order(tree) if ordered else tree)]
    try:
        place.write(reader, tree, devices=False)
    except TrinitySnapError:
        pass
