"""`repair` brings back what a replica has, by adding only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.engine.test_cli_replicas import write_policy
from tests.faults.faulty import Crash, CrashingTarget
from tests.faults.hostile import World, make_world, on_disk
from tests.unit.test_cli_json import assert_same_shape, documented
from tests.unit.test_cli_repository import Host, make_host
from trinity_snap.errors import TrinitySnapError
from trinity_snap.progress import NullProgress
from trinity_snap.repository.keys import Identity
from trinity_snap.repository.prune import prune
from trinity_snap.repository.repair import RepairReport, Source, repair
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.verify import verify
from trinity_snap.restore.write import write_and_check
from trinity_snap.targets import LocalTarget, Target

__all__ = ["make_host"]  # a fixture

KINDS = ("recipients", "sessions", "packs", "index", "points")


class Pair:
    """A repository, and a replica of it that is whole."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.replica = world.directory.with_name("replica")
        shutil.copytree(world.directory, self.replica)
        for kind in ("fences", "receipts"):
            shutil.rmtree(self.replica / kind, ignore_errors=True)

    def repair(self, *, dry_run: bool = False, target: Target | None = None, replica: bool = True) -> RepairReport:
        world = self.world
        first = Repository.open(target or world.target(), host=world.host, identity=world.identities[0])
        source = Repository.open(LocalTarget(self.replica), host=world.host, identity=world.identities[0])
        sources = [Source("offsite", source)] if replica else []
        return repair(first, sources, dry_run=dry_run, progress=NullProgress())

    def objects(self) -> dict[str, bytes]:
        """All that nobody may change: not receipts and fences, of which there may be more."""
        return {
            name: self.world.read(name) for name in self.world.names() if name[0] not in "rf" or name == "repository"
        }

    def check(self) -> None:
        """Every tree that was ever backed up comes back, from a point that can be read."""
        repository = self.world.open()
        readable = repository.points()
        report = verify(repository, readable, read_data=True)
        assert all(verdict.good for verdict in report.points)
        trees = [restored(repository, point.id, self.world.directory.with_name("restored")) for point in readable]
        for held in self.world.held.values():
            assert held in trees


def restored(repository: Repository, point_id: str, where: Path) -> dict[str, bytes]:
    point = repository.read_point(point_id)
    reader = repository.reader(point)
    (volume,) = point.volumes
    where.mkdir(exist_ok=True)
    holder = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
    try:
        result = write_and_check(
            reader, holder, b"tree", volume.name, lambda: reader.entries(volume), NullProgress(),
            devices=False, total=0, damaged_is_fatal=True,
        )  # fmt: skip
    finally:
        os.close(holder)
    assert not result.damaged
    tree = on_disk(where / "tree")
    shutil.rmtree(where)
    return tree


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, identities: tuple[Identity, Identity]) -> World:
    world = make_world(tmp_path_factory.mktemp("world"), 1, identities)
    prune(world.open())  # notes which points count
    return world


@pytest.fixture
def pair(original: World, tmp_path: Path) -> Pair:
    return Pair(original.copy(tmp_path, far=False))


def harm(world: World, name: str, how: str) -> None:
    data = world.read(name)
    half = len(data) // 2
    world.write(name, None if how == "missing" else data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :])


