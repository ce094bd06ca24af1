"""A run that dies before or after any storage operation harms nothing, and the next run succeeds."""

from __future__ import annotations

import random
from pathlib import Path

from tests.engine.conftest import Store
from tests.engine.test_backup_engine import contents, make_tree, on_disk
from tests.faults.faulty import Crash, CrashingTarget
from trinity_snap.backup.engine import backup_tree
from trinity_snap.repository.verify import verify


def attempt(store: Store, root: Path, at: int, after: bool) -> tuple[bool, CrashingTarget]:
    """One run that crashes at operation `at`. Return whether it was over before that."""
    target = CrashingTarget(store.target(), at, after)
    try:
        backup_tree(store.open(target), store.cache, root)
    except Crash:
        return False, target
    return not target.dead, target


def test_whatever_operation_a_run_dies_at_every_reported_point_restores(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    make_tree(root, 40)
    (root / "large").write_bytes(random.Random(9).randbytes(40_000_000))
    store.backup(root)
    reported = {point.id: contents(store.open(), point.id) for point in store.open().points()}
    for after in (False, True):
        at = 0
        while True:
            (root / "d1" / "e1" / "file-1").write_bytes(b"%d %d" % (at, after))
            (root / "large").write_bytes(random.Random(at * 2 + after).randbytes(2_000_000))
            finished, target = attempt(store, root, at, after)
            repository = store.open()
            points = repository.points()
            assert not repository.unreadable_points
            report = verify(repository, points, read_data=True)
            assert report.good, (target.operations, report)
            for point_id, expected in reported.items():
                assert contents(repository, point_id) == expected
            committed = store.backup(root)
            assert contents(store.open(), committed.id) == on_disk(root), target.operations
            assert not committed.problems
            if finished:
                break
            at += 1
        assert at > 8


def test_what_a_dead_run_had_indexed_is_not_sent_again(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    make_tree(root, 40)
    operations = attempt(store, root, 1 << 40, False)[1].operations
    commit = next(number for number, what in enumerate(operations) if what.startswith("put points/"))
    for path in (root / "new", root / "newer"):
        path.write_bytes(random.Random(str(path)).randbytes(3_000_000))
    finished, target = attempt(store, root, commit, False)
    assert not finished
    packs = store.objects("packs/")
    store.backup(root)
    assert store.objects("packs/") == packs, target.operations
