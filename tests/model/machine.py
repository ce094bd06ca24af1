"""The state machine: writers, prunes, hostile writers and accidents, and what must hold after every step."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from tests.model.storage import Actor, Operation, Storage
from trinity_snap.backup.engine import AgentPoint, Engine, SourceSpec
from trinity_snap.backup.shipper import Shipped
from trinity_snap.errors import IntegrityError, RemovalRefused, RepositoryError, SessionDamaged
from trinity_snap.repository import prune as prune_module
from trinity_snap.repository import repack as repack_module
from trinity_snap.repository.fences import put_fence, read_fence
from trinity_snap.repository.keys import (
    HostSecret,
    Identity,
    generate_host_secret,
    generate_identity,
    generate_session_key,
)
from trinity_snap.repository.lease import LEASE
from trinity_snap.repository.packs import pack_name
from trinity_snap.repository.points import RecoveryPoint, Repacked, Volume, encode_pack_references, seal_point
from trinity_snap.repository.reader import PointReader
from trinity_snap.repository.receipts import put_checks, put_forgotten, put_points, read_receipts
from trinity_snap.repository.recipients import seal_session
from trinity_snap.repository.repack_plan import RepackWish
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.sealed import POINT_MAGIC, new_header
from trinity_snap.snapshot.view import DirectoryView

IDENTITY: Identity = generate_identity("model")
HOST: HostSecret = generate_host_secret()
TREES = ["a", "a", "ab", "b", "c", "ac"]
PLACES = ["put sessions/", "list fences/", "list packs/", "put packs/", "put points/", "put points/"]
REPACK_PLACES = ["put packs/", "put points/", "put points/", "list points/", "put receipts/", "delete points/"]
PRUNE_PLACES = ["put receipts/", "delete packs/", "delete packs/", "put fences/", "delete fences/"]
MINUTE_NS = 60 * 10**9
WAITS = {
    "a minute": MINUTE_NS,
    "half a lease": LEASE.lease_ns // 2,
    "nearly a lease": LEASE.lease_ns - MINUTE_NS,
    "lease and margin": LEASE.wait_ns + MINUTE_NS,
    "two leases": 2 * LEASE.wait_ns,
}
STATES = ["needed", "not needed", "fenced", "due", "relied on", "relied on, fenced", "relied on, due"]
HAPPENED: Counter[str] = Counter()
"""How often what happened, over all machines: a test can show that nothing was left out."""

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Machine(RuleBasedStateMachine):
    """See the module's docstring."""

    @initialize(
        state=st.sampled_from(STATES),
        ending=st.sampled_from(["killed", "runs first", "prunes first"]),
    )
    def begin(self, state: str, ending: str) -> None:
        """`state` is what became of an old pack, `ending` how what is under way ends.

        No point needs it any more, and it is fenced, since a moment or long enough; a run that is about to commit relies on it.
        """
        self.ending = ending
        self.directory = Path(tempfile.mkdtemp(prefix="model-", dir=MEMORY))
        HAPPENED["machines"] += 1
        self.storage = Storage()
        Repository.create(self.storage, HOST, [IDENTITY.recipient])
        self.trusted = Repository(self.storage, HOST, IDENTITY)
        self.writers: list[Actor] = []
        self.prunes: list[Actor] = []
        self.late: list[Operation] = []
        self.points: dict[str, frozenset[bytes]] = {}
        self.sessions: dict[str, str] = {}
        self.lineages: dict[str, str] = {}
        self.trees: dict[str, str] = {}
        self.forgotten: set[str] = set()
        self.committed: set[str] = set()
        self.hostile: set[str] = set()
        self.forged: set[str] = set()
        self.promised: set[str] = set()
        self.packs_ever: list[bytes] = []
        self.hostile_session: tuple[bytes, bytes] | None = None
        self.found_damaged = False
        for letter in "ab":
            self._run_whole(letter, "x")
        self._pass("lease and margin")
        if state != "needed":
            self._forget(0)
        if state.startswith("relied on"):
            self._run_to("a", "y", "put points/")
        if state.endswith(("fenced", "due")):
            self._prune_whole()
        if state.endswith("due"):
            self._pass("lease and margin")

    def teardown(self) -> None:
        if not hasattr(self, "directory"):
            return
        try:
            self.settle_down()
        finally:
            for actor in [*self.writers, *self.prunes]:
                actor.kill()
            shutil.rmtree(self.directory, ignore_errors=True)

    # -- actors -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.writers) < 3)
    @rule(tree=st.sampled_from(TREES), cache=st.sampled_from("xy"), place=st.sampled_from(PLACES))
    def a_run_begins(self, tree: str, cache: str, place: str) -> None:
        self._run_to(tree, cache, place)

    def _run_to(self, tree: str, cache: str, place: str) -> None:
        self._begin_run(tree, cache)
        self._go_on_to(self.writers[-1], place)

    @precondition(lambda self: len(self.writers) < 3)
    @rule(tree=st.sampled_from(TREES), cache=st.sampled_from("xy"))
    def a_whole_run(self, tree: str, cache: str) -> None:
        self._run_whole(tree, cache)

    def _run_whole(self, tree: str, cache: str) -> None:
        self._begin_run(tree, cache)
        self._go_on(self.writers, len(self.writers) - 1, 1000)

    def _begin_run(self, letters: str, cache: str) -> None:
        if any(writer.kind == cache for writer in self.writers):
            cache = os.urandom(4).hex()
        tree = self.directory / f"tree-{letters}"
        if not tree.exists():
            tree.mkdir()
            for letter in letters:
                (tree / letter).write_bytes(letter.encode() * 60)
        self.writers.append(Actor(cache, self.storage, lambda target: self._write(target, tree, cache)))

    def _write(self, target: Actor, tree: Path, cache: str) -> str:
        repository = Repository(target, HOST, None)
        with Engine(repository, self.directory / f"cache-{cache}") as engine:
            source = SourceSpec("v")
            at_rest_ns = time.time_ns() + 10**10  # what has not changed since is taken over unread
            shipped = engine.ship(source, DirectoryView(tree), at_rest_ns)
            point = AgentPoint("agent", "host", "0" * 32, target.storage.now_ns, "none", "directory", "file-consistent")
            session, ship_again = engine.session.session_id, shipped.again
            assert ship_again is not None

            def again() -> Shipped:
                target.shipped_again += 1
                return ship_again()

            shipped.again = again
            committed = engine.commit(point, [(source, shipped)])
            self.trees[committed.id] = tree.name.removeprefix("tree-")
            target.renewals = int(engine.session.session_id != session)
            return committed.id

    @precondition(lambda self: len(self.prunes) < 2)
    @rule(place=st.sampled_from(PRUNE_PLACES))
    def a_prune_begins(self, place: str) -> None:
        self.prunes.append(Actor("prune", self.storage, _prune))
        self._go_on_to(self.prunes[-1], place)

    @precondition(lambda self: self.writers)
    @rule(which=st.integers(0, 2), steps=st.integers(1, 8))
    def a_run_goes_on(self, which: int, steps: int) -> None:
        self._go_on(self.writers, which, steps)

    @precondition(lambda self: self.writers)
    @rule(which=st.integers(0, 2), place=st.sampled_from(PLACES))
    def a_run_goes_on_to(self, which: int, place: str) -> None:
        self._go_on_to(self.writers[which % len(self.writers)], place)

    @precondition(lambda self: self.writers)
    @rule(which=st.integers(0, 2))
    def a_run_ends(self, which: int) -> None:
        self._go_on(self.writers, which, 1000)

    @precondition(lambda self: self.prunes)
    @rule(which=st.integers(0, 1), steps=st.integers(1, 8))
    def a_prune_goes_on(self, which: int, steps: int) -> None:
        self._go_on(self.prunes, which, steps)

    @precondition(lambda self: self.prunes)
    @rule(which=st.integers(0, 1), place=st.sampled_from(PRUNE_PLACES))
    def a_prune_goes_on_to(self, which: int, place: str) -> None:
        self._go_on_to(self.prunes[which % len(self.prunes)], place)

    def _go_on_to(self, actor: Actor, place: str) -> None:
        """Let it do all until just before its next operation of that kind."""
        self._step(actor)
        while actor.pending is not None and not f"{actor.pending.what} {actor.pending.name}".startswith(place):
            self._step(actor)
        self._collect()

    @precondition(lambda self: len(self.prunes) < 2)
    @rule(place=st.sampled_from(REPACK_PLACES))
    def a_repack_begins(self, place: str) -> None:
        self._repack_to(place)

    def _repack_to(self, *places: str) -> Actor:
        self.prunes.append(repacking := Actor("prune", self.storage, _repack))
        for place in places:
            self._go_on_to(repacking, place)
        return repacking

    @rule()
    def a_whole_repack(self) -> None:
        self.prunes.append(Actor("prune", self.storage, _repack))
        self._go_on(self.prunes, len(self.prunes) - 1, 10_000)

    @rule(times=st.integers(1, 2), after=st.sampled_from(["a minute", "lease and margin"]))
    def a_whole_prune(self, times: int, after: str) -> None:
        self._prune_whole(times, after)

    def _prune_whole(self, times: int = 1, after: str = "a minute") -> None:
        for _ in range(times):
            self._pass(after)
            self.prunes.append(Actor("prune", self.storage, _prune))
            self._go_on(self.prunes, len(self.prunes) - 1, 1000)

    def _go_on(self, actors: list[Actor], which: int, steps: int) -> None:
        actor = actors[which % len(actors)]
        for _ in range(steps):
            if self._step(actor) is None:
                break
        self._collect()

    def _step(self, actor: Actor) -> Operation | None:
        operation = actor.pending
        if operation is not None and actor.kind != "prune":
            if operation.name.startswith("points/"):
                before = set(self.storage.list_prefix("points/"))
                # One that is gone by now may have been before it could be read: its packs are free again.
                relied = frozenset[bytes]().union(*(actor.seen[name] for name in self._fences().keys() & actor.seen))
                assert actor.looked, "a run committed without looking at the fences after all else"
                actor.step()
                for name in set(self.storage.list_prefix("points/")) - before:
                    try:
                        self._learn(name)
                    except SessionDamaged:
                        # It went after the last look, as the run stood for days; the operator forgets what cannot be read.
                        self.storage.delete(name)
                        assert actor.saw_session, "a run committed without seeing that its session had gone"
                        continue
                    fenced = self.points[name[7:]] & relied
                    assert not fenced, "a point was committed that relies on what was fenced when its run last looked"
                return operation
            if operation.name == "fences/":
                actor.seen, actor.looked = self._fences(), True
            elif operation.name == "index/" or (
                operation.what == "put" and operation.name.startswith(("packs/", "index/"))
            ):
                actor.looked = actor.saw_session = False
            elif operation.what == "stat" and operation.name.startswith("sessions/"):
                actor.saw_session = operation.name in self.storage.objects
        return actor.step()

    def _collect(self) -> None:
        for name in self.storage.list_prefix("points/"):
            self._learn(name)
        for name in self.storage.list_prefix("packs/"):
            if (digest := bytes.fromhex(name[-64:])) not in self.packs_ever:
                self.packs_ever.append(digest)
        for writer in [writer for writer in self.writers if writer.finished]:
            self.writers.remove(writer)
            HAPPENED["committed" if writer.error is None else "too late"] += 1
            HAPPENED["renewed"] += writer.renewals
            HAPPENED["shipped again"] += writer.shipped_again
            if writer.error is None:  # whatever the clock of its host said
                self.promised.add(writer.result)
            elif not isinstance(writer.error, RepositoryError):
                raise writer.error
        for prune in [prune for prune in self.prunes if prune.finished]:
            self.prunes.remove(prune)
            if prune.error is None:
                for what in ("deleted_packs", "released_packs", "kept_fenced_packs", "fenced_packs"):
                    HAPPENED[what] += getattr(prune.result, what)
            elif isinstance(prune.error, RemovalRefused):
                HAPPENED["refused"] += 1
            else:
                raise prune.error

    def _learn(self, name: str) -> None:
        if name[7:] not in self.points:
            point = self.trusted.read_point(name[7:])
            self.points[point.id] = frozenset(point.packs[at : at + 32] for at in range(0, len(point.packs), 40))
            self.sessions[point.id] = f"sessions/{point.session_id.hex()}"
            self.lineages[point.id] = point.repacked.original if point.repacked else point.id
            HAPPENED["repacked"] += int(point.repacked is not None)
            if self.lineages[point.id] in self.hostile:  # what was never whole is moved as it is
                self.hostile.add(point.id)

    def _fences(self) -> dict[str, frozenset[bytes]]:
        return {name: read_fence(self.storage, HOST, name) for name in self.storage.list_prefix("fences/")}

    # -- time and accidents -----------------------------------------------------------------------------------------

    @rule(how_long=st.sampled_from(list(WAITS)))
    def time_passes(self, how_long: str) -> None:
        self._pass(how_long)

    def _pass(self, how_long: str) -> None:
        self.storage.now_ns += WAITS[how_long]

    @precondition(lambda self: self.writers)
    @rule(which=st.integers(0, 2), hours=st.sampled_from([-100, -20, 20, 100]))
    def the_clock_of_a_host_jumps(self, which: int, hours: int) -> None:
        writer = self.writers[which % len(self.writers)]
        writer.clock_offset_ns += hours * 60 * MINUTE_NS
        writer.clock_jumped = True

    @precondition(lambda self: self.writers or self.prunes)
    @rule(which=st.integers(0, 4), late=st.booleans())
    def a_process_is_killed(self, which: int, late: bool) -> None:
        """What it was doing may still arrive, at any later time."""
        actors = [*self.writers, *self.prunes]
        actor = actors[which % len(actors)]
        operation = actor.kill()
        for alive in (self.writers, self.prunes):
            if actor in alive:
                alive.remove(actor)
        if late and operation is not None and operation.what in ("put", "delete"):
            self.late.append(operation)

    @precondition(lambda self: self.late)
    @rule(which=st.integers(0, 3))
    def something_arrives_late(self, which: int) -> None:
        self.late.pop(which % len(self.late)).do()
        self._collect()

    @rule(cache=st.sampled_from("xy"), how=st.sampled_from(["lost", "saved", "rolled back"]))
    def something_happens_to_a_cache(self, cache: str, how: str) -> None:
        if any(writer.kind == cache for writer in self.writers):
            return
        current, saved = self.directory / f"cache-{cache}", self.directory / f"saved-{cache}"
        if how == "lost":
            shutil.rmtree(current, ignore_errors=True)
        elif how == "saved" and current.exists():
            shutil.rmtree(saved, ignore_errors=True)
            shutil.copytree(current, saved)
        elif how == "rolled back" and saved.exists():
            shutil.rmtree(current, ignore_errors=True)
            shutil.copytree(saved, current)

    # -- those who may remove, and those who may not ----------------------------------------------------------------

    @precondition(lambda self: len(list(self.storage.list_prefix("points/"))) > 1)
    @rule(which=st.integers(0, 5))
    def a_point_is_forgotten(self, which: int) -> None:
        self._forget(which)

    def _forget(self, which: int) -> None:
        names = list(self.storage.list_prefix("points/"))
        name = names[which % len(names)]
        self._learn(name)
        self.forgotten.add(self.lineages[name[7:]])
        put_forgotten(self.storage, HOST, [name[7:]])
        self.storage.delete(name)

    @precondition(lambda self: len(list(self.storage.list_prefix("points/"))) > 1)
    @rule(which=st.integers(0, 5), due=st.booleans())
    def what_a_point_needed_is_fenced(self, which: int, due: bool) -> None:
        self._forget(which)
        self._pass("lease and margin")
        self._prune_whole()
        if due:
            self._pass("lease and margin")

    @precondition(lambda self: self.packs_ever)
    @rule(which=st.sets(st.integers(0, 7), min_size=1, max_size=3), fresh=st.booleans(), receipt=st.booleans())
    def a_hostile_host_makes_a_point(self, which: set[int], fresh: bool, receipt: bool) -> None:
        """Of any packs, fenced, deleted or not, in an old session or a new one."""
        if fresh or self.hostile_session is None:
            session_id, key = os.urandom(16), generate_session_key()
            self.hostile_session = session_id, key
            document = seal_session(key, HOST.repository_id, session_id, [IDENTITY.recipient], HOST.mac_key)
            self.storage.put_if_absent(f"sessions/{session_id.hex()}", document)
        session_id, key = self.hostile_session
        packs = {self.packs_ever[number % len(self.packs_ever)] for number in which}
        header = new_header(POINT_MAGIC, HOST.repository_id, session_id)
        point_id = os.urandom(16).hex()
        self.hostile.add(point_id)
        self.storage.put_if_absent(
            f"points/{point_id}", seal_point(_hostile_point(point_id, session_id, packs), header, key, HOST.mac_key)
        )
        if receipt:
            self.forged.add(point_id)
            put_points(self.storage, HOST, {point_id: self.storage.now_ns})
        self._collect()

    @precondition(lambda self: any(self.storage.list_prefix("points/")))
    @rule(which=st.integers(0, 5))
    def a_hostile_host_claims_to_have_repacked(self, which: int) -> None:
        names = list(self.storage.list_prefix("points/"))
        self.a_hostile_host_makes_a_point_of_another(names[which % len(names)])

    def a_hostile_host_makes_a_point_of_another(self, name: str) -> None:
        """It says what the other one says, and names packs that hold nothing of it."""
        point = self.trusted.read_point(name[7:])
        own = frozenset(point.packs[at : at + 40] for at in range(0, len(point.packs), 40))
        others = [
            digest + len(self.storage.get(pack_name(digest.hex()))).to_bytes(8, "big")
            for digest in self.packs_ever
            if pack_name(digest.hex()) in self.storage.objects
        ]
        said = Repacked(
            original=self.lineages.get(point.id, point.id),
            stored_ns=1,
            times=9,
            by=IDENTITY.recipient.id,
            mac=bytes(32),
        )
        packs = b"".join(sorted(set(others) - own) or sorted(own))
        with self.trusted.begin_session(self.directory / os.urandom(4).hex()) as session:
            forged = session.commit(replace(point, packs=packs, repacked=said))
        self.hostile.add(forged)
        self._collect()

    @precondition(lambda self: self.packs_ever)
    @rule(which=st.sets(st.integers(0, 7), min_size=1, max_size=4))
    def a_hostile_host_puts_a_fence(self, which: set[int]) -> None:
        put_fence(self.storage, HOST, {self.packs_ever[number % len(self.packs_ever)] for number in which})

    # -- what must hold ---------------------------------------------------------------------------------------------

    @invariant()
    def whatever_counts_is_whole(self) -> None:
        if not hasattr(self, "storage"):
            return
        objects = self.storage.objects
        present = {point for point in self.points if f"points/{point}" in objects}
        receipted = set(read_receipts(self.storage, HOST).points) - self.forged
        existing = {bytes.fromhex(name[-64:]) for name in self.storage.list_prefix("packs/")}
        for point in present:
            must = point in receipted or self._must_count(point)
            assert not must or self.points[point] <= existing, "a point that counts has lost packs"
            assert self._in_time(point) or point not in self.promised, "a point was promised that does not count"
        counting = {self.lineages[point] for point in present if self._must_count(point)}
        assert self.committed <= counting | self.forgotten, "a point is gone that nobody forgot"
        self.committed |= counting

    def _in_time(self, point: str) -> bool:
        objects = self.storage.objects
        return objects[f"points/{point}"][1] - objects[self.sessions[point]][1] <= LEASE.lease_ns

    def _must_count(self, point: str) -> bool:
        return f"points/{point}" in self.storage.objects and point not in self.hostile and self._in_time(point)

    def what_counts_gives_its_data_back(self) -> None:
        """Every chunk of what counts is in packs that it names itself."""
        for point in self.points:
            if self._must_count(point) and not self.found_damaged:
                known = self.trusted.read_point(point)
                reader = PointReader(self.storage, self.trusted.point_keys(), known, tables_from_packs=True)
                try:
                    for volume in known.volumes:
                        for entry in reader.entries(volume):
                            for _ in reader.chunks(entry.chunk_ids()):
                                pass
                except IntegrityError as error:
                    raise AssertionError("a point that counts cannot be restored") from error

    def settle_down(self) -> None:
        """After everybody is gone, a few prunes leave just what the points need, and a run works."""
        if self.ending != "killed":
            for actors in (self.writers, self.prunes) if self.ending == "runs first" else (self.prunes, self.writers):
                while actors:
                    self._go_on(actors, 0, 1000)
                    self.whatever_counts_is_whole()
        for actor in [*self.writers, *self.prunes]:
            actor.kill()
        self.writers, self.prunes = [], []
        storage = self.storage
        self._collect()
        self.what_counts_gives_its_data_back()
        for _ in range(4):
            storage.now_ns += 2 * LEASE.wait_ns
            try:
                prune_module.prune(self.trusted, accept_missing=True)
            except RemovalRefused:  # no point is left that counts
                assert not any(self._must_count(point) for point in self.points)
                return
        self.whatever_counts_is_whole()
        needed = frozenset[bytes]().union(
            *(packs for point, packs in self.points.items() if f"points/{point}" in storage.objects)
        )
        existing = {bytes.fromhex(name[-64:]) for name in storage.list_prefix("packs/")}
        if self.found_damaged:
            return  # what is damaged stays fenced, and what stands in for it stays, as long as a point needs it
        assert existing <= needed, "prune leaves something that no point needs"
        unruly = [
            point for point in self.points if f"points/{point}" in storage.objects and not self._must_count(point)
        ]
        assert unruly or not list(storage.list_prefix("fences/")), "fences stay"
        assert len(list(storage.list_prefix("receipts/"))) <= 1, "receipts pile up"


