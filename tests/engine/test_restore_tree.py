"""Trees come back exactly, through a real repository: every type, every property, any shape."""

from __future__ import annotations

import os
import random
import resource
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.conftest import Store
from tests.engine.fidelity import assert_same, assert_same_trees, facts, make_everything, make_sockets
from trinity_snap.errors import IntegrityError, RestoreError
from trinity_snap.progress import NullProgress
from trinity_snap.repository.points import RecoveryPoint
from trinity_snap.restore.check import check_tree
from trinity_snap.restore.checker import Checker
from trinity_snap.restore.directories import remove_tree
from trinity_snap.restore.selection import select_paths
from trinity_snap.restore.tree import TreeResult, TreeWriter

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")


def restore(
    store: Store,
    point: RecoveryPoint,
    into: Path,
    name: str = "out",
    paths: list[bytes] | None = None,
    devices: bool = True,
    beside: bool = True,
) -> TreeResult:
    """Restore the point's first volume as `into/name`, and have it compared by both who do that."""
    reader = store.open().reader(point)
    volume = point.volumes[0]
    holder = os.open(into, os.O_RDONLY)

    def entries():
        return select_paths(reader, volume, paths) if paths else reader.entries(volume)

    try:
        root = os.fsencode(name)
        with Checker(reader.chunk_key, holder, root, worth_files=1 if beside else 1 << 30) as checker:
            writer = TreeWriter(reader, holder, root, devices=devices, progress=NullProgress(), finished=checker.add)
            result = writer.write(entries())
            check_tree(reader, holder, root, entries(), result, NullProgress())
            left_out = check_tree(reader, holder, root, entries(), result, NullProgress(), checker.takes)
            assert checker.finish() == (left_out if beside else 0)
    finally:
        os.close(holder)
    return result


def back_up(store: Store, tree: Path) -> RecoveryPoint:
    return store.open().read_point(store.backup(tree).id)


@needs_root
def test_everything_comes_back(store: Store, tmp_path: Path) -> None:
    make_everything(tmp_path / "tree")
    make_sockets(tmp_path / "tree")
    before = facts(tmp_path / "tree")
    point = back_up(store, tmp_path / "tree")
    result = restore(store, point, tmp_path)
    assert_same(before, facts(tmp_path / "out"))
    assert result.skipped == {b"a-socket"}
    assert any("a-socket" in note for note in result.losses.notes)
    assert os.stat(tmp_path / "out/holes-only").st_blocks == 0


