"""Every kind of object, in every hostile way: what is affected is named, nothing else is, and nothing forged comes out."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.hostile import KINDS, World, fill, make_world
from trinity_snap.errors import IntegrityError, RepositoryError, TrinitySnapError, WrongKey
from trinity_snap.report.status import assemble
from trinity_snap.repository.documents import sign_document
from trinity_snap.repository.keys import HostSecret, Identity
from trinity_snap.repository.packs import pack_name
from trinity_snap.repository.recipients import recipient_entries, seal_session
from trinity_snap.repository.sealed import INDEX_MAGIC, PACK_MAGIC, POINT_MAGIC, new_header, seal_object
from trinity_snap.repository.verify import VerifyReport, verify

Act = Callable[[World, World, str, random.Random], None]
"""Does something to an object of the first world; the second is another host's repository for the same people."""


def altered(change: Callable[[bytes, random.Random], bytes]) -> Act:
    return lambda world, other, name, source: world.write(name, change(world.read(name), source))


def flipped(begin: float, end: float) -> Act:
    def change(data: bytes, source: random.Random) -> bytes:
        at = source.randrange(int(begin * len(data)), max(1, int(end * len(data))))
        return data[:at] + bytes([data[at] ^ 1 << source.randrange(8)]) + data[at + 1 :]

    return altered(change)


def another_of_its_kind(world: World, other: World, name: str, source: random.Random) -> None:
    others = [one for one in world.names(name.split("/")[0]) if one != name]
    world.write(name, world.read(source.choice(others or world.names("points"))))


def sibling(world: World, other: World, name: str, source: random.Random) -> None:
    """A pack of the same session, if there is one: all its keys fit."""
    if not name.startswith("packs/"):
        another_of_its_kind(world, other, name, source)
        return
    mine = world.read(name)[:40]
    siblings = [one for one in world.names("packs") if one != name and world.read(one)[:40] == mine]
    world.write(name, world.read(source.choice(siblings)) if siblings else b"")


def another_kind(world: World, other: World, name: str, source: random.Random) -> None:
    world.write(
        name, world.read(source.choice([one for one in world.names() if one.split("/")[0] != name.split("/")[0]]))
    )


def another_repository(world: World, other: World, name: str, source: random.Random) -> None:
    world.write(name, other.read(source.choice(other.names(name.split("/")[0]))))


STORAGE: dict[str, Act] = {
    "flipped at the front": flipped(0.0, 0.05),
    "flipped in the middle": flipped(0.05, 0.95),
    "flipped at the end": flipped(0.95, 1.0),
    "another format in its header": altered(lambda data, source: data[:7] + b"\x02" + data[8:]),
    "another repository in its header": altered(lambda data, source: data[:8] + source.randbytes(16) + data[24:]),
    "another session in its header": altered(lambda data, source: data[:24] + source.randbytes(16) + data[40:]),
    "another salt in its header": altered(lambda data, source: data[:40] + source.randbytes(32) + data[72:]),
    "truncated": altered(lambda data, source: data[: source.randrange(1, len(data))]),
    "one byte short": altered(lambda data, source: data[:-1]),
    "emptied": altered(lambda data, source: b""),
    "extended": altered(lambda data, source: data + source.randbytes(source.randrange(1, 5000))),
    "doubled": altered(lambda data, source: data + data),
    "withheld": lambda world, other, name, source: world.write(name, None),
    "random": altered(lambda data, source: source.randbytes(len(data))),
    "another of its kind": another_of_its_kind,
    "a sibling": sibling,
    "another kind": another_kind,
    "of another repository": another_repository,
}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory, identities: tuple[Identity, Identity]) -> tuple[World, World]:
    where = tmp_path_factory.mktemp("worlds")
    return make_world(where / "ours", 1, identities), make_world(where / "theirs", 2, identities)


