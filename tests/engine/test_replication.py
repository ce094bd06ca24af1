"""Copying a repository to a replica: whole, in the order of safety, resumable, without keys, and nothing but what is good."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.engine.conftest import Store
from tests.engine.test_backup_engine import contents, make_tree, on_disk
from tests.faults.faulty import Crash, CrashingTarget
from trinity_snap.backup.engine import AgentPoint, Engine, SourceSpec
from trinity_snap.errors import ForeignRepository, RepositoryMissing, TargetDenied, TargetError
from trinity_snap.progress import NullProgress
from trinity_snap.replication import copying
from trinity_snap.replication.copying import COPIED_KINDS, Copied, bring_up_to_date
from trinity_snap.repository.copies import copy_notes
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.verify import verify
from trinity_snap.snapshot.view import DirectoryView
from trinity_snap.targets import ObjectStat, Target, open_target
from trinity_snap.targets.names import FLAT_KINDS, PER_STORAGE_KINDS


def copy(source: Target, replica: Target, **options: Any) -> Copied:
    copied = Copied()
    bring_up_to_date(source, replica, copied, NullProgress(), **options)
    return copied


@pytest.fixture
def replica(tmp_path: Path) -> Target:
    return open_target(str(tmp_path / "replica"), create=True)


def at(store: Store, target: Target) -> Repository:
    return Repository.open(target, host=store.host, identity=store.operator)


def assert_whole(store: Store, target: Target) -> None:
    """Every point at `target` restores, to the last byte."""
    repository = at(store, target)
    points = repository.points()
    assert not repository.unreadable_points
    assert verify(repository, points, read_data=True).good


def everything(target: Target) -> dict[str, bytes]:
    return {name: target.get(name) for name in target.list_prefix("")}


def grow(store: Store, root: Path, seed: int, size: int = 2_000_000) -> str:
    (root / f"file-{seed}").write_bytes(random.Random(seed).randbytes(size))
    return store.backup(root).id


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    make_tree(root, 20)
    return root


@pytest.fixture
def small_root(tmp_path: Path) -> Path:
    root = tmp_path / "small"
    root.mkdir()
    (root / "file").write_bytes(b"something")
    return root


def test_a_replica_has_every_object_byte_for_byte_and_restores_alone(store: Store, root: Path, replica: Target) -> None:
    points = [grow(store, root, 1), grow(store, root, 2)]
    copied = copy(store.target(), replica)
    assert copied.points == 2
    assert (copied.points_behind, copied.bytes_behind, copied.damaged) == (0, 0, {})
    there = everything(replica)
    (note,) = [name for name in there if name.startswith("copies/")]
    assert copy_notes(replica, store.host.repository_id) == {note: tuple(sorted(points))}
    del there[note]
    assert there == everything(store.target())
    shutil.rmtree(store.directory)
    assert contents(at(store, replica), points[1]) == on_disk(root)


def test_what_is_there_is_not_sent_again(store: Store, root: Path, replica: Target) -> None:
    grow(store, root, 1)
    copy(store.target(), replica)
    watched = CrashingTarget(replica)
    assert copy(store.target(), watched).objects == 0
    assert not [what for what in watched.operations if what.startswith(("put", "stat", "get packs"))]
    grow(store, root, 2, size=300_000)
    watched = CrashingTarget(replica)
    copied = copy(store.target(), watched)
    assert copied.points == 1
    assert copied.bytes < 1_000_000
    assert len([what for what in watched.operations if what.startswith("put ")]) == copied.objects + 1  # and the note


@pytest.mark.parametrize(
    ("side", "begin", "after"),
    [
        ("source", "new", False),
        ("replica", "new", False),
        ("replica", "new", True),
        ("replica", "partial", False),
        ("replica", "partial", True),
    ],
)
def test_killed_at_any_operation_no_point_is_there_without_all_that_it_needs(
    store: Store, small_root: Path, tmp_path: Path, side: str, begin: str, after: bool
) -> None:
    for seed in range(2):
        grow(store, small_root, seed, 20_000)
    partial = open_target(str(tmp_path / "partial"), create=True)
    if begin == "partial":
        copy(store.target(), partial)
    grow(store, small_root, 3, 20_000)
    at_operation = 0
    while True:
        directory = tmp_path / str(at_operation)
        shutil.copytree(tmp_path / "partial", directory)
        target = open_target(str(directory))
        crashing = CrashingTarget(store.target() if side == "source" else target, at_operation, after)
        with suppress(Crash):
            copy(*((crashing, target) if side == "source" else (store.target(), crashing)))
        if list(target.list_prefix("repository")):
            assert_whole(store, target)
        sent = set(target.list_prefix(""))
        again = CrashingTarget(target)
        assert copy(store.target(), again).points_behind == 0
        assert_whole(store, target)
        assert set(target.list_prefix("points/")) == store.objects("points/")
        puts = {what.removeprefix("put ") for what in again.operations if what.startswith("put ")}
        assert not puts & sent, "what was there was sent again"
        shutil.rmtree(directory)
        if not crashing.dead:
            break
        at_operation += 1
    assert at_operation > 8


def test_points_that_are_made_meanwhile_wait_until_all_that_they_need_is_there(
    store: Store, root: Path, replica: Target
) -> None:
    with Engine(store.open(), store.cache) as engine:

        def commit(agent: str) -> None:
            (root / agent).write_bytes(random.Random(agent).randbytes(300_000))
            source, now = SourceSpec(agent), time.time_ns()
            shipped = engine.ship(source, DirectoryView(root), now)
            engine.commit(AgentPoint(agent, "host", "0" * 32, now, "none", "directory", "-"), [(source, shipped)])

        class Growing(CrashingTarget):
            """The run whose first point is copied commits another after the packs were copied."""

            grown = False

            def get(self, name: str) -> bytes:
                if name.startswith("index/") and not self.grown:
                    self.grown = True
                    commit("second")
                return super().get(name)

        commit("first")
        copy(Growing(store.target()), replica)
    assert_whole(store, replica)
    assert len(set(replica.list_prefix("points/"))) == 1
    copy(store.target(), replica)
    assert len(set(replica.list_prefix("points/"))) == 2
    assert_whole(store, replica)


def test_two_replications_at_once_do_each_other_no_harm(store: Store, root: Path, replica: Target) -> None:
    for seed in range(3):
        grow(store, root, seed)

    class Disturbed(CrashingTarget):
        """Half-way through, another process replicates everything, or dies at it."""

        waits = 3

        def put_if_absent(self, name: str, data: bytes | bytearray | memoryview) -> bool:
            self.waits -= 1
            if self.waits == 0:
                with pytest.raises(Crash):
                    copy(store.target(), CrashingTarget(replica, at=12))
            if self.waits == -4:
                copy(store.target(), replica)
            return super().put_if_absent(name, data)

    copy(store.target(), Disturbed(replica))
    assert_whole(store, replica)
    assert set(replica.list_prefix("points/")) == store.objects("points/")


def test_a_note_comes_before_points_and_is_renewed_when_copying_takes_long(
    store: Store, root: Path, replica: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = grow(store, root, 1)
    clock = [0.0]
    monkeypatch.setattr(copying, "_now", lambda: clock[0])

    class Slow(CrashingTarget):
        """The first pack takes two days to get there."""

        slow = True

        def put_if_absent(self, name: str, data: bytes | bytearray | memoryview) -> bool:
            if name.startswith("packs/") and self.slow:
                self.slow = False
                clock[0] += 2 * 86400
            return super().put_if_absent(name, data)

    slow = Slow(replica)
    copy(store.target(), slow)
    puts = [what.split("/")[0] for what in slow.operations if what.startswith("put ")]
    assert puts.count("put copies") == 2
    assert puts[-2:] == ["put copies", "put points"]
    second = slow.operations.index(next(what for what in reversed(slow.operations) if what.startswith("put copies")))
    assert "list packs/" in slow.operations[second:], "after a note has to be looked at what is there"
    assert all(ids == (point,) for ids in copy_notes(replica, store.host.repository_id).values())


def test_a_damaged_pack_is_not_copied_and_only_points_that_need_it_are_kept_back(
    store: Store, root: Path, replica: Target, tmp_path: Path
) -> None:
    good = grow(store, root, 1)
    packs = store.objects("packs/")
    other = tmp_path / "other"
    make_tree(other, 5)
    (other / "media").write_bytes(random.Random(7).randbytes(3_000_000))
    bad = store.backup(other, agent="other", cache=tmp_path / "other-cache").id
    damaged = max(store.objects("packs/") - packs)
    path = store.directory / damaged
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    copied = copy(store.target(), replica)
    assert list(copied.damaged) == [damaged]
    assert "SHA-256" in copied.damaged[damaged]
    assert (copied.points, copied.points_waiting, copied.points_behind) == (0, 2, 2)
    assert not list(replica.list_prefix("points/"))

    def needs(point_id: str) -> set[bytes]:
        return {bytes.fromhex(pack.name) for pack in store.open().read_point(point_id).pack_references()}

    copied = copy(store.target(), replica, needs=needs)
    assert (copied.points, copied.points_waiting) == (1, 1)
    assert list(replica.list_prefix("points/")) == [f"points/{good}"]
    assert_whole(store, replica)
    assert damaged not in set(replica.list_prefix("packs/"))
    copied = copy(store.target(), replica, despite_damage=True)
    assert copied.points == 1
    assert set(replica.list_prefix("points/")) == {f"points/{good}", f"points/{bad}"}


def test_a_bit_that_flips_on_the_way_never_arrives(store: Store, root: Path, replica: Target) -> None:
    grow(store, root, 1)

    class Flipping(CrashingTarget):
        """Every object is damaged the first time it is read."""

        seen: ClassVar[set[str]] = set()

        def get(self, name: str) -> bytes:
            data = super().get(name)
            if name in self.seen or name == "repository":
                return data
            self.seen.add(name)
            return data[:-1] + bytes([data[-1] ^ 1])

    assert copy(Flipping(store.target()), replica).damaged == {}
    assert {name: data for name, data in everything(replica).items() if not name.startswith("copies/")} == everything(
        store.target()
    )


@pytest.mark.parametrize("kind", ["sessions", "index", "points"])
def test_an_object_that_is_not_what_its_name_says_is_not_copied(
    store: Store, root: Path, replica: Target, kind: str
) -> None:
    grow(store, root, 1)
    (name,) = store.objects(f"{kind}/")
    path = store.directory / name
    path.chmod(0o600)
    path.write_bytes(b"\0" * 2048)
    copied = copy(store.target(), replica)
    assert list(copied.damaged) == [name]
    assert not list(replica.list_prefix(f"{kind}/"))
    assert len(list(replica.list_prefix("points/"))) == (kind == "index"), "a point without its session is of no use"


def test_a_replica_of_another_repository_is_refused_and_left_as_it_is(
    make_store: Callable[[str], Store], root: Path
) -> None:
    ours, theirs = make_store("ours"), make_store("theirs")
    grow(ours, root, 1)
    grow(theirs, root, 2)
    before = everything(theirs.target())
    with pytest.raises(ForeignRepository, match="another repository"):
        copy(ours.target(), theirs.target())
    assert everything(theirs.target()) == before


def test_a_replica_that_was_there_and_is_empty_is_not_begun_anew(store: Store, root: Path, replica: Target) -> None:
    grow(store, root, 1)
    with pytest.raises(RepositoryMissing, match="replicated to before") as error:
        copy(store.target(), replica, may_be_new=False)
    assert "Mount the disk" in str(error.value)
    assert not list(replica.list_prefix(""))


def test_what_goes_at_the_source_meanwhile_is_no_error(store: Store, root: Path, replica: Target) -> None:
    forgotten = grow(store, root, 1)
    grow(store, root, 2)

    class Pruned(CrashingTarget):
        """The oldest point is forgotten, and a pack that nothing needs is removed, after both were listed."""

        def get(self, name: str) -> bytes:
            if name.startswith("sessions/"):
                self.inner.delete(f"points/{forgotten}")
            return super().get(name)

    copied = copy(Pruned(store.target()), replica)
    assert (copied.points, copied.points_behind, copied.damaged) == (1, 0, {})
    assert_whole(store, replica)


def test_a_source_whose_packs_may_not_be_read_says_where_to_replicate(
    store: Store, root: Path, replica: Target
) -> None:
    grow(store, root, 1)

    class Least(CrashingTarget):
        """What the policy for a host allows in a bucket."""

        def get(self, name: str) -> bytes:
            if name.startswith(("packs/", "points/")):
                raise TargetDenied("Access denied.")
            return super().get(name)

        def stat(self, name: str) -> ObjectStat:
            self.get(name)
            return self.inner.stat(name)

    with pytest.raises(TargetDenied, match="cannot be replicated from here") as error:
        copy(Least(store.target()), replica)
    assert "trinity-snap replicate" in error.value.next_step
    assert not list(replica.list_prefix("points/"))


def test_what_a_prune_takes_from_a_replica_meanwhile_is_copied_again(store: Store, root: Path, replica: Target) -> None:
    grow(store, root, 1)

    class PrunedReplica(CrashingTarget):
        """A prune that should not: it deletes a pack that the source has, just before the points come."""

        def put_if_absent(self, name: str, data: bytes | bytearray | memoryview) -> bool:
            if name.startswith("points/"):
                self.inner.put_if_absent(f"fences/{'0' * 32}", b"a fence")
                self.inner.delete(min(self.inner.list_prefix("packs/")))
            return super().put_if_absent(name, data)

    copy(store.target(), PrunedReplica(replica))
    replica.delete(f"fences/{'0' * 32}")
    assert_whole(store, replica)


def test_every_kind_of_object_is_copied_but_those_that_are_about_one_storage(
    store: Store, root: Path, replica: Target
) -> None:
    grow(store, root, 1)
    source = store.target()
    assert {*COPIED_KINDS, "points"} == {"packs", *FLAT_KINDS} - PER_STORAGE_KINDS
    for kind in PER_STORAGE_KINDS:
        source.put_if_absent(f"{kind}/{'1' * 32}", b"{}")
    copy(source, replica)
    assert not any(name.endswith("1" * 32) for name in replica.list_prefix(""))


def test_the_time_may_be_up_at_any_object(store: Store, root: Path, replica: Target) -> None:
    for seed in range(3):
        grow(store, root, seed)
    allowed = 0
    while True:
        left = [allowed]

        def look(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise TargetError("the time is up")

        try:
            copied = copy(store.target(), replica, look=look)
            break
        except TargetError:
            assert_whole(store, replica)
            allowed += 1
    assert copied.points_behind == 0
    assert set(replica.list_prefix("points/")) == store.objects("points/")