@pytest.fixture(params=["btrfs", "xfs", "ext4"])
def filesystem(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """An empty filesystem on a loop device."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(400 << 20)
    mount = tmp_path / "mount"
    mount.mkdir()
    quiet = {"ext4": ["-F", "-q", "-I", "256"], "xfs": ["-q"], "btrfs": ["-q"]}[request.param]
    subprocess.run([f"mkfs.{request.param}", *quiet, str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True)
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


@needs_root
@pytest.mark.host
def test_everything_comes_back_on_every_filesystem(store: Store, tmp_path: Path, filesystem: Path) -> None:
    make_everything(tmp_path / "tree")
    before = facts(tmp_path / "tree", layout=False)
    restore(store, back_up(store, tmp_path / "tree"), filesystem)
    assert_same(before, facts(filesystem / "out", layout=False))
    assert os.stat(filesystem / "out/holes-only").st_blocks * 512 < 1 << 20
    assert os.stat(filesystem / "out/holes-middle").st_blocks * 512 < 1 << 20


@needs_root
def test_acls_of_the_directory_above_are_not_inherited(store: Store, tmp_path: Path) -> None:
    from tests.engine.fidelity import DEFAULT_ACL

    make_everything(tmp_path / "tree")
    (tmp_path / "above").mkdir()
    os.setxattr(tmp_path / "above", "system.posix_acl_default", DEFAULT_ACL)
    os.chmod(tmp_path / "above", 0o2775)
    os.chown(tmp_path / "above", 5, 5)
    restore(store, back_up(store, tmp_path / "tree"), tmp_path / "above")
    assert_same_trees(tmp_path / "tree", tmp_path / "above" / "out")


@needs_root
def test_devices_are_left_out_where_they_are_not_wanted(store: Store, tmp_path: Path) -> None:
    make_everything(tmp_path / "tree")
    result = restore(store, back_up(store, tmp_path / "tree"), tmp_path, devices=False)
    assert result.skipped == {b"special/null", b"special/loop"}
    assert sorted(os.listdir(tmp_path / "out/special")) == ["whiteout"]


def test_a_part_is_complete_with_its_links(store: Store, tmp_path: Path) -> None:
    for name in ("a/first", "m/file", "z/other"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(name)
    os.link(tmp_path / "tree/a/first", tmp_path / "tree/m/second")
    os.link(tmp_path / "tree/a/first", tmp_path / "tree/m/third")
    os.chmod(tmp_path / "tree/m", 0o700)
    restore(store, back_up(store, tmp_path / "tree"), tmp_path, paths=[b"m"])
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")) == [
        "m", "m/file", "m/second", "m/third",
    ]  # fmt: skip
    assert (tmp_path / "out/m/second").samefile(tmp_path / "out/m/third")
    assert (tmp_path / "out/m/third").read_text() == "a/first"
    assert stat.S_IMODE((tmp_path / "out/m").stat().st_mode) == 0o700


def test_large_files_take_little_memory_and_sparse_ones_little_time(store: Store, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    source = random.Random(3)
    with (tree / "large").open("wb") as file:
        block = source.randbytes(1 << 20)
        for number in range(300):
            file.write(number.to_bytes(8, "big") + block[8:])
    with (tree / "sparse").open("wb") as file:
        file.truncate(50 << 30)
        for number in range(50):
            file.seek((number << 30) + 12345)
            file.write(source.randbytes(5000))
    point = back_up(store, tree)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    restore(store, point, tmp_path)
    assert time.monotonic() - started < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 * 1024
    assert_same_trees(tree, tmp_path / "out")


def test_any_depth_can_be_removed(tmp_path: Path) -> None:
    holder = os.open(tmp_path, os.O_RDONLY)
    os.mkdir("top", dir_fd=holder)
    inner = os.open("top", os.O_RDONLY, dir_fd=holder)
    for _ in range(3000):
        os.mkdir("deeper-and-deeper", dir_fd=inner)
        following = os.open("deeper-and-deeper", os.O_RDONLY, dir_fd=inner)
        os.close(inner)
        inner = following
    os.close(os.open("file", os.O_CREAT, dir_fd=inner))
    os.close(inner)
    (tmp_path / "outside").mkdir()
    os.symlink(tmp_path / "outside", tmp_path / "top" / "link")
    assert remove_tree(holder, b"top")
    assert not (tmp_path / "top").exists()
    assert (tmp_path / "outside").is_dir()
    os.close(holder)


def test_a_full_destination_is_named(store: Store, tmp_path: Path, small: Path) -> None:
    (tmp_path / "tree").mkdir()
    for number in range(60):
        (tmp_path / "tree" / f"file-{number}").write_bytes(random.Random(number).randbytes(200_000))
    with pytest.raises(RestoreError, match="full"):
        restore(store, back_up(store, tmp_path / "tree"), small)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 8 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mount)], check=True)
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_a_damaged_pack_costs_only_its_files(store: Store, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(8):
        (tree / f"large-{number}").write_bytes(random.Random(number).randbytes(6_000_000))
    (tree / "small").write_text("small")
    point = back_up(store, tree)
    reader = store.open().reader(point)
    chunks = {entry.path: set(entry.chunk_ids()) for entry in reader.entries(point.volumes[0])}
    read = reader.plan_reads(chunks[b"large-3"])[2]
    # Where chunks end, and which are stored together, is another matter with every key.
    here = {
        chunk_id
        for each in reader.plan_reads(set().union(*chunks.values()))
        if (each.pack, each.offset) == (read.pack, read.offset)
        for chunk_id, _, _ in each.chunks
    }
    pack = store.directory / read.pack
    data = bytearray(pack.read_bytes())
    data[read.offset + read.length // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    result = restore(store, point, tmp_path)
    assert b"large-3" in result.damaged
    assert result.damaged.keys() == {path for path, ids in chunks.items() if ids & here}
    assert len(result.damaged) < 9
    expected = facts(tree)
    for damaged in result.damaged:
        assert not (tmp_path / "out" / os.fsdecode(damaged)).exists()
        del expected[damaged]
    assert_same(expected, facts(tmp_path / "out"))


def test_a_missing_pack_names_every_file_in_it(store: Store, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "first").write_bytes(random.Random(1).randbytes(2_000_000))
    store.backup(tree)
    os.rename(tree, tmp_path / "moved")
    known = set(store.directory.glob("packs/*/*"))
    tree.mkdir()
    os.rename(tmp_path / "moved/first", tree / "first")
    (tree / "second").write_bytes(random.Random(2).randbytes(2_000_000))
    os.link(tree / "second", tree / "third")
    point = back_up(store, tree)
    for path in known:
        path.unlink()
    try:
        result = restore(store, point, tmp_path)
    except IntegrityError:
        pytest.skip("the manifest was in that pack")
    assert result.damaged.keys() == {b"first"}


# -- any tree ---------------------------------------------------------------------------------------------------------

names = (
    st.binary(min_size=1, max_size=12)
    .map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"0"))
    .filter(lambda name: name not in (b".", b".."))
)
times = st.integers(-(2**31) * 10**9, 2**31 * 10**9)
contents = st.one_of(
    st.binary(max_size=3000),
    st.builds(lambda piece, times: piece * times, st.binary(min_size=1, max_size=50), st.integers(0, 20_000)),
)
leaves = st.one_of(
    st.tuples(st.just("file"), contents, st.integers(0, 0o7777), times),
    st.tuples(st.just("link"), st.binary(min_size=1, max_size=40).map(lambda data: data.replace(b"\0", b"0")), times),
    st.tuples(st.just("hard"), st.integers(0, 1000)),
    st.tuples(st.just("fifo"), st.integers(0, 0o777)),
    st.tuples(
        st.just("holes"), st.lists(st.tuples(st.integers(0, 60), st.binary(min_size=1, max_size=9000)), max_size=4)
    ),
)
trees = st.recursive(leaves, lambda inner: st.dictionaries(names, inner, max_size=6), max_leaves=25).filter(
    lambda tree: isinstance(tree, dict)
)


def build(top: bytes, tree: dict, files: list[bytes]) -> None:
    os.mkdir(top)
    for name, node in tree.items():
        path = top + b"/" + name
        if isinstance(node, dict):
            build(path, node, files)
        elif node[0] == "file":
            with open(path, "wb") as file:
                file.write(node[1])
            os.utime(path, ns=(node[3], node[3]))
            os.chmod(path, node[2])
            files.append(path)
        elif node[0] == "link":
            os.symlink(node[1], path)
            os.utime(path, ns=(node[2], node[2]), follow_symlinks=False)
        elif node[0] == "hard" and files:
            os.link(files[node[1] % len(files)], path)
        elif node[0] == "fifo":
            os.mkfifo(path)
            os.chmod(path, node[1])
        elif node[0] == "holes":
            with open(path, "wb") as file:
                for block, data in node[1]:
                    file.seek(block * 4096)
                    file.write(data)
                file.truncate(64 * 4096 + 77)
            files.append(path)
    os.utime(top, ns=(len(tree), 10**18 + len(tree)))


@needs_root
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(tree=trees)
def test_any_tree_comes_back(store: Store, tmp_path: Path, tree: dict) -> None:
    for name in (b"tree", b"out"):
        holder = os.open(tmp_path, os.O_RDONLY)
        remove_tree(holder, name)
        os.close(holder)
    build(os.fsencode(tmp_path / "tree"), tree, [])
    restore(store, back_up(store, tmp_path / "tree"), tmp_path)
    assert_same_trees(tmp_path / "tree", tmp_path / "out")