@dataclass(frozen=True)
class Outcome:
    """What came of a hostile act: verify's report, and of every point the paths refused, None if it is wholly."""

    report: VerifyReport
    restored: dict[str, set[str] | None]

    @property
    def bad(self) -> set[str]:
        """The points that verify does not call good."""
        unreadable = {point_id for point_id, _ in self.report.unreadable}
        return unreadable | {verdict.id for verdict in self.report.points if not verdict.good}

    @property
    def lost(self) -> set[str]:
        """The points of which something cannot be restored."""
        return {point_id for point_id, refused in self.restored.items() if refused != set()}

    @property
    def named(self) -> str:
        """All that the report says."""
        problems = [problem for verdict in self.report.points for problem in verdict.problems]
        reasons = [f"points/{point_id}: {reason}" for point_id, reason in self.report.unreadable]
        return "\n".join([*map(str, self.report.damaged_objects), *problems, *reasons])


def look(world: World, where: Path) -> Outcome:
    repository = world.open()
    points = repository.points()
    assert {point.id for point in points} <= world.held.keys(), "a point that nobody made"
    return Outcome(verify(repository, points, read_data=True), world.restorable(where))


def check(world: World, name: str, act: str, where: Path) -> None:
    """What one harmed object may cost, and what has to be said about it."""
    outcome = look(world, where)
    needed_by = world.needs.get(name, set())
    missing = world.held.keys() - {point.id for point in outcome.report.points} - {
        point_id for point_id, _ in outcome.report.unreadable
    }  # fmt: skip
    if name.startswith("points/") and act == "withheld":
        assert missing == {name.removeprefix("points/")} == outcome.lost
        return
    assert not missing
    assert outcome.bad >= outcome.lost, (name, act, outcome.named)
    if not name.startswith("packs/"):  # the index may say where things are in a pack whose own table is lost
        assert outcome.bad == outcome.lost, (name, act, outcome.named)
    assert outcome.bad <= needed_by, (name, act, outcome.named)
    if not name.startswith("packs/"):  # of a pack, a part may do no harm to a point
        assert outcome.bad == needed_by, (name, act, outcome.named)
    if name.split("/")[0] in ("index", "recipients") and act == "withheld":
        return  # nothing says that it was there, and nothing that is there needs it
    if act in ("another of its kind", "a sibling") and name.startswith("recipients/"):
        return  # a list that is there twice says nothing else
    assert not outcome.report.good
    assert name in outcome.named, (name, act, outcome.named)
    for other in [one for one in world.names() if one != name and not one.startswith("points/")]:
        assert other not in outcome.report.damaged_objects, (name, act, other)


def lacks_no_more(after: set[str] | None, before: set[str] | None) -> bool:
    return before is None or (after is not None and after <= before)


def go_on(world: World, name: str, act: str, where: Path, *, cold: bool) -> None:
    """The next run of the host makes a point, and no other point suffers from it."""
    before = world.restorable(where)
    if cold:
        shutil.rmtree(world.cache)
    fill(world.trees / "one", random.Random(99), range(5, 12))
    committed = world.backup("one")
    after = world.restorable(where)
    if name.startswith("packs/"):  # what the run has stored anew stands in for what older points lack
        assert after.keys() == before.keys(), (name, act)
        assert all(lacks_no_more(after[point], before[point]) for point in before), (name, act)
    else:
        assert after == before, (name, act)
    world.note("one", committed)
    try:
        refused = world.restore(committed.id, where)
    except TrinitySnapError:
        refused = {"all of it"}
    if refused:
        # A host cannot read packs: it goes on relying on one that was altered, until verify has named it.
        assert name.startswith(("packs/", "sessions/")), (name, act, refused)
        report = verify(world.open(), world.open().points(), read_data=True)
        assert committed.id in {verdict.id for verdict in report.points if not verdict.good}
        if name.startswith("packs/"):
            assert name in report.damaged_objects
            world.write(name, None)  # what is to be done about it
            again = world.backup("one")
            world.note("one", again)
            assert world.restore(again.id, where) == set()


