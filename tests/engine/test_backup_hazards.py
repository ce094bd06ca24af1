"""What a failing disk, a busy file or a hostile agent can do to a backup, and what it must not become."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import Store
from tests.engine.test_backup_engine import contents, on_disk
from tests.lab.descriptors import open_below
from trinity_snap.backup.engine import AgentPoint, Committed, Engine, SourceSpec
from trinity_snap.backup.treecache import TreeWriter
from trinity_snap.errors import SnapshotError, TargetError
from trinity_snap.repository import chunkindex
from trinity_snap.repository.chunkindex import ChunkIndex
from trinity_snap.repository.packs import Segment
from trinity_snap.repository.verify import verify
from trinity_snap.snapshot.beneath import Beneath
from trinity_snap.snapshot.view import DirectoryView, SourceView, WalkItem, walk_directory
from trinity_snap.targets import LocalTarget

SOURCE = SourceSpec("v")
POINT = AgentPoint("a", "h", "0" * 32, 0, "none", "directory", "file-consistent")
LATER = 1 << 62


def commit(store: Store, view: SourceView) -> Committed:
    with Engine(store.open(), store.cache) as engine:
        return engine.commit(POINT, [(SOURCE, engine.ship(SOURCE, view, LATER))])


@pytest.mark.parametrize("prefix", ["sessions/", "packs/", "index/", "points/"])
def test_a_store_that_says_that_it_has_what_it_never_got_is_not_believed(
    store: Store, tmp_path: Path, prefix: str
) -> None:
    class Liar(LocalTarget):
        def put_if_absent(self, name: str, data: bytes | bytearray | memoryview) -> bool:
            return not name.startswith(prefix) and super().put_if_absent(name, data)

    root = tmp_path / "tree"
    root.mkdir()
    (root / "file").write_bytes(os.urandom(1000))

    def back_up() -> None:
        with Engine(store.open(Liar(str(store.directory))), store.cache) as engine:
            engine.commit(POINT, [(SOURCE, engine.ship(SOURCE, DirectoryView(root), LATER))])

    with pytest.raises(TargetError, match=f"did not take {prefix}"):
        back_up()
    assert store.objects("points/") == set()


def test_what_a_later_pass_shipped_goes_before_what_the_first_did(store: Store, tmp_path: Path) -> None:
    """The same signature, other content: as when a long write ends after the first pass has read."""
    root = tmp_path / "tree"
    root.mkdir()
    (root / "file").write_bytes(b"first ")
    status = os.stat(root / "file")

    class SameSignature(DirectoryView):
        def walk(self) -> Iterator[WalkItem]:
            for path, found, error in super().walk():
                yield WalkItem(path, status if path == b"file" else found, error)

        def lstat(self, path: bytes) -> os.stat_result:
            return status if path == b"file" else super().lstat(path)

        def was_shipped(self, path: bytes) -> bool:
            return True

    view = SameSignature(root)
    with Engine(store.open(), store.cache) as engine:
        engine.ship_pass(SOURCE, view, root, 1, LATER)
        (root / "file").write_bytes(b"second")
        os.utime(root / "file", ns=(0, status.st_mtime_ns))
        now = os.stat(root / "file")
        engine._changed["v"] = {}
        maker = engine._shipper._maker
        signature = (status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size, b"")
        engine._changed["v"][b"file"] = (signature, maker.make(view, b"file", now, b""))
        committed = engine.commit(POINT, [(SOURCE, engine.ship(SOURCE, view, LATER))])
    assert contents(store.open(), committed.id) == {"file": b"second"}


def test_the_same_inode_number_on_two_filesystems_is_not_the_same_file(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for name in ("a", "b"):
        (root / name).write_bytes(name.encode())
        os.link(root / name, root / f"{name}-linked")

    class TwoFilesystems(DirectoryView):
        def walk(self) -> Iterator[WalkItem]:
            for path, found, error in super().walk():
                assert found is not None
                reduced: Any = found.__reduce__()[1]
                fields = list(reduced[0])
                if path:
                    fields[1], fields[2] = 257, 1 if path.startswith(b"a") else 2
                yield WalkItem(path, os.stat_result(fields, reduced[1]), error)

    committed = commit(store, TwoFilesystems(root))
    assert contents(store.open(), committed.id) == on_disk(root)


def test_a_directory_exchanged_for_a_link_leads_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "outside"
    secret.mkdir()
    (secret / "shadow").write_bytes(b"secret")
    root = tmp_path / "tree"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "shadow").write_bytes(b"own")
    view = DirectoryView(root, live=True)
    walk = view.walk()
    seen = [next(walk).path, next(walk).path]
    assert seen == [b"", b"a"]
    (root / "a").rename(root / "z")
    (root / "a").symlink_to(secret)
    rest = list(walk)
    assert not [item.path for item in rest if item.path.startswith(b"a/") and item.stat is not None]
    for path in (b"a/shadow", b"a/../outside/shadow"):
        with pytest.raises(OSError, match=r".*") as caught:
            os.close(view.open(path))
        assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENOENT)
        with pytest.raises(OSError, match=r".*"):
            view.xattrs(path, 0)


def test_a_tree_that_is_held_open_may_be_moved_and_is_still_the_one_walked(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "a").mkdir(parents=True)
    (root / "a" / "file").write_bytes(b"own")
    beneath = Beneath(os.fsencode(root))
    descriptor, name = beneath.parent(b"a/file")
    (root / "a").rename(root / "b")
    (root / "a").symlink_to("/")
    opened = os.open(name, os.O_RDONLY, dir_fd=descriptor)
    assert os.read(opened, 10) == b"own"
    os.close(opened)
    beneath.close()


def test_live_and_resting_walks_see_the_same(tmp_path: Path) -> None:
    from tests.engine.test_backup_engine import make_tree

    make_tree(tmp_path / "tree", 100)
    root = os.fsencode(tmp_path / "tree")
    list(walk_directory(root))  # the first to read a directory may change its access time
    assert list(walk_directory(root, live=True)) == list(walk_directory(root))
    assert open_below(tmp_path) == []


def test_a_directory_whose_attributes_cannot_be_read_keeps_what_is_in_it(store: Store, tmp_path: Path) -> None:
    class Unreadable(DirectoryView):
        def xattrs(self, path: bytes, mode: int) -> dict[bytes, bytes]:
            if path == b"d":
                raise OSError(errno.EIO, "Input/output error")
            return super().xattrs(path, mode)

    root = tmp_path / "tree"
    (root / "d").mkdir(parents=True)
    (root / "d" / "file").write_bytes(b"data")
    committed = commit(store, Unreadable(root))
    assert committed.problems == [("v", b"d", "Input/output error")]
    assert contents(store.open(), committed.id) == {"d/file": b"data"}
    repository = store.open()
    point = repository.read_point(committed.id)
    assert [entry.path for entry in repository.reader(point).entries(point.volumes[0])] == [b"", b"d", b"d/file"]


def test_a_disk_that_fails_is_not_taken_for_a_hole(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    with (root / "sparse").open("wb") as file:
        file.truncate(1 << 20)
        file.write(b"data")
    seek = os.lseek

    def failing(descriptor: int, offset: int, how: int) -> int:
        if how == os.SEEK_DATA:
            raise OSError(errno.EIO, "Input/output error")
        return seek(descriptor, offset, how)

    monkeypatch.setattr(os, "lseek", failing)
    committed = commit(store, DirectoryView(root))
    assert committed.problems == [("v", b"sparse", "Input/output error")]


def test_an_index_that_cannot_be_written_forgets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = ChunkIndex(tmp_path / "index")
    index.set_alive([])
    ids = [os.urandom(32) for _ in range(100)]
    index.learn(b"p" * 32, 100, [Segment(50, b"".join(ids), [1] * 100)])
    whole = chunkindex._write_run

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(chunkindex, "_write_run", full)
    with pytest.raises(OSError, match="No space"):
        index.save()
    monkeypatch.setattr(chunkindex, "_write_run", whole)
    assert all(index.known(chunk_id) for chunk_id in ids)
    index.save()
    index.close()
    again = ChunkIndex(tmp_path / "index")
    again.set_alive([b"p" * 32])
    assert all(again.known(chunk_id) for chunk_id in ids)


def test_a_cache_lost_together_with_packs_costs_no_run(store: Store, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "tree"
    root.mkdir()
    (root / "file").write_bytes(b"data" * 1000)
    store.backup(root)
    for name in store.objects("packs/"):
        store.target().delete(name)
    shutil.rmtree(store.cache)
    committed = store.backup(root)
    assert contents(store.open(), committed.id) == on_disk(root)
    assert verify(store.open(), [store.open().read_point(committed.id)], read_data=True).good


def test_a_view_that_shows_a_name_twice_makes_no_point(store: Store, tmp_path: Path) -> None:
    """No reader would take the manifest; better to know now."""

    class Twice(DirectoryView):
        def walk(self) -> Iterator[WalkItem]:
            for item in super().walk():
                yield item
                if item.path == b"file":
                    yield item

    root = tmp_path / "tree"
    root.mkdir()
    (root / "file").write_bytes(b"data")
    with pytest.raises(SnapshotError, match="file"):
        commit(store, Twice(root))
    assert store.open().points() == []
    committed = commit(store, DirectoryView(root))
    with pytest.raises(SnapshotError, match="file"):
        commit(store, Twice(root))  # the parent's pages are taken over here
    assert [point.id for point in store.open().points()] == [committed.id]


def test_a_chunk_that_the_format_has_no_room_for_costs_its_file_only(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "large").write_bytes(os.urandom(200_000))
    (root / "small").write_bytes(b"data")
    monkeypatch.setattr("trinity_snap.repository.session.SEGMENT_MAXIMUM_BYTES", 100_000)
    committed = commit(store, DirectoryView(root))
    ((volume, path, reason),) = committed.problems
    assert (volume, path) == ("v", b"large")
    assert "larger than the format allows" in reason
    assert contents(store.open(), committed.id) == {"small": b"data"}


def test_a_page_that_the_format_has_no_room_for_ends_the_run_without_a_point(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    for number in range(100):
        (root / f"a rather long name, so that the page grows, {number}").touch()
    monkeypatch.setattr("trinity_snap.repository.session.SEGMENT_MAXIMUM_BYTES", 1000)
    with pytest.raises(OSError, match="larger than the format allows"):
        commit(store, DirectoryView(root))
    assert store.open().points() == []


def test_a_tree_that_did_not_fit_the_state_directory_leaves_nothing_there(tmp_path: Path) -> None:
    class Full(io.BufferedWriter):
        def close(self) -> None:
            super().close()
            raise OSError(errno.ENOSPC, "No space left on device")

    writer = TreeWriter(tmp_path / "cache" / "tree")
    writer._file = Full(io.FileIO(writer.path, "wb"))
    writer.abandon()
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_name_whose_first_name_is_lost_becomes_the_file_even_in_a_page_that_did_not_change(
    store: Store, tmp_path: Path
) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "a").write_bytes(b"data")
    for number in range(3000):
        (root / f"between {number:04}").touch()
    os.link(root / "a", root / "z")
    first = commit(store, DirectoryView(root))

    class Lost(DirectoryView):
        """The first name looks changed, and cannot be read."""

        def walk(self) -> Iterator[WalkItem]:
            for path, found, error in super().walk():
                if path == b"a":
                    assert found is not None
                    reduced: Any = found.__reduce__()[1]
                    found = os.stat_result(reduced[0], {**reduced[1], "st_mtime_ns": 1})
                yield WalkItem(path, found, error)

        def open(self, path: bytes) -> int:
            if path == b"a":
                raise OSError(errno.EIO, "Input/output error")
            return super().open(path)

    second = commit(store, Lost(root))
    assert second.problems == [("v", b"a", "Input/output error")]
    found = contents(store.open(), second.id)
    assert "a" not in found
    assert found["z"] == b"data"
    assert contents(store.open(), first.id)["a"] == b"data"