class DamageMachine(Machine):
    """The same, and packs are found damaged."""

    @precondition(lambda self: self.packs_ever)
    @rule(which=st.integers(0, 7))
    def a_check_finds_a_pack_damaged(self, which: int) -> None:
        """It is fenced off at once, whether points need it or not, and noted."""
        digest = self.packs_ever[which % len(self.packs_ever)]
        put_fence(self.storage, HOST, {digest})
        put_checks(self.storage, HOST, {}, {digest: (self.storage.now_ns, "It is damaged.")})
        self.found_damaged = True
        HAPPENED["found damaged"] += 1


def _prune(target: Actor) -> Any:
    return prune_module.prune(Repository(target, HOST, IDENTITY), accept_missing=True)


def _repack(target: Actor) -> Any:
    """As the command: what is moved is pruned."""
    repository = Repository(target, HOST, IDENTITY)
    repack_module.repack(repository, wish=RepackWish(unused=0.0), accept_missing=True)
    return prune_module.prune(repository, accept_missing=True)


def _hostile_point(point_id: str, session_id: bytes, packs: set[bytes]) -> RecoveryPoint:
    return RecoveryPoint(
        id=point_id,
        session_id=session_id,
        agent="agent",
        host="host",
        run_id="f" * 32,
        created_ns=0,
        mode="none",
        provider="none",
        consistency="none",
        pause_ns=0,
        files=0,
        bytes=0,
        volumes=[Volume(name="v", kind="volume", root=bytes(32), root_length=0, entries=0, files=0, bytes=0)],
        packs=encode_pack_references((digest, 1) for digest in packs),
    )
