"""A host that was taken over writes what it likes, with its own keys: earlier points neither change nor become unreadable.

It may add objects and replace none, as in a bucket with the rights of `target policy`; what it deletes where it may is what a
hostile storage does, too (test_hostile_storage.py).
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.faults.hostile import World, make_world, on_disk
from trinity_snap.backup.engine import AgentPoint, Engine, SourceSpec
from trinity_snap.errors import IntegrityError
from trinity_snap.repository.documents import created_now, sign_document, to_base64
from trinity_snap.repository.identity import save_identity
from trinity_snap.repository.keys import Identity, generate_identity
from trinity_snap.repository.packs import PackBuilder, Segment, Table, pack_name
from trinity_snap.repository.points import RecoveryPoint, encode_pack_references, seal_point
from trinity_snap.repository.recipients import (
    _seal_history,
    add_recipient,
    current_recipients,
    recipient_entries,
    seal_session,
    session_histories,
)
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.sealed import INDEX_MAGIC, POINT_MAGIC, new_header, seal_object
from trinity_snap.repository.segments import as_stored, encode_segment
from trinity_snap.repository.session import read_index
from trinity_snap.repository.verify import verify
from trinity_snap.snapshot.view import DirectoryView

READER = Path(__file__).resolve().parents[2] / "scripts" / "read_repository.py"


class Hostile:
    """Somebody with a host's key, and the right to add objects."""

    def __init__(self, world: World, seed: str) -> None:
        self.world, self.host, self.source = world, world.host, random.Random(seed)
        self.session_id, self.key = os.urandom(16), os.urandom(32)
        recipients = current_recipients(world.target(), self.host).recipients
        sealed = seal_session(self.key, self.host.repository_id, self.session_id, recipients, self.host.mac_key)
        assert self.add(f"sessions/{self.session_id.hex()}", sealed)

    def add(self, name: str, data: bytes) -> bool:
        return self.world.target().put_if_absent(name, data)

    def new(self, kind: str) -> str:
        return f"{kind}/{os.urandom(16).hex()}"

    def add_index(self, packs: list[tuple[bytes, int, Table]]) -> None:
        """An object of the index that says what it likes, sealed as it should be."""
        name = self.new("index")
        header = new_header(INDEX_MAGIC, self.host.repository_id, self.session_id)
        assert self.add(name, seal_object(header, self.host.index_key, name, msgspec.msgpack.encode(packs)))

    def add_pack(self, chunks: list[tuple[bytes, bytes]]) -> tuple[bytes, int, Table]:
        """A pack that says of each of its chunks (id, data) what it likes."""
        builder = PackBuilder(self.host.repository_id, self.session_id, self.key)
        for chunk_id, data in chunks:
            builder.add(encode_segment(as_stored(data)), chunk_id, [len(data)])
        sealed = builder.finish()
        assert sealed is not None
        assert self.add(sealed.name, bytes(sealed.data))
        return sealed.digest, len(sealed.data), sealed.table

    def add_point(self, like: RecoveryPoint, point_id: str | None = None, **changes: object) -> tuple[str, bool]:
        """A point that says what it likes. Return its id, and whether the storage took it."""
        new_id = point_id or os.urandom(16).hex()
        header = new_header(POINT_MAGIC, self.host.repository_id, self.session_id)
        point = msgspec.structs.replace(like, id=new_id, session_id=self.session_id, **changes)
        return new_id, self.add(f"points/{new_id}", seal_point(point, header, self.key, self.host.mac_key))

    def tables(self) -> dict[bytes, tuple[int, Table]]:
        """What the index says of every pack: a host can read that."""
        found = {}
        for name in self.world.names("index"):
            for pack in read_index(self.world.read(name), self.host, name):
                found[pack.digest] = (pack.length, pack.table)
        return found


def forged_tables(hostile: Hostile) -> None:
    """Of every pack that is there: the ids of its chunks in another order, many times over."""
    for _ in range(3):
        packs = []
        for digest, (length, table) in hostile.tables().items():
            ids = [segment.ids for segment in table]
            hostile.source.shuffle(ids)
            lengths = {segment.ids: segment.lengths for segment in table}
            packs.append(
                (digest, length, [Segment(one.sealed_length, i, lengths[i]) for one, i in zip(table, ids, strict=True)])
            )
        hostile.add_index(packs)


def chunks_elsewhere(hostile: Hostile) -> None:
    """Packs that claim to hold the chunks of earlier points, and hold something else."""
    ids = [segment.ids[:32] for _, table in hostile.tables().values() for segment in table]
    hostile.add_index([hostile.add_pack([(chunk_id, b"other data") for chunk_id in ids])])