@pytest.mark.parametrize("how", ["missing", "damaged"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_single_object_is_repaired_and_nothing_else_is_touched(pair: Pair, kind: str, how: str) -> None:
    world = pair.world
    for name in world.names(kind)[:3]:
        harm(world, name, how)
        if kind == "packs" and how == "damaged":
            verify(world.open(), world.open().points(), read_data=True, record=True, condemn=True)
        before = pair.objects()
        planned = pair.repair(dry_run=True)
        assert pair.objects() == before
        report = pair.repair()
        after = pair.objects()
        assert before.items() <= after.items(), "something that was there was changed or removed"
        assert planned.brought_back == report.brought_back
        assert planned.stored_anew == report.stored_anew
        assert planned.recommitted.keys() == report.recommitted.keys()
        if how == "missing" and kind != "index":
            assert report.brought_back == {name: "offsite"}
            assert world.read(name) == (pair.replica / name).read_bytes()
        if (kind, how) == ("recipients", "damaged"):
            assert list(report.unrepaired) == [name], "what cannot be repaired is named"
        else:
            assert report.good, report
            pair.check()
        again = pair.repair()
        assert pair.objects() == after, "done twice"
        assert again.indexed_packs == again.bytes_stored == 0
        world.write(name, (pair.replica / name).read_bytes())


def test_prune_removes_damaged_index_objects_once_repair_has_made_up_for_them(pair: Pair) -> None:
    world = pair.world
    name = world.names("index")[0]
    harm(world, name, "damaged")
    prune(world.open())
    assert name in world.names("index"), "nothing else says what it said"
    assert pair.repair(replica=False).indexed_packs > 0
    prune(world.open())
    assert name not in world.names("index")
    assert verify(world.open(), world.open().points(), read_data=True).good


def test_the_command_takes_from_the_replicas_of_the_policy(make_host: Callable[[str], Host]) -> None:
    host = make_host("host")
    host.policy.parent.mkdir()
    (host.home / "copy").mkdir(mode=0o700)
    write_policy(host, {"name": "copy", "url": str(host.home / "copy")})
    host.json("init", "--target", str(host.home / "first"))
    host.back_up()
    assert host.json("replicate")["replicas"][0]["outcome"] == "done"
    assert "Nothing needs repair" in host.text("repair")
    packs = sorted((host.home / "first" / "packs").glob("*/*"))
    packs[0].unlink()
    assert host.json("verify", code=90)["good"] is False
    planned = host.json("repair", "--dry-run")
    assert_same_shape(planned, documented("repair"))
    assert [one["from"] for one in planned["brought_back"]] == ["copy"]
    assert not packs[0].exists()
    assert host.json("repair", "--from", "copy") == {
        **planned,
        "dry_run": False,
        "bytes_stored": packs[0].stat().st_size,
    }
    assert host.json("verify", "--read-data")["good"]
    packs[0].unlink()
    (host.home / "copy" / "repository").unlink()
    answer = host.json("repair", code=90)
    assert [one["name"] for one in answer["unrepaired"]] == [f"packs/{packs[0].parent.name}/{packs[0].name}"]
    assert "copy" in answer["notes"][0]


def test_without_a_replica_what_is_lost_is_named_and_the_index_is_rebuilt(pair: Pair) -> None:
    world = pair.world
    lost = world.names("packs")[0]
    packs = len(world.names("packs"))
    for name in [lost, *world.names("index")]:
        world.write(name, None)
    report = pair.repair(replica=False)
    assert list(report.unrepaired) == [lost]
    assert report.indexed_packs == packs - 1
    covered = world.names("index")
    shutil.rmtree(world.cache)
    before = world.names("packs")
    committed = world.backup("two")
    assert len(world.names("packs")) <= len(before) + 2, "the index that was rebuilt is not used"
    assert len(world.names("index")) >= len(covered)
    world.note("two", committed)
    assert world.restore(committed.id, world.directory.with_name("restored")) == set()


def test_a_repair_that_is_killed_anywhere_is_done_again(original: World, tmp_path: Path) -> None:
    (tmp_path / "count").mkdir()
    counting = Pair(original.copy(tmp_path / "count", far=False))
    spoil_much(counting.world)
    counter = CrashingTarget(counting.world.target())
    counting.repair(target=counter)
    puts = [number for number, what in enumerate(counter.operations) if what.startswith("put")]
    assert len(puts) > 5
    for number in puts:
        for after in (False, True):
            where = tmp_path / f"{number}-{after}"
            where.mkdir()
            pair = Pair(original.copy(where, far=False))
            spoil_much(pair.world)
            before = pair.objects()
            with suppress(
                Crash, TrinitySnapError
            ):  # how much is put depends on chance: the last crash may come too late
                pair.repair(target=CrashingTarget(pair.world.target(), number, after))
            assert before.items() <= pair.objects().items()
            done = pair.repair()
            assert done.good, (done.unrepaired, done.brought_back, done.stored_anew, done.recommitted)
            pair.check()
            shutil.rmtree(where)


def spoil_much(world: World) -> None:
    """A pack is missing, another is damaged and noted, a session is damaged, a point is gone."""
    packs = world.names("packs")
    harm(world, packs[0], "missing")
    harm(world, packs[1], "damaged")
    verify(world.open(), world.open().points(), read_data=True, record=True, condemn=True)
    harm(world, world.names("sessions")[0], "damaged")
    harm(world, world.names("points")[0], "missing")