@pytest.mark.parametrize("act", STORAGE)
def test_without_its_first_object_a_repository_is_opened_by_nobody_and_written_by_nobody(
    worlds: tuple[World, World], tmp_path: Path, act: str
) -> None:
    ours, theirs = worlds
    world = ours.copy(tmp_path, far=False)
    original, rest = world.read("repository"), {name: world.read(name) for name in world.names()[:-1]}
    STORAGE[act](world, theirs, "repository", random.Random(act))
    for use in (world.open, lambda: world.backup("one")):
        with pytest.raises(
            (IntegrityError, RepositoryError, WrongKey), match=r"There is no repository at|`repository`|not the one"
        ) as error:
            use()
        assert error.value.next_step
    world.write("repository", original)
    assert {name: world.read(name) for name in world.names()[:-1]} == rest
    assert all(refused == set() for refused in world.restorable(tmp_path / "restored").values())


@pytest.mark.parametrize("far", [False, True], ids=["directory", "bucket"])
@pytest.mark.parametrize("act", STORAGE)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "repository"])
def test_what_a_hostile_storage_does_to_an_object_is_named_and_harms_nothing_else(
    worlds: tuple[World, World], tmp_path: Path, kind: str, act: str, far: bool
) -> None:
    ours, theirs = worlds
    source = random.Random(f"{kind} {act} {far}")
    world = ours.copy(tmp_path, far=far)
    name = source.choice(world.names(kind))
    STORAGE[act](world, theirs, name, source)
    check(world, name, act, tmp_path / "restored")
    go_on(world, name, act, tmp_path / "restored", cold=source.random() < 0.5)


# -- objects that nobody stored -------------------------------------------------------------------------------------


def new_name(kind: str, source: random.Random) -> str:
    return pack_name(source.randbytes(32).hex()) if kind == "packs" else f"{kind}/{source.randbytes(16).hex()}"


def sealed_by_a_forger(world: World, other: World, kind: str, source: random.Random) -> bytes:
    """Well formed, for this repository and its recipients, by somebody who has no key of the host."""
    forger = HostSecret(source.randbytes(32), world.host.repository_id)
    session, key = source.randbytes(16), source.randbytes(32)
    recipients = [identity.recipient for identity in world.identities]
    if kind == "sessions":
        return seal_session(key, forger.repository_id, session, recipients, forger.mac_key)
    if kind == "recipients":
        entries = recipient_entries(forger, recipients)
        payload = {"id": forger.repository_id.hex(), "created": "now", "generation": 99, "recipients": entries}
        return sign_document("recipients", payload, forger.mac_key)
    magic = {"packs": PACK_MAGIC, "index": INDEX_MAGIC, "points": POINT_MAGIC}[kind]
    return seal_object(new_header(magic, forger.repository_id, session), key, new_name(kind, source), b"forged")


INVENTED: dict[str, Callable[[World, World, str, random.Random], bytes]] = {
    "random bytes": lambda world, other, kind, source: source.randbytes(3000),
    "nothing": lambda world, other, kind, source: b"",
    "a copy of what is there": lambda world, other, kind, source: world.read(source.choice(world.names(kind))),
    "another repository's": lambda world, other, kind, source: other.read(source.choice(other.names(kind))),
    "another kind": lambda world, other, kind, source: world.read(
        source.choice([one for one in world.names() if not one.startswith(kind)])
    ),
    "sealed by a forger": sealed_by_a_forger,
}


@pytest.mark.parametrize("far", [False, True], ids=["directory", "bucket"])
@pytest.mark.parametrize("what", INVENTED)
def test_objects_that_nobody_stored_are_never_restored_and_stop_nobody(
    worlds: tuple[World, World], tmp_path: Path, what: str, far: bool
) -> None:
    ours, theirs = worlds
    source = random.Random(f"{what} {far}")
    world = ours.copy(tmp_path, far=far)
    invented: dict[str, str] = {}
    for kind in KINDS[1:]:
        data = INVENTED[what](world, theirs, kind, source)
        invented[kind] = new_name(kind, source)
        world.write(invented[kind], data)
    outcome = look(world, tmp_path / "restored")
    assert outcome.lost == set()
    assert [point_id for point_id, _ in outcome.report.unreadable] == [invented["points"].removeprefix("points/")]
    assert all(verdict.good for verdict in outcome.report.points)
    # A list of recipients that is there twice says nothing new; what no point names harms nobody.
    expected = {invented["index"]} | ({invented["recipients"]} if what != "a copy of what is there" else set())
    assert set(outcome.report.damaged_objects) == expected
    shutil.rmtree(world.cache)
    committed = world.backup("one")
    world.note("one", committed)
    assert world.restore(committed.id, tmp_path / "restored") == set()


