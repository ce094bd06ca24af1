"""Backing trees up: complete, incremental, deduplicated, and the same whichever way a run takes."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.conftest import Store
from trinity_snap.backup.engine import Committed
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.verify import verify


def contents(repository: Repository, point_id: str) -> dict[str, bytes]:
    """Path to content of every file of a point, holes filled in."""
    point = repository.read_point(point_id)
    reader = repository.reader(point)
    found: dict[str, bytes] = {}
    for volume in point.volumes:
        for entry in reader.entries(volume):
            if entry.type == "f":
                data = b"".join(bytes(chunk) for _, chunk in reader.chunks(entry.chunk_ids()))
                whole = bytearray(entry.size)
                at = 0
                for offset, length in entry.extents or [(0, entry.size)]:
                    whole[offset : offset + length] = data[at : at + length]
                    at += length
                found[os.fsdecode(entry.path)] = bytes(whole)
            elif entry.type == "h":
                found[os.fsdecode(entry.path)] = found[os.fsdecode(entry.target)]
    return found


def on_disk(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def roots(store: Store, committed: Committed) -> list[bytes]:
    return [volume.root for volume in store.open().read_point(committed.id).volumes]


def make_tree(root: Path, files: int = 300, seed: int = 1) -> None:
    source = random.Random(seed)
    for number in range(files):
        directory = root / f"d{number % 7}" / f"e{number % 3}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"file-{number}").write_bytes(source.randbytes(source.randrange(0, 3000)))
    (root / "large").write_bytes(source.randbytes(5_000_000))
    (root / "text").write_bytes(b"the same line again and again %d\n" % seed * 60_000)
    (root / "empty").touch()
    os.link(root / "text", root / "d0" / "linked")
    os.symlink("nowhere", root / "symlink")
    with (root / "sparse").open("wb") as file:
        file.truncate(50_000_000)
        file.seek(20_000_000)
        file.write(b"in the middle %d" % seed * 1000)


def test_every_byte_comes_back(store: Store, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    committed = store.backup(tmp_path / "tree")
    assert contents(store.open(), committed.id) == on_disk(tmp_path / "tree")
    assert not committed.problems
    assert verify(store.open(), store.open().points(), read_data=True).good


def test_the_recovery_identity_alone_opens_everything(store: Store, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree", 20)
    committed = store.backup(tmp_path / "tree")
    repository = Repository.open(store.target(), identity=store.recovery)
    assert contents(repository, committed.id) == on_disk(tmp_path / "tree")


def test_nothing_changed_means_nothing_read_and_no_pack_written(store: Store, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    os.utime(tmp_path / "tree" / "text")
    first = store.backup(tmp_path / "tree")
    wait_until_quiet(tmp_path / "tree")
    store.backup(tmp_path / "tree")
    packs = store.objects("packs/")
    again = store.backup(tmp_path / "tree")
    assert again.bytes_read == 0
    assert store.objects("packs/") == packs
    assert roots(store, again) == roots(store, first)


def wait_until_quiet(root: Path) -> None:
    """Return when every file is older than what a run takes for `may have changed again unseen`."""
    import time

    newest = max(path.lstat().st_ctime_ns for path in [root, *root.rglob("*")])
    while time.time_ns() < newest + 2_100_000_000:
        time.sleep(0.05)


def test_a_run_without_its_cache_stores_no_chunk_twice(store: Store, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    store.backup(tmp_path / "tree")
    packs = store.objects("packs/")
    shutil.rmtree(store.cache)
    again = store.backup(tmp_path / "tree")
    assert again.bytes_read > 5_000_000
    assert store.objects("packs/") == packs


def test_a_cache_damaged_anywhere_is_noticed_and_costs_nothing_but_time(store: Store, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree", 60)
    store.backup(tmp_path / "tree")
    packs = store.objects("packs/")
    source = random.Random(5)
    for kind in ("state", "*.run", "*.tree") * 5:
        for path in sorted(store.cache.rglob(kind)):
            damaged = bytearray(path.read_bytes())
            damaged[source.randrange(len(damaged))] ^= 1 << source.randrange(8)
            path.write_bytes(damaged)
        committed = store.backup(tmp_path / "tree")
        assert verify(store.open(), [store.open().read_point(committed.id)], read_data=True).good
        assert contents(store.open(), committed.id) == on_disk(tmp_path / "tree")
        assert store.objects("packs/") == packs
    assert any(store.cache.rglob("*.run"))
    assert any(store.cache.rglob("*.tree"))


def test_packs_that_vanished_are_stored_anew(store: Store, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree", 60)
    store.backup(tmp_path / "tree")
    for name in store.objects("packs/"):
        store.target().delete(name)
    committed = store.backup(tmp_path / "tree")
    assert contents(store.open(), committed.id) == on_disk(tmp_path / "tree")
    assert verify(store.open(), [store.open().read_point(committed.id)], read_data=True).good


def test_a_change_within_the_same_clock_tick_is_not_missed(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    path = root / "counter"
    for number in range(20):
        with path.open("r+b" if path.exists() else "w+b") as file:  # the same inode and size, times nearly the same
            file.write(b"%08d" % number)
        committed = store.backup(root)
        assert contents(store.open(), committed.id) == {"counter": b"%08d" % number}


def test_hard_links_follow_when_a_directory_above_the_first_name_is_renamed(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "a").mkdir(parents=True)
    (root / "z").mkdir()
    (root / "a" / "first").write_bytes(b"shared" * 100)
    os.link(root / "a" / "first", root / "z" / "second")
    wait_until_quiet(root)
    store.backup(root)
    (root / "a").rename(root / "b")
    committed = store.backup(root)
    assert contents(store.open(), committed.id) == on_disk(root)
    point = store.open().read_point(committed.id)
    entry = store.open().reader(point).entry(point.volumes[0], b"z/second")
    assert entry is not None
    assert (entry.type, entry.target) == ("h", b"b/first")


def test_one_changed_file_among_many_stores_little(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    make_tree(root, 3000)
    store.backup(root)
    before = sum(store.target().stat(name).size for name in store.objects(""))
    (root / "d3" / "e1" / "file-10").write_bytes(b"changed")
    store.backup(root)
    assert sum(store.target().stat(name).size for name in store.objects("")) - before < 200_000


def test_an_unreadable_file_is_reported_and_the_rest_is_kept(store: Store, tmp_path: Path) -> None:
    from trinity_snap.backup.engine import AgentPoint, Engine, SourceSpec
    from trinity_snap.snapshot.view import DirectoryView

    class Unreadable(DirectoryView):
        def open(self, path: bytes) -> int:
            if path.endswith(b"file-3"):
                raise OSError(5, "Input/output error")
            return super().open(path)

    root = tmp_path / "tree"
    make_tree(root, 10)
    with Engine(store.open(), store.cache) as engine:
        source = SourceSpec("v")
        shipped = engine.ship(source, Unreadable(root), 0)
        point = AgentPoint("a", "h", "0" * 32, 0, "none", "directory", "file-consistent")
        committed = engine.commit(point, [(source, shipped)])
    expected = on_disk(root)
    del expected["d3/e0/file-3"]
    assert contents(store.open(), committed.id) == expected
    assert committed.problems == [("v", b"d3/e0/file-3", "Input/output error")]


def test_a_lost_first_name_does_not_take_the_other_hard_links_with_it(store: Store, tmp_path: Path) -> None:
    from trinity_snap.backup.engine import AgentPoint, Engine, SourceSpec
    from trinity_snap.snapshot.view import DirectoryView

    class FirstNameLost(DirectoryView):
        def open(self, path: bytes) -> int:
            if path == b"a":
                raise OSError(5, "Input/output error")
            return super().open(path)

    root = tmp_path / "tree"
    root.mkdir()
    (root / "a").write_bytes(b"x" * 1000)
    for name in "bcd":
        os.link(root / "a", root / name)
    with Engine(store.open(), store.cache) as engine:
        source = SourceSpec("v")
        shipped = engine.ship(source, FirstNameLost(root), 0)
        point = AgentPoint("a", "h", "0" * 32, 0, "none", "directory", "file-consistent")
        committed = engine.commit(point, [(source, shipped)])
    assert contents(store.open(), committed.id) == dict.fromkeys("bcd", b"x" * 1000)


def test_excluded_patterns_leave_out_whole_directories(store: Store, tmp_path: Path) -> None:
    from trinity_snap.backup.engine import AgentPoint, Engine, SourceSpec
    from trinity_snap.snapshot.view import DirectoryView

    root = tmp_path / "tree"
    make_tree(root, 50)
    with Engine(store.open(), store.cache) as engine:
        source = SourceSpec("v")
        shipped = engine.ship(source, DirectoryView(root), 0, exclude=["d1", "*.iso", "large"])
        point = AgentPoint("a", "h", "0" * 32, 0, "none", "directory", "file-consistent")
        committed = engine.commit(point, [(source, shipped)])
    kept = contents(store.open(), committed.id)
    assert kept == {
        path: data for path, data in on_disk(root).items() if not path.startswith("d1/") and path != "large"
    }
    assert shipped.excluded > 7


names = st.sampled_from(["a", "b", "a-b", "ab", "a.b", "c", "\u00e9", "d" * 40])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
changes = st.lists(
    st.tuples(st.sampled_from(["write", "delete", "mkdir", "link", "rename", "touch"]), paths, paths), max_size=12
)


def apply_change(root: Path, change: str, first: Path, second: Path) -> None:
    if change == "write":
        first.parent.mkdir(parents=True, exist_ok=True)
        first.write_bytes(os.fsencode(str(second)) * 3)
    elif change == "mkdir":
        first.mkdir(parents=True, exist_ok=True)
    elif change == "delete":
        shutil.rmtree(first) if first.is_dir() else first.unlink()
    elif change == "link":
        os.link(first, second)
    elif change == "rename":
        first.rename(second)
    elif change == "touch":
        os.chmod(first, 0o700)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(rounds=st.lists(changes, min_size=2, max_size=4))
def test_an_incremental_run_makes_the_very_manifest_that_a_full_run_makes(
    rounds: list[list[tuple[str, str, str]]], make_store: Callable[[str], Store], tmp_path: Path
) -> None:
    base = tmp_path / os.urandom(8).hex()
    root = base / "tree"
    root.mkdir(parents=True)
    store = make_store(f"{base.name}/repository")
    for number in range(40):
        (root / f"file-{number:03}").write_bytes(b"%d" % number)
    for step in rounds:
        for change, first, second in step:
            try:
                apply_change(root, change, root / first, root / second)
            except OSError:
                continue
        incremental = store.backup(root)
        full = store.backup(root, cache=base / os.urandom(4).hex())
        assert roots(store, incremental) == roots(store, full)
        assert contents(store.open(), incremental.id) == on_disk(root)


@pytest.mark.slow
def test_many_pages_incremental_equals_full(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    source = random.Random(3)
    for number in range(12_000):
        directory = root / f"{number % 97:02}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{source.randrange(10**9)}").write_bytes(b"%d" % number)
    wait_until_quiet(root)
    store.backup(root)
    for round_number in range(4):
        for path in source.sample(sorted(root.rglob("*/*")), 25):
            if source.random() < 0.4:
                path.unlink()
            else:
                path.with_name(f"{path.name}-{round_number}").write_bytes(b"new")
        incremental = store.backup(root)
        full = store.backup(root, cache=tmp_path / f"cache-{round_number}")
        assert roots(store, incremental) == roots(store, full)
        assert incremental.bytes_read < full.bytes_read / 2