def points_of_others(hostile: Hostile) -> None:
    """Points for both agents, newer and older than all others, with and without what they name."""
    points = hostile.world.open().points()
    for point in points:
        hostile.add_point(point, created_ns=point.created_ns + 10**15)
        hostile.add_point(point, created_ns=1, packs=b"")
        hostile.add_point(point, packs=encode_pack_references([(os.urandom(32), 10**12)]))
        hostile.add_point(point, agent="../../etc", host="another host")


def lists_of_recipients(hostile: Hostile) -> None:
    """Lists that shut everybody out, that give everybody a false history or garbage, of any generation."""
    stranger, world = generate_identity("stranger").recipient, hostile.world
    everybody = current_recipients(world.target(), hostile.host).recipients
    sessions = [bytes.fromhex(name.split("/")[1]) for name in world.names("sessions")]
    shut_out = recipient_entries(hostile.host, [stranger])
    false = recipient_entries(hostile.host, everybody)
    garbage = recipient_entries(hostile.host, everybody)
    for entry, recipient in zip(false, everybody, strict=True):
        keys = {session: os.urandom(32) for session in sessions}
        entry["history"] = to_base64(_seal_history(keys, hostile.host.repository_id, recipient))
    for entry in garbage:
        entry["history"] = to_base64(os.urandom(2000))
    for generation in (0, 1, 1 << 20):
        for entries in (shut_out, false, garbage):
            payload = {
                "id": hostile.host.repository_id.hex(), "created": created_now(),
                "generation": generation, "recipients": entries,
            }  # fmt: skip
            assert hostile.add(hostile.new("recipients"), sign_document("recipients", payload, hostile.host.mac_key))


def garbage_under_valid_names(hostile: Hostile) -> None:
    for kind in ("points", "sessions", "index", "recipients", "receipts"):
        for length in (0, 1, 72, 5000):
            assert hostile.add(hostile.new(kind), hostile.source.randbytes(length))
    for length in (0, 5000):
        assert hostile.add(pack_name(os.urandom(32).hex()), hostile.source.randbytes(length))
    header = new_header(INDEX_MAGIC, hostile.host.repository_id, hostile.session_id)
    for body in (
        b"",
        b"\xc1",
        b"\x91" * 5000,
        msgspec.msgpack.encode([[b"x" * 32, -1, [[1 << 60, b"y" * 32, [1 << 60]]]]]),
    ):
        name = hostile.new("index")
        hostile.add(name, seal_object(header, hostile.host.index_key, name, body))


ACTS: list[Callable[[Hostile], None]] = [
    forged_tables,
    chunks_elsewhere,
    points_of_others,
    lists_of_recipients,
    garbage_under_valid_names,
]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, identities: tuple[Identity, Identity]) -> tuple[World, Identity]:
    """A repository, and somebody who became a recipient after all of its points were made."""
    world = make_world(tmp_path_factory.mktemp("world"), 3, identities)
    late = generate_identity("late")
    add_recipient(world.target(), world.host, identities[0], late.recipient)
    return world, late


def honest_points_are_whole(world: World, honest: World, where: Path) -> None:
    repository = world.open()
    points = {point.id: point for point in repository.points()}
    assert honest.held.keys() <= points.keys()
    report = verify(repository, list(points.values()), read_data=True)
    verdicts = {verdict.id: verdict.good for verdict in report.points}
    assert all(verdicts[point_id] for point_id in honest.held)
    for point_id in honest.held:
        assert world.restore(point_id, where) == set()


@pytest.mark.parametrize("who", ["operator", "recovery", "late"])
@pytest.mark.parametrize("far", [False, True], ids=["directory", "bucket"])
@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__.replace("_", " "))
def test_earlier_points_stay_as_they_were_whatever_their_host_adds(
    ours: tuple[World, Identity], tmp_path: Path, act: Callable[[Hostile], None], far: bool, who: str
) -> None:
    honest, late = ours
    world = honest.copy(tmp_path, far=far)
    identity = {"operator": world.identities[0], "recovery": world.identities[1], "late": late}[who]
    world.identities = (identity, world.identities[1])
    act(Hostile(world, f"{act.__name__} {far}"))
    honest_points_are_whole(world, honest, tmp_path / "restored")


def test_everything_at_once(ours: tuple[World, Identity], tmp_path: Path) -> None:
    honest, late = ours
    world = honest.copy(tmp_path, far=True)
    hostile = Hostile(world, "everything")
    for act in ACTS:
        act(hostile)
    for identity in (late, *world.identities):
        world.identities = (identity, world.identities[1])
        honest_points_are_whole(world, honest, tmp_path / "restored")