def test_what_another_host_stored_is_not_taken_for_ours_even_under_our_name(
    worlds: tuple[World, World], tmp_path: Path
) -> None:
    """The whole of another repository, with the same people's keys, is put in the place of ours."""
    ours, theirs = worlds
    world = ours.copy(tmp_path, far=False)
    shutil.rmtree(world.directory)
    shutil.copytree(theirs.directory, world.directory)
    for use in (world.open, lambda: world.backup("one")):
        with pytest.raises(RepositoryError, match="is not the one that this host's key belongs to"):
            use()
    shutil.rmtree(world.directory)
    shutil.copytree(ours.directory, world.directory)
    for name in theirs.names():
        if name != "repository":
            world.write(name, theirs.read(name))
    outcome = look(world, tmp_path / "restored")
    assert outcome.lost == set()
    assert {point_id for point_id, _ in outcome.report.unreadable} == set(theirs.held)


# -- going back in time ---------------------------------------------------------------------------------------------


def test_a_repository_as_it_was_is_whole_and_only_memory_tells_that_it_is_old(
    worlds: tuple[World, World], tmp_path: Path
) -> None:
    """Withheld points cannot be seen from the repository; the host's own record and the age tell (`status`)."""
    ours, _ = worlds
    world = ours.copy(tmp_path, far=False)
    newer = world.backup("two")
    world.note("two", newer)
    then = {name: ours.read(name) for name in ours.names()}
    for name in world.names():
        if name not in then:
            world.write(name, None)
    repository = world.open()
    points = repository.points()
    assert verify(repository, points, read_data=True).good
    run = {"run_id": "x", "started": "2026-11-23T12:00:00+00:00", "agents": [{"agent": "two", "point": newer.id}]}
    for seen in (points, None):
        status = assemble([run], points=seen, point_ids=[point.id for point in points])
        (agent,) = [agent for agent in status.agents if agent.agent == "two"]
        assert any("is not in the repository" in warning for warning in agent.warnings)
    # The host goes on: it believes nothing of its caches that the repository no longer has.
    again = world.backup("two")
    world.note("two", again)
    del world.held[newer.id]
    assert all(refused == set() for refused in world.restorable(tmp_path / "restored").values())
    assert len(world.held) == 5


@pytest.mark.parametrize("kind", ["points", "packs", "index", "sessions", "recipients"])
def test_a_whole_kind_withheld_costs_what_needs_it_and_the_next_run_makes_a_whole_point(
    worlds: tuple[World, World], tmp_path: Path, kind: str
) -> None:
    ours, _ = worlds
    world = ours.copy(tmp_path, far=True)
    for name in world.names(kind):
        world.write(name, None)
    outcome = look(world, tmp_path / "restored")
    if kind in ("index", "recipients"):
        assert outcome.lost == set() == outcome.bad
        assert outcome.report.good
    elif kind == "points":
        assert outcome.report.points == [] == outcome.report.unreadable
    else:
        assert outcome.bad == outcome.lost == set(world.held)
    before = dict(world.held)
    committed = world.backup("one")
    world.held = {}
    world.note("one", committed)
    if kind == "sessions":
        # Packs are there, and the host cannot see that nobody can open them any more.
        assert committed.id in look(world, tmp_path / "restored").bad
        return
    assert world.restore(committed.id, tmp_path / "restored") == set()
    assert before
