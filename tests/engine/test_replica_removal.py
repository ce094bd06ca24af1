"""Forgetting and pruning at replicas: what is not wanted goes, stays away, and takes nothing along; and nothing piles up."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import Store
from tests.engine.test_backup_engine import contents, on_disk
from tests.engine.test_cli_replicas import local, write_policy
from tests.engine.test_prune import Clocked, keep_last, make, pass_time
from tests.engine.test_replication import copy
from tests.faults.faulty import CrashingTarget
from tests.unit.test_cli_json import assert_same_shape, documented
from tests.unit.test_cli_repository import Host, make_host
from tests.unit.test_cli_retention import grow_old
from trinity_snap.errors import ForeignRepository
from trinity_snap.progress import NullProgress
from trinity_snap.replication.copying import Copied, bring_up_to_date
from trinity_snap.repository.copies import put_copy_note
from trinity_snap.repository.forget import forget
from trinity_snap.repository.prune import prune
from trinity_snap.repository.receipts import put_clock
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.verify import verify
from trinity_snap.targets import open_target
from trinity_snap.trusted.replicas import forget_at_replica, prune_at_replica

__all__ = ["make_host"]  # a fixture


@pytest.fixture
def host(make_host: Any) -> Host:
    """A host with one replica, and a policy that keeps the newest point at both."""
    made: Host = make_host()
    write_policy(made, local(made, "offsite"), retention={"last": 1, "minimum": 1})
    made.json("init")
    return made


def change_policy(host: Host, replica: dict[str, Any], **retention: Any) -> None:
    write_policy(host, {**local(host, "offsite", make=False), **replica}, retention=retention)


def back_up(host: Host, size: int = 100_000) -> str:
    """A point of other data, and everything before it a day and a half older."""
    for name in ("first", "offsite"):
        grow_old(str(host.home / name), 36)
    tree = host.home / "tree-web"
    tree.mkdir(exist_ok=True)
    (tree / "data").write_bytes(os.urandom(size))
    return host.back_up()


def points(host: Host, *arguments: str) -> set[str]:
    return {point["id"] for point in host.json("list", *arguments)["points"]}


def packs(host: Host, name: str) -> set[str]:
    return {path.name for path in (host.home / name).glob("packs/*/*")}


def test_what_goes_at_the_first_target_goes_at_the_replica_and_so_do_its_packs(host: Host) -> None:
    made = []
    for _ in range(3):
        made.append(back_up(host))
        host.json("replicate")
    assert host.json("forget")["forgotten"]
    assert points(host, "--target", "offsite") == set(made)
    told = host.text("forget", "--target", "offsite", "--dry-run")
    assert made[0][:8] in told
    answer = host.json("forget", "--target", "offsite")
    assert_same_shape(answer, documented("forget"))
    assert (sorted(answer["forgotten"]), answer["target"]) == (sorted(made[:2]), "offsite")
    assert points(host, "--target", "offsite") == {made[2]}
    for _ in range(3):  # what the first target still has is not condemned at the replica: it is a day behind
        for name in ("first", "offsite"):
            grow_old(str(host.home / name), 36)
        both = host.json("prune", "--all-targets")
    assert_same_shape(both, documented("prune"))
    (at_replica,) = both["replicas"]
    assert at_replica["error"] is None and at_replica["result"]["deleted_packs"] > 0
    assert packs(host, "offsite") == packs(host, "first")
    assert host.json("replicate")["replicas"][0]["objects"] == 0
    assert host.json("verify", "--read-data", "--target", "offsite")["good"]


def test_points_that_were_repacked_come_to_the_replica_in_the_place_of_the_ones_that_they_were(host: Host) -> None:
    tree = host.home / "tree-web"
    tree.mkdir(exist_ok=True)
    for name in ("stays", "goes"):
        (tree / name).write_bytes(os.urandom(300_000))
    back_up(host)
    host.json("replicate")  # one by one: the replica's times are those of copying
    for name in ("first", "offsite"):
        grow_old(str(host.home / name), 36)
    (tree / "goes").write_bytes(os.urandom(300_000))
    newest = back_up(host)
    host.json("replicate")
    host.json("forget")
    host.json("forget", "--target", "offsite")
    grow_old(str(host.home / "first"), 36)
    moved = host.json("prune", "--repack", "--repack-unused", "0%")["repack"]["moved_points"]
    (new,) = [one["to"] for one in moved if one["from"] == newest]
    assert host.json("prune", "--target", "offsite")["superseded_points"] == []  # the new one is not there yet
    host.json("replicate")
    assert points(host, "--target", "offsite") == {newest, new}
    told = host.json("prune", "--target", "offsite", "--dry-run")
    assert told["superseded_points"] == [newest] and points(host, "--target", "offsite") == {newest, new}
    for _ in range(3):
        host.json("prune", "--all-targets")
        for name in ("first", "offsite"):
            grow_old(str(host.home / name), 36)
    assert points(host, "--target", "offsite") == points(host) == {new}
    assert packs(host, "offsite") == packs(host, "first")
    assert host.json("replicate")["replicas"][0]["objects"] == 0
    assert host.json("show", newest, "--target", "offsite")["id"] == new
    assert host.json("verify", "--read-data", "--target", "offsite")["good"]


def test_a_replica_that_wants_to_keep_more_keeps_it_whole_when_the_first_target_is_pruned(
    host: Host, tmp_path: Path
) -> None:
    base, old = back_up(host), back_up(host)  # what does not change is with the first of them
    before = (host.home / "tree-web" / "data").read_bytes()
    new = back_up(host)
    host.json("replicate")
    change_policy(host, {"retention": {"last": 5}}, last=1, minimum=1)
    for _ in range(4):
        host.json("forget", "--all-targets")
        host.json("prune", "--all-targets")
        host.json("replicate")
        for name in ("first", "offsite"):
            grow_old(str(host.home / name), 36)
    assert (points(host), points(host, "--target", "offsite")) == ({new}, {base, old, new})
    assert packs(host, "first") < packs(host, "offsite")
    if os.geteuid() == 0:
        host.text("restore", "web", "--point", old, "--target", "offsite", "--to", str(tmp_path / "out"))
        assert (tmp_path / "out" / "web" / "data").read_bytes() == before
    assert host.json("verify", "--read-data", "--target", "offsite")["good"]


def test_nothing_is_forgotten_or_pruned_at_a_replica_that_replication_would_bring_back(host: Host) -> None:
    made = {back_up(host) for _ in range(3)}
    host.json("replicate")
    change_policy(host, {"retention": {"last": 1, "minimum": 1}}, last=5)
    for _ in range(3):
        assert host.json("forget", "--target", "offsite")["forgotten"] == []
        assert host.json("prune", "--target", "offsite")["deleted_packs"] == 0
        assert host.json("replicate")["replicas"][0]["objects"] == 0
        grow_old(str(host.home / "offsite"), 36)
    assert points(host, "--target", "offsite") == made
    one = min(made)
    refused = host.json("forget", one, "--target", "offsite", code=10)
    assert "--all-targets" in refused["agents"][0]["refused"]
    answer = host.json("forget", one, "--all-targets")
    assert answer["forgotten"] == answer["replicas"][0]["result"]["forgotten"] == [one]
    host.json("replicate")
    assert points(host, "--target", "offsite") == made - {one} == points(host)


def test_holds_are_copied_to_replicas_and_released_there(host: Host) -> None:
    old = back_up(host)
    back_up(host)
    host.json("replicate")
    answer = host.json("hold", old)
    assert_same_shape(answer, documented("hold"))
    assert answer["replicas"][0]["result"]["changed"] == [old]
    shutil.rmtree(host.home / "first" / "receipts")  # as if the hold were known at the replica only
    (host.home / "first" / "points" / old).unlink()
    assert host.json("forget", "--target", "offsite")["forgotten"] == []
    assert "is held" in host.json("forget", old, "--target", "offsite", code=10)["agents"][0]["refused"]


def test_a_hold_that_a_replica_missed_reaches_it_with_the_next_forget(host: Host) -> None:
    old = back_up(host)
    back_up(host)
    host.json("replicate")
    (host.home / "offsite").rename(host.home / "away")
    assert "offsite" in host.text("hold", old, code=10)
    (host.home / "away").rename(host.home / "offsite")
    host.json("forget", "--target", "offsite")
    (host.home / "first" / "points" / old).unlink()
    assert "is held" in host.json("forget", old, "--target", "offsite", code=10)["agents"][0]["refused"]
    assert host.json("hold", "--release", old)["replicas"][0]["result"]["changed"] == [old]
    assert host.json("forget", old, "--target", "offsite")["forgotten"] == [old]


def test_a_replica_that_is_down_is_told_and_one_is_not_pruned_without_the_first(host: Host) -> None:
    made = {back_up(host) for _ in range(2)}
    host.json("replicate")
    (host.home / "offsite").rename(host.home / "away")
    answer = host.json("forget", "--all-targets", code=10)
    assert len(answer["forgotten"]) == 1 and answer["replicas"][0]["error"]
    assert host.json("prune", "--all-targets", code=10)["replicas"][0]["result"] is None
    (host.home / "away").rename(host.home / "offsite")
    (host.home / "first").rename(host.home / "away")
    for command in ("prune", "forget"):
        assert host.json(command, "--target", "offsite", code=1)["error"] in ("RepositoryMissing", "TargetError")
    (host.home / "first").mkdir()  # a mount point without its disk
    for command in ("prune", "forget"):
        assert host.json(command, "--target", "offsite", code=1)["error"] == "RepositoryMissing"
    assert points_in(host, "offsite") == made
    host.json("prune", "--target", "offsite", "--all-targets", code=2)
    host.json("forget", "--target", "elsewhere", code=2)


def points_in(host: Host, name: str) -> set[str]:
    return {path.name for path in (host.home / name / "points").iterdir()}


def test_what_is_forgotten_while_it_is_copied_does_not_arrive(store: Store, tmp_path: Path) -> None:
    point = store.backup(make(tmp_path / "tree", 1)).id
    replica = open_target(str(tmp_path / "replica"), create=True)
    source = store.target()

    class Forgetting:
        """The point is read for the last time, and deleted."""

        reads = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(source, name)

        def get(self, name: str) -> bytes:
            data = source.get(name)
            self.reads += name.startswith("points/")
            if self.reads == 2:
                source.delete(name)
            return data

    copied = Copied()
    bring_up_to_date(Forgetting(), replica, copied, NullProgress())
    assert (copied.points, copied.points_behind) == (0, 0)
    assert f"points/{point}" not in set(replica.list_prefix("points/"))


def test_another_repository_is_not_taken_for_a_replica(make_store: Callable[[str], Store], tmp_path: Path) -> None:
    one, other = make_store("one"), make_store("other")
    other.backup(make(tmp_path / "tree", 1))
    before = other.objects("")
    with pytest.raises(ForeignRepository):
        prune_at_replica(one.open(), other.open())
    with pytest.raises(ForeignRepository):
        forget_at_replica(one.open(), other.open(), keep_last(1))
    assert other.objects("") == before


# -- nothing grows ------------------------------------------------------------------------------------------------------


@pytest.fixture
def clocked(make_store: Callable[[str], Store]) -> Clocked:
    store = make_store("repository")
    return Clocked(store.directory, store.cache, store.host, store.operator, store.recovery)


def replica_of(store: Clocked, directory: Path) -> Clocked:
    """A replica with the same clock as the first target."""
    open_target(str(directory), create=True)
    return Clocked(directory, store.cache, store.host, store.operator, store.recovery)


def kinds(store: Clocked) -> Counter[str]:
    return Counter(name.partition("/")[0] for name in store.objects(""))


def test_after_months_of_daily_runs_there_are_as_many_objects_as_after_weeks(clocked: Clocked, tmp_path: Path) -> None:
    """At the first target and at a replica, with forget and prune and replication every day."""
    replica, root = replica_of(clocked, tmp_path / "replica"), tmp_path / "tree"
    counted: list[tuple[Counter[str], Counter[str]]] = []
    for day in range(45):
        clocked.backup(make(root, day, 40_000))
        replica.ahead_ns = clocked.ahead_ns
        copy(clocked.target(), replica.target())
        forget(clocked.open(), keep_last(3))
        prune(clocked.open(), memory=tmp_path / "memory")
        forget_at_replica(clocked.open(), replica.open(), keep_last(3))
        prune_at_replica(clocked.open(), replica.open(), memory=tmp_path / "memory-replica")
        pass_time(clocked, 24)
        counted.append((kinds(clocked), kinds(replica)))
    for which in (0, 1):
        early, late = (
            {kind: max(day[which][kind] for day in days) for kind in counted[-1][which]}
            for days in (counted[15:30], counted[30:45])
        )
        assert all(late[kind] <= early[kind] + 3 for kind in late), (early, late)
        assert late["sessions"] <= 20 and late.get("copies", 0) <= 4 and late["index"] <= 10 and late["receipts"] <= 6
        assert late["points"] <= 4
    for each in (clocked, replica):
        repository = each.open()
        assert verify(repository, repository.points(), read_data=True).good
    newest = replica.open().resolve()
    assert contents(replica.open(), newest.id) == on_disk(root)


def test_a_session_stays_while_a_pack_of_it_does_whatever_its_host_says(clocked: Clocked, tmp_path: Path) -> None:
    """An old point relies on packs of runs whose own points are long gone, and on nothing that the index says."""
    root = make(tmp_path / "tree", 0)
    (root / "constant").write_bytes(random.Random(1).randbytes(300_000))
    clocked.backup(root)
    for day in range(20):
        (root / "large").write_bytes(random.Random(day).randbytes(50_000))
        clocked.backup(root)
        pass_time(clocked, 24)
        forget(clocked.open(), keep_last(1))
        prune(clocked.open())
    assert len(clocked.objects("sessions/")) < 20
    shutil.rmtree(clocked.directory / "index")
    pass_time(clocked, 24 * 30)
    for _ in range(10):
        clocked.backup(root, cache=tmp_path / f"cache-{_}")
        pass_time(clocked, 24)
    pass_time(clocked, 24 * 30)
    clocked.backup(root)
    forget(clocked.open(), keep_last(1))
    for _ in range(3):
        pass_time(clocked, 26)
        prune(clocked.open())
    repository = Repository.open(clocked.target(), host=clocked.host, identity=clocked.operator)
    (point,) = repository.points()
    assert contents(repository, point.id) == on_disk(root)
    assert verify(repository, [point], read_data=True).good


def test_what_is_remembered_of_packs_saves_requests_and_is_not_believed_when_it_is_damaged(
    clocked: Clocked, tmp_path: Path
) -> None:
    """A pack that was said to be of another session would cost the key of its own."""
    memory, root = tmp_path / "memory", tmp_path / "tree"
    root.mkdir()
    for day in range(12):
        (root / f"stays-{day}").write_bytes(random.Random(day).randbytes(20_000))
        clocked.backup(root)
        pass_time(clocked, 24)
        forget(clocked.open(), keep_last(1))
        prune(clocked.open(), memory=memory)
    pass_time(clocked, 24 * 30)

    def headers_read() -> int:
        target = CrashingTarget(clocked.target())
        prune(clocked.open(target), memory=memory)
        needed = {pack.name for point in clocked.open().points() for pack in point.pack_references()}
        return sum(what.startswith("get packs/") and what[-64:] in needed for what in target.operations)

    assert headers_read() == 0
    data = bytearray(memory.read_bytes())
    for at in range(32, len(data) - 32, 48):
        data[at] ^= 1  # every pack is of a session that nobody has
    memory.write_bytes(data)
    assert headers_read() > 8
    assert headers_read() == 0
    memory.write_bytes(data[:-40])
    assert headers_read() > 8
    repository = Repository.open(clocked.target(), host=clocked.host, identity=clocked.operator)
    assert verify(repository, repository.points(), read_data=True).good
    assert contents(repository, repository.resolve().id) == on_disk(root)


def test_a_copy_note_stays_while_a_point_relies_on_it(clocked: Clocked, tmp_path: Path) -> None:
    first = clocked.backup(make(tmp_path / "tree", 1)).id
    note = put_copy_note(clocked.target(), clocked.open().id, ["ab" * 16, first])
    coming = put_copy_note(clocked.target(), clocked.open().id, ["cd" * 16])
    assert prune(clocked.open()).deleted_copy_notes == 0, "it may be of points that are on their way"
    pass_time(clocked, 26)
    put_clock(clocked.target(), clocked.host)
    report = prune(clocked.open())
    assert report.deleted_copy_notes == 2, "a receipt says by now what they said"
    assert not report.not_counting
    assert {note, coming}.isdisjoint(clocked.objects("copies/"))
