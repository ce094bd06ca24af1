"""Reading as from a remote target: tables from the index, several segments in one request, and nothing believed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engine.conftest import Store
from tests.engine.test_backup_engine import contents, make_tree, on_disk
from tests.faults.faulty import Crash, CrashingTarget
from trinity_snap.backup.engine import backup_tree
from trinity_snap.errors import IntegrityError
from trinity_snap.progress import NullProgress
from trinity_snap.repository.packs import Segment
from trinity_snap.repository.sealed import INDEX_MAGIC, new_header, seal_object
from trinity_snap.repository.session import _IndexedPack, read_index
from trinity_snap.repository.verify import verify
from trinity_snap.restore.write import write_and_check


@dataclass
class Remote(CrashingTarget):
    """A directory that is read and written as if every request were a journey."""

    span: int = 20 << 20

    @property
    def parallel_puts(self) -> int:
        return 4

    @property
    def parallel_gets(self) -> int:
        return 8

    @property
    def read_ahead_bytes(self) -> int:
        return self.span


def back_up(store: Store, root: Path, large: int = 0) -> str:
    make_tree(root, 100)
    for number in range(large):
        (root / f"more-{number}").write_bytes(os.urandom(9 << 20))
    return backup_tree(store.open(Remote(store.target())), store.cache, root).id


def restore(store: Store, point_id: str, target: Remote, home: Path) -> Path:
    repository = store.open(target)
    point = repository.read_point(point_id)
    reader = repository.reader(point)
    target.operations.clear()
    home.mkdir()
    holder = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        write_and_check(
            reader, holder, b"back", "tree", lambda: reader.entries(point.volumes[0]), NullProgress(),
            devices=False, total=0, damaged_is_fatal=True,
        )  # fmt: skip
    finally:
        os.close(holder)
    return home / "back"


@pytest.mark.parametrize("span", [1 << 18, 1 << 20, 20 << 20])
def test_spans_of_any_length_give_every_byte_and_longer_ones_take_fewer_requests(
    store: Store, tmp_path: Path, span: int
) -> None:
    root = tmp_path / "tree"
    point = back_up(store, root, large=3)
    target = Remote(store.target(), span=span)
    assert on_disk(restore(store, point, target, tmp_path / "home")) == on_disk(root)
    gets = sum(operation.startswith("get packs/") for operation in target.operations)
    # Some 35 segments in two packs or three, read by eight; a header for each pack, manifest pages for themselves.
    assert (gets <= 28) == (span > 16 << 20), gets


def test_without_its_index_a_point_is_read_as_well(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    point = back_up(store, root)
    for name in store.objects("index/"):
        store.target().delete(name)
    assert on_disk(restore(store, point, Remote(store.target()), tmp_path / "home")) == on_disk(root)
    assert contents(store.open(Remote(store.target())), point) == on_disk(root)


def test_whoever_adds_lies_to_the_index_spoils_nothing(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    point = back_up(store, root)
    host, target = store.host, store.target()
    (name,) = store.objects("index/")
    lies = []
    for pack in read_index(target.get(name), host, name):
        table = [Segment(one.sealed_length, one.ids[::-1], one.lengths) for one in pack.table]
        lies.append(_IndexedPack(pack.digest, pack.length, table))
    import msgspec

    for _ in range(2):
        false = f"index/{os.urandom(16).hex()}"
        header = new_header(INDEX_MAGIC, host.repository_id, os.urandom(16))
        target.put_if_absent(false, seal_object(header, host.index_key, false, msgspec.msgpack.encode(lies)))
    target.put_if_absent(f"index/{os.urandom(16).hex()}", b"no index at all")
    assert on_disk(restore(store, point, Remote(target), tmp_path / "home")) == on_disk(root)


@pytest.mark.parametrize("how", ["first byte", "salt", "middle", "last byte", "short", "gone"])
def test_a_damaged_pack_is_noticed_or_does_no_harm(store: Store, tmp_path: Path, how: str) -> None:
    root = tmp_path / "tree"
    point = back_up(store, root)
    for number, name in enumerate(sorted(store.objects("packs/"))):
        path = store.directory / name
        original = path.read_bytes()
        damaged = bytearray(original)
        damaged[{"first byte": 0, "salt": 50, "middle": len(damaged) // 2}.get(how, -1)] ^= 1
        path.unlink()
        if how != "gone":
            path.write_bytes(original[: len(original) // 2] if how == "short" else damaged)
        said = ""
        try:
            back = restore(store, point, Remote(store.target()), tmp_path / f"home-{number}")
        except IntegrityError as error:
            said = str(error)
        if how == "last byte":  # of the table, which was in the index too
            assert not said and on_disk(back) == on_disk(root)
        else:
            assert name in said or "cannot be read" in said
        path.unlink(missing_ok=True)
        path.write_bytes(original)
    assert on_disk(restore(store, point, Remote(store.target()), tmp_path / "whole")) == on_disk(root)


@pytest.mark.parametrize("pack", [0, 1])
@pytest.mark.parametrize("after", [False, True])
def test_a_run_that_dies_among_several_uploads_leaves_no_half_point(
    store: Store, tmp_path: Path, pack: int, after: bool
) -> None:
    root = tmp_path / "tree"

    class DiesAtAPack(Remote):
        def put_if_absent(self, name: str, data: bytes | bytearray | memoryview) -> bool:
            puts = sum(operation.startswith("put packs/") for operation in self.operations)
            if name.startswith("packs/") and puts >= pack and not self.dead:
                self.dead = True
                if after:
                    self.inner.put_if_absent(name, data)
            return super().put_if_absent(name, data)

    make_tree(root, 100)
    (root / "more").write_bytes(os.urandom(40 << 20))
    with pytest.raises(Crash):
        backup_tree(store.open(DiesAtAPack(store.target())), store.cache, root)
    assert store.objects("points/") == set()
    committed = backup_tree(store.open(Remote(store.target())), store.cache, root)
    assert contents(store.open(), committed.id) == on_disk(root)
    assert verify(store.open(), store.open().points(), read_data=True).good
