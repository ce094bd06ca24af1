"""Every operation on a storage is a crash point: forget, prune, replicas' prune, restore and verify die before and after each.

Backups are in `test_crash_points.py`, replication is in `test_replication.py`.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.engine.fidelity import facts
from tests.engine.memory import AFTER_WAIT_NS, DAY_NS, Kept
from tests.engine.test_backup_engine import contents, on_disk
from tests.engine.test_prune import keep_last, make
from tests.engine.test_repack import mostly_dead
from tests.engine.test_replication import copy
from tests.faults.faulty import Crash, CrashingTarget
from tests.model.storage import Storage
from trinity_snap.repository.forget import forget
from trinity_snap.repository.holds import held_points, hold
from trinity_snap.repository.prune import prune
from trinity_snap.repository.repack import repack
from trinity_snap.repository.repack_plan import RepackWish
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.verify import verify
from trinity_snap.restore import execute, plan_restore
from trinity_snap.trusted.replicas import forget_at_replica, prune_at_replica

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
Work = Callable[[Repository], object]

STEPS: list[Work] = [lambda repository: forget(repository, keep_last(1)), prune, prune]
NAMES = ("forget", "prune that condemns", "prune that deletes")


def die(kept: Kept, work: Work, at: int, after: bool) -> CrashingTarget:
    """Do it until it dies at operation `at`; the target says whether it came so far."""
    target = CrashingTarget(kept.storage, at, after)
    try:
        work(kept.open(target))
    except Crash:
        assert target.dead
    return target


def assert_whole(kept: Kept, expected: dict[str, object]) -> None:
    repository = kept.open()
    points = repository.points()
    assert not repository.unreadable_points
    assert {point.id for point in points} >= expected.keys()
    assert all(contents(repository, point) == content for point, content in expected.items())
    assert verify(repository, points).good


def assert_tidy(kept: Kept, points: int) -> None:
    """Exactly what the points need is there, and next to nothing besides."""
    assert len(kept.names("points/")) == points
    needed = {pack.name for point in kept.open().points() for pack in point.pack_references()}
    assert {name[-64:] for name in kept.names("packs/")} == needed
    assert not kept.names("fences/")
    assert len(kept.names("receipts/")) <= 3
    assert len(kept.names("index/")) <= 4


def settle(kept: Kept, work: list[Work]) -> None:
    for each in work:
        kept.pass_time(AFTER_WAIT_NS)
        each(kept.open())


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(3), ids=NAMES)
def test_forget_and_prune_may_die_at_every_operation(tmp_path: Path, number: int, after: bool) -> None:
    root = tmp_path / "tree"
    begin = Kept(tmp_path / "host")
    for day in range(3):
        newest = begin.backup(make(root, day, 30_000)).id
        begin.pass_time(DAY_NS)
    expected: dict[str, object] = {newest: on_disk(root)}
    settle(begin, STEPS[:number])
    begin.pass_time(AFTER_WAIT_NS)
    at = 0
    while True:
        kept = begin.copy()
        died = die(kept, STEPS[number], at, after)
        assert_whole(kept, expected)
        next_one = kept.backup(root, cache=tmp_path / f"cache-{at}").id
        settle(kept, [lambda repository: forget(repository, keep_last(2)), *[prune] * 3])
        assert_whole(kept, {**expected, next_one: on_disk(root)})
        assert_tidy(kept, 2)
        if not died.dead:
            break
        at += 1
    assert at == len(died.operations) > 10


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("side", ["first", "replica"])
def test_forget_and_prune_at_a_replica_may_die_at_every_operation(tmp_path: Path, side: str, after: bool) -> None:
    """All of it in one go: the replica first forgets and then deletes what the first target has let go of."""
    root = tmp_path / "tree"
    first, there = Kept(tmp_path / "host"), Storage()
    for day in range(3):
        newest = first.backup(make(root, day, 30_000)).id
        copy(first.storage, there)
        first.pass_time(DAY_NS)
        there.now_ns = first.storage.now_ns
    settle(first, STEPS)
    there.now_ns = first.storage.now_ns + AFTER_WAIT_NS
    prune_at_replica(first.open(), first.copy(there).open())  # receipts: what is copied counts
    expected: dict[str, object] = {newest: on_disk(root)}
    at = 0
    while True:
        source, replica = first.copy(), first.copy(there)

        def work(crashing: Repository, source: Kept = source, replica: Kept = replica) -> object:
            one, other = (crashing, replica.open()) if side == "first" else (source.open(), crashing)
            forget_at_replica(one, other, keep_last(1))
            replica.pass_time(AFTER_WAIT_NS)
            prune_at_replica(one, other)
            replica.pass_time(AFTER_WAIT_NS)
            return prune_at_replica(one, other)

        died = die(source if side == "first" else replica, work, at, after)
        assert_whole(replica, expected)
        assert_whole(source, expected)
        forget_at_replica(source.open(), replica.open(), keep_last(1))
        for _ in range(3):
            replica.pass_time(AFTER_WAIT_NS)
            prune_at_replica(source.open(), replica.open())
        assert_whole(replica, expected)
        assert copy(source.storage, replica.storage).objects == 0, "what was removed is brought back"
        assert_tidy(replica, 1)
        if not died.dead:
            break
        at += 1
    assert at == len(died.operations) > 10


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_repack_may_die_at_every_operation(tmp_path: Path, after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the prune that follows it; the next one finishes, and each point is there once."""
    monkeypatch.setattr(tempfile, "tempdir", MEMORY)  # what it writes for itself, it need not wait for
    begin, root, expected = mostly_dead(tmp_path)
    hold(begin.open(), [min(expected)])

    def work(repository: Repository) -> object:
        repack(repository, wish=RepackWish(unused=0.0))
        return prune(repository)

    at = 0
    while True:
        kept = begin.copy()
        died = die(kept, work, at, after)
        assert_gives_back(kept, expected)
        next_one = kept.backup(root, cache=tmp_path / f"cache-{at}").id
        settle(kept, [work, *[prune] * 3])
        assert_gives_back(kept, {**expected, next_one: on_disk(root)})
        assert_tidy(kept, len(expected) + 1)
        assert len(held_points(kept.open())) == 1
        if not died.dead:
            break
        at += 1
    assert at == len(died.operations) > 20


