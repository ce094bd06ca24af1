"""A damaged pack is healed by the next run, or by repair, and older points are restored from what was stored anew."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.conftest import Store
from tests.engine.test_backup_engine import contents, on_disk
from tests.engine.test_prune import Clocked, make_store, pass_time, store
from trinity_snap.errors import IntegrityError
from trinity_snap.repository.fences import read_fence
from trinity_snap.repository.prune import prune
from trinity_snap.repository.receipts import put_forgotten
from trinity_snap.repository.verify import VerifyReport, verify

__all__ = ["make_store", "store"]  # fixtures: a storage whose clock can be set forward

Damage = Callable[[bytes], bytes | None]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


DAMAGE: dict[str, Damage] = {
    "a bit in a segment": lambda data: flipped(data, 20_000 if len(data) > 30_000 else 100),
    "a bit in the table": lambda data: data[:-30] + bytes([data[-30] ^ 4]) + data[-29:],
    "a bit in the header": lambda data: data[:50] + bytes([data[50] ^ 4]) + data[51:],
    "truncated": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "missing": lambda data: None,
}


def make_tree(root: Path, seed: int = 1) -> Path:
    """Some files that share a segment, some large ones."""
    source = random.Random(seed)
    root.mkdir(exist_ok=True)
    for number in range(20):
        (root / f"small-{number}").write_bytes(source.randbytes(3000))
    for number in range(4):
        (root / f"large-{number}").write_bytes(source.randbytes(400_000))
    return root


def largest_pack(store: Store) -> str:
    return max(store.objects("packs/"), key=lambda name: (store.directory / name).stat().st_size)


def harm(store: Store, name: str, damage: Damage) -> None:
    path = store.directory / name
    data = damage(path.read_bytes())
    path.unlink()
    if data is not None:
        path.write_bytes(data)


def check(store: Store, *, read_data: bool = True) -> VerifyReport:
    repository = store.open()
    return verify(repository, repository.points(), read_data=read_data, record=True, condemn=True)


@pytest.mark.parametrize("how", DAMAGE)
def test_the_next_run_stores_anew_what_was_damaged_and_older_points_come_back_whole(
    store: Clocked, tmp_path: Path, how: str
) -> None:
    tree = make_tree(tmp_path / "tree")
    before = on_disk(tree)
    first = store.backup(tree)
    name = largest_pack(store)
    harm(store, name, DAMAGE[how])
    report = check(store)
    assert not report.good
    assert list(report.damaged_objects) == [name]
    (verdict,) = report.points
    assert verdict.damaged_objects == [name]
    if how == "a bit in the table":  # the index says the same
        assert contents(store.open(), first.id) == before
    else:
        with pytest.raises(IntegrityError):
            contents(store.open(), first.id)
    packs = store.objects("packs/")
    second = store.backup(tree)
    assert store.objects("packs/") - packs
    assert bytes.fromhex(name[-64:]) not in {bytes.fromhex(one.name) for one in packs_of(store, second.id)}
    assert contents(store.open(), second.id) == on_disk(tree)
    assert contents(store.open(), first.id) == before
    healed = check(store)
    assert healed.good
    assert healed.healed == {name} == set(healed.damaged_objects)
    # And a run after that stores nothing twice, nor relies on the damaged pack.
    packs = store.objects("packs/")
    third = store.backup(tree)
    assert store.objects("packs/") == packs
    (tree / "new").write_bytes(b"of the next day")
    assert name[-64:] not in {one.name for one in packs_of(store, third.id)}


def packs_of(store: Store, point: str) -> list:
    return store.open().read_point(point).pack_references()


def test_without_being_checked_the_host_goes_on_relying_on_what_it_cannot_see(store: Clocked, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    store.backup(tree)
    name = largest_pack(store)
    harm(store, name, DAMAGE["a bit in a segment"])
    second = store.backup(tree)
    assert name[-64:] in {one.name for one in packs_of(store, second.id)}


@pytest.mark.parametrize("how", ["a bit in a segment", "a bit in the table", "missing"])
def test_prune_keeps_what_stands_in_for_a_damaged_pack_as_long_as_a_point_needs_that(
    store: Clocked, tmp_path: Path, how: str
) -> None:
    tree = make_tree(tmp_path / "tree")
    before = on_disk(tree)
    old = store.backup(tree)
    prune(store.open())  # a receipt says that the point counts
    pass_time(store, 24)
    name = largest_pack(store)
    harm(store, name, DAMAGE[how])
    check(store)
    healing = store.backup(tree)
    (tree / "large-0").write_bytes(b"now something else")
    for number in range(20):
        (tree / f"small-{number}").write_bytes(b"changed %d" % number)
    last = store.backup(make_tree(tree, 2))
    remove(store, healing.id)
    for _ in range(4):
        pass_time(store, 30)
        prune(store.open())
        assert contents(store.open(), old.id) == before, "what stood in for the damaged pack was deleted"
        if how != "missing":
            fenced = frozenset().union(
                *(read_fence(store.target(), store.host, one) for one in store.objects("fences/"))
            )
            assert bytes.fromhex(name[-64:]) in fenced, "runs may rely on the damaged pack again"
    assert len(store.objects("fences/")) <= 2
    remove(store, old.id)
    for _ in range(3):
        pass_time(store, 30)
        prune(store.open())
    needed = {one.name for one in packs_of(store, last.id)}
    assert {one[-64:] for one in store.objects("packs/")} == needed
    assert not store.objects("fences/")
    assert verify(store.open(), store.open().points(), read_data=True).good


def remove(store: Clocked, point: str) -> None:
    put_forgotten(store.target(), store.host, [point])
    store.target().delete(f"points/{point}")


def test_a_lost_session_costs_its_points_and_the_next_run_relies_on_none_of_its_packs(
    store: Clocked, tmp_path: Path
) -> None:
    tree = make_tree(tmp_path / "tree")
    first = store.backup(tree)
    (session,) = store.objects("sessions/")
    (tree / "new").write_bytes(b"of the second day")
    second = store.backup(tree)
    held = on_disk(tree)
    (store.directory / session).unlink()
    report = check(store)
    assert [point for point, _ in report.unreadable] == [first.id]
    assert session in report.damaged_objects
    (verdict,) = report.points
    assert (verdict.id, verdict.good, verdict.damaged_objects) == (second.id, False, [session])
    third = store.backup(tree)
    assert contents(store.open(), third.id) == contents(store.open(), second.id) == held
    again = check(store)
    assert [point for point, _ in again.unreadable] == [first.id]
    assert all(point.good for point in again.points)


def test_prune_does_not_choke_on_receipts_of_checks(store: Clocked, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    store.backup(tree)
    check(store)
    pass_time(store, 24)
    store.backup(make_tree(tree, 3))
    check(store)
    report = prune(store.open())
    assert report.deleted_packs == 0
    assert len(store.objects("receipts/")) == 2, "one for the points, one for the checks"