@pytest.mark.parametrize("who", ["operator", "late"])
def test_the_independent_reader_is_not_misled_either(ours: tuple[World, Identity], tmp_path: Path, who: str) -> None:
    honest, late = ours
    world = honest.copy(tmp_path, far=False)
    hostile = Hostile(world, "reader")
    for act in ACTS:
        act(hostile)
    key = tmp_path / "identity.key"
    save_identity(key, late if who == "late" else world.identities[0], who)
    for point_id, held in honest.held.items():
        out = tmp_path / f"out-{point_id[:8]}"
        command = [
            sys.executable,
            "-I",
            str(READER),
            str(world.directory),
            "--identity",
            str(key),
            "restore",
            point_id,
            str(out),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        (volume,) = out.iterdir()
        assert on_disk(volume) == held, done.stderr


def test_a_name_that_is_taken_stays_what_it_is(ours: tuple[World, Identity], tmp_path: Path) -> None:
    honest, _ = ours
    world = honest.copy(tmp_path, far=False)
    hostile = Hostile(world, "names")
    (point, *_) = world.open().points()
    assert hostile.add_point(point, point.id) == (point.id, False)
    for name in world.names():
        before = world.read(name)
        assert not hostile.add(name, b"something else")
        assert world.read(name) == before


def test_a_forged_point_gives_data_of_earlier_ones_or_nothing_but_never_other_data(
    ours: tuple[World, Identity], tmp_path: Path
) -> None:
    """It names the manifest of a real point, and packs that lie about what they hold."""
    honest, _ = ours
    world = honest.copy(tmp_path, far=False)
    hostile = Hostile(world, "lies")
    (point, *_) = world.open().points("one")
    packs = {bytes.fromhex(reference.name): reference.length for reference in point.pack_references()}
    ids = [segment.ids[:32] for digest, (_, table) in hostile.tables().items() if digest in packs for segment in table]
    digest, length, table = hostile.add_pack([(chunk_id, b"other data") for chunk_id in ids])
    hostile.add_index([(digest, length, table)])
    liar, taken = hostile.add_point(point, packs=encode_pack_references([*packs.items(), (digest, length)]))
    assert taken
    world.held[liar], world.agents[liar] = world.held[point.id], "one"
    try:
        refused = world.restore(liar, tmp_path / "restored")  # compares all that it gives with the real point
    except IntegrityError:
        refused = {"all of it"}
    report = verify(world.open(), world.open().points(), read_data=True)
    verdicts = {verdict.id: verdict.good for verdict in report.points}
    assert verdicts[liar] is not bool(refused)
    assert all(verdicts[point_id] for point_id in honest.held)
    assert pack_name(digest.hex()) in report.damaged_objects


def test_an_honest_run_after_it_goes_on_and_earlier_points_stay_whole(
    ours: tuple[World, Identity], tmp_path: Path
) -> None:
    """What it stores may rely on what the intruder claimed, which verify finds; all that was there before is whole."""
    honest, _ = ours
    world = honest.copy(tmp_path, far=True)
    chunks_elsewhere(Hostile(world, "after"))
    committed = world.backup("one")
    world.note("one", committed)
    honest_points_are_whole(world, honest, tmp_path / "restored")
    try:
        refused = world.restore(committed.id, tmp_path / "restored")
    except IntegrityError:
        refused = {"all of it"}
    report = verify(world.open(), world.open().points(), read_data=True)
    assert {verdict.id: verdict.good for verdict in report.points}[committed.id] is not bool(refused)


def test_the_histories_of_forged_lists_are_told_from_true_ones(ours: tuple[World, Identity], tmp_path: Path) -> None:
    honest, late = ours
    world = honest.copy(tmp_path, far=False)
    lists_of_recipients(Hostile(world, "histories"))
    histories = session_histories(world.target(), world.host, late)
    assert any(len(keys) > 1 for keys in histories.values())
    repository = Repository.open(world.target(), host=world.host, identity=late)
    assert {point.id for point in repository.points()} == set(honest.held)


def test_points_of_an_intruder_are_points_of_that_host(ours: tuple[World, Identity], tmp_path: Path) -> None:
    """What cannot be prevented: whoever has the host's key makes points that look genuine, with any content and date."""
    honest, _ = ours
    world = honest.copy(tmp_path, far=False)
    (world.trees / "forged").mkdir()
    (world.trees / "forged" / "file").write_bytes(b"content of the intruder")
    with Engine(Repository.open(world.target(), host=world.host), tmp_path / "elsewhere") as engine:
        shipped = engine.ship(SourceSpec("one"), DirectoryView(world.trees / "forged"), 0)
        made = engine.commit(AgentPoint("one", "local", "0" * 32, 1, "none", "x", "x"), [(SourceSpec("one"), shipped)])
    world.held[made.id], world.agents[made.id] = on_disk(world.trees / "forged"), "one"
    assert world.restore(made.id, tmp_path / "restored") == set()
    honest_points_are_whole(world, honest, tmp_path / "restored")