def assert_gives_back(kept: Kept, expected: dict[str, object]) -> None:
    """Every point does, under its own id or another one, by which it is found under its own."""
    repository = kept.open()
    assert not repository.unreadable_points
    for original, content in expected.items():
        assert contents(repository, repository.resolve(original).id) == content
    assert verify(repository, repository.points()).good


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_verify_may_die_at_every_operation(tmp_path: Path, after: bool) -> None:
    root = make(tmp_path / "tree", 1, 30_000)
    begin = Kept(tmp_path / "host")
    expected: dict[str, object] = {begin.backup(root).id: on_disk(root)}
    at = 0
    while True:
        kept = begin.copy()
        died = die(kept, lambda repository: verify(repository, repository.points(), read_data=True), at, after)
        assert_whole(kept, expected)
        assert verify(kept.open(), kept.open().points(), read_data=True).good
        if not died.dead:
            break
        at += 1
    assert at == len(died.operations) > 4


@pytest.mark.skipif(os.geteuid() != 0, reason="restores are root's")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("how", ["beside", "over", "in place"])
def test_a_restore_whose_storage_goes_at_any_operation_leaves_all_as_it_was(
    tmp_path: Path, how: str, after: bool
) -> None:
    """It reads; so what is live stays, nothing half-made stays, and the next one ends."""
    live = make(tmp_path / "live", 1, 600_000)
    (live / "second").write_bytes(random.Random(1).randbytes(600_000))
    kept = Kept(tmp_path / "host")
    source = kept.backup(live, agent=str(live))
    then = facts(live)
    make(live, 2, 1000)
    (live / "new").write_text("of today")
    now = facts(live)
    around = set(os.listdir(tmp_path))
    repository = kept.open()
    point = repository.read_point(source.id)
    volume = replace(point.volumes[0], kind="path", source=str(live))
    point = replace(point, volumes=[volume])

    def restore(repository: Repository) -> object:
        wishes = {"to": tmp_path / "out"} if how == "beside" else {"in_place": how == "in place"}
        plan = plan_restore(repository, point, state_dir=tmp_path / "state", **wishes)
        return execute(plan, repository)

    at = 0
    while True:
        died = die(kept, restore, at, after)
        if not died.dead:
            break
        assert facts(live) == now
        assert set(os.listdir(tmp_path)) - {"state"} == around, died.operations
        at += 1
    assert at >= len(died.operations) > 3  # several threads read, so that the number varies a little
    if how == "beside":
        assert facts(live) == now
        (restored,) = (tmp_path / "out").iterdir()
        assert facts(restored) == then
    else:
        assert facts(live) == then
