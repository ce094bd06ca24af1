"""A year of daily runs, forget, repack and prune on a clock of the test's, with crashes, lost and old caches, and rot.

`TRINITY_SNAP_ENDURANCE_DAYS=365` is the year; the suite has a season of it. Each is one story, told from a seed
(`TRINITY_SNAP_ENDURANCE_SEED`), but for the keys.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.engine.memory import DAY_NS, HOUR_NS, Kept
from tests.engine.test_backup_engine import contents, on_disk
from tests.faults.faulty import Crash, CrashingTarget
from trinity_snap.repository.counting import void_points
from trinity_snap.repository.fences import read_new_fences
from trinity_snap.repository.forget import forget
from trinity_snap.repository.prune import prune
from trinity_snap.repository.repack import repack
from trinity_snap.repository.repack_plan import RepackWish
from trinity_snap.repository.retention import RetentionRules
from trinity_snap.repository.verify import verify

DAYS = int(os.environ.get("TRINITY_SNAP_ENDURANCE_DAYS", "100"))
SEED = int(os.environ.get("TRINITY_SNAP_ENDURANCE_SEED", "1"))
RULES = RetentionRules(last=2, daily=7, weekly=4, monthly=6, minimum=2)
AGENTS = ("web", "db")
OVERHEAD = 1.3
DEAD_WEIGHT = 1.3
WISH = RepackWish(unused=0.05, share=0.1)
DUE_DAYS = 3
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@dataclass
class Year:
    """The host, what it backs up, and what each point has to give back."""

    kept: Kept
    home: Path
    chance: random.Random
    expected: dict[str, object] = field(default_factory=dict)
    contents_of: dict[str, object] = field(default_factory=dict)
    agents: dict[str, str] = field(default_factory=dict)
    happened: Counter[str] = field(default_factory=Counter)
    overheads: list[float] = field(default_factory=list)
    heaviest: float = 0.0
    disturbed: int = 0

    def tree(self, agent: str) -> Path:
        return self.home / f"tree-{agent}"

    # -- data -------------------------------------------------------------------------------------------------------

    def work(self, agent: str, day: int) -> None:
        """What an agent does in a day: some files are new, some change, some go; a database changes in places."""
        root, chance = self.tree(agent), self.chance
        if not root.exists():
            root.mkdir()
            (root / "database").write_bytes(chance.randbytes(900_000))
            for number in range(30):
                (root / f"old-{number}").write_bytes(chance.randbytes(chance.randrange(100, 40_000)))
        for number in range(chance.randrange(4)):
            (root / f"new-{day}-{number}").write_bytes(chance.randbytes(chance.randrange(100, 60_000)))
        names = sorted(os.listdir(root))
        for name in chance.sample(names, 3):
            if name != "database":
                (root / name).write_bytes(chance.randbytes(chance.randrange(100, 60_000)))
        if len(names) > 40:
            for name in chance.sample(names, 3):
                if name != "database":
                    (root / name).unlink()
        with (root / "database").open("r+b") as file:
            file.seek(chance.randrange(850_000))
            file.write(chance.randbytes(4096))

    # -- a day ------------------------------------------------------------------------------------------------------

    def back_up(self, agent: str) -> None:
        root, before = self.tree(agent), self.kept.names("points/")
        content = on_disk(root)
        target = CrashingTarget(self.kept.storage, *self.death(40))
        try:
            self.kept.backup(root, agent, target=target)
        except Crash:
            self.happened["run died"] += 1
        for name in self.kept.names("points/") - before:  # also of a run that died just after its commit
            self.expected[name[7:]], self.agents[name[7:]] = content, agent
            self.contents_of[name[7:]] = content
            self.happened["points"] += 1

    def death(self, operations: int) -> tuple[int, bool]:
        """When a process dies: mostly never, else before or after one of its first operations."""
        return (
            (self.chance.randrange(operations), self.chance.random() < 0.5)
            if self.chance.random() < 0.1
            else (1 << 60, False)
        )

    def clean_up(self) -> bool:
        """Forget and prune; say whether both came to their end."""
        target = CrashingTarget(self.kept.storage, *self.death(120))
        before = self.kept.names("points/")
        try:
            repository = self.kept.open(target)
            forget(repository, lambda agent: RULES, accept=AGENTS)
            moved = repack(repository, wish=WISH)
            report = prune(repository, memory=self.home / "memory")
        except Crash:
            self.happened["prune died"] += 1
            return False
        finally:
            self.learn_what_moved()
            for name in before - self.kept.names("points/"):
                self.expected.pop(name[7:], None)
                self.happened["forgotten"] += 1
        self.happened["moved"] += len(moved.moved_points)
        self.happened["deleted packs"] += report.deleted_packs
        return True

    def learn_what_moved(self) -> None:
        """A repacked point gives back what the one did that it was made of."""
        self.contents_of |= self.expected
        known = set(self.expected)
        points = self.kept.open().points()
        for point in points:
            if point.id not in known:
                assert point.repacked is not None
                self.expected[point.id] = self.contents_of[point.repacked.original]
        self.contents_of |= self.expected

    def lose_cache(self) -> None:
        """The host loses its caches, or gets old ones back from an image of the machine."""
        cache, saved = self.kept.directory / "cache", self.kept.directory / "saved"
        what = self.chance.choice(["lost", "saved", "rolled back"])
        if what == "saved" and cache.exists():
            shutil.rmtree(saved, ignore_errors=True)
            shutil.copytree(cache, saved)
            return
        shutil.rmtree(cache, ignore_errors=True)
        if what == "rolled back" and saved.exists():
            shutil.copytree(saved, cache)
        self.happened[f"cache {what}"] += 1

    def rot(self) -> None:
        """A bit flips in a pack; `verify` names it and the points, and the operator brings it back, or lets them go."""
        storage = self.kept.storage
        names = sorted(self.needed())
        name = self.chance.choice(names)
        whole, time_ns = storage.objects[name]
        at = self.chance.randrange(len(whole))
        storage.objects[name] = (
            whole[:at] + bytes([whole[at] ^ 1 << self.chance.randrange(8)]) + whole[at + 1 :],
            time_ns,
        )
        repository = self.kept.open()
        report = verify(repository, repository.points(), read_data=True)
        # What nothing needs, or other packs have as well since it was repacked, is no loss.
        assert not report.good or name in report.healed, f"rot in {name} at {at} was not found"
        assert name in report.damaged_objects, f"rot in {name} was not named"
        self.happened["rot"] += 1
        if self.chance.random() < 0.5:
            storage.objects[name] = (whole, time_ns)
            return
        storage.delete(name)  # as operations.md says: it is moved out, and the next run stores what is still there anew
        repository = self.kept.open()
        hurt = sorted(void_points(repository, repository.points()))
        receipted = [
            point.id for point in repository.points() if name[-64:] in {each.name for each in point.pack_references()}
        ]
        for point in {*hurt, *receipted}:
            storage.delete(f"points/{point}")
            del self.expected[point]
            self.happened["lost to rot"] += 1
        for agent in AGENTS:
            self.kept.backup(self.tree(agent), agent)
            self.learn(agent)
        prune(self.kept.open(), accept_missing=True)

    def learn(self, agent: str) -> None:
        for name in self.kept.names("points/"):
            if name[7:] not in self.expected:
                self.expected[name[7:]] = on_disk(self.tree(agent))

    # -- what must hold ---------------------------------------------------------------------------------------------

    def needed(self) -> set[str]:
        """The names of the packs that living points need."""
        digests = {pack.name for point in self.kept.open().points() for pack in point.pack_references()}
        return {f"packs/{digest[:2]}/{digest}" for digest in digests}

    def check_points(self) -> None:
        repository = self.kept.open()
        points = repository.points()
        assert not repository.unreadable_points
        assert {point.id for point in points} == self.expected.keys()
        assert not void_points(repository, points)
        for point in points:
            assert contents(repository, point.id) == self.expected[point.id]
        assert verify(repository, points).good
        self.happened["restored"] += len(points)

    def overhead(self) -> float:
        """All that is stored, by what the living points name: packs, themselves and their sessions."""
        storage = self.kept.storage
        points = self.kept.open().points()
        sessions = {f"sessions/{point.session_id.hex()}" for point in points}
        names = self.needed() | sessions | {f"points/{point.id}" for point in points} | {"repository"}
        needed = sum(len(storage.objects[name][0]) for name in names)
        return self.kept.bytes_of("") / needed

    def dead_weight(self) -> float:
        """All that is stored, by what of it a living point needs: chunks, of files and of manifests, and the small objects.

        Without the packs that wait behind a fence: those go on their day.
        """
        repository = self.kept.open()
        points = repository.points()
        chunks: dict[bytes, int] = {}
        for point in points:
            reader = repository.reader(point)
            ids: set[bytes] = set()
            for volume in point.volumes:
                ids |= {volume.root, *(page.page_id for page in reader.pages(volume))}
                for entry in reader.entries(volume):
                    ids.update(entry.chunk_ids())
            for read in reader.plan_reads(ids):
                whole = max(read.data_length, 1)
                chunks |= {one: read.length * length // whole for one, _, length in read.chunks}
        small = self.kept.bytes_of("") - self.kept.bytes_of("packs/")
        waiting = {
            digest for packs in read_new_fences(self.kept.storage, self.kept.host, ()).values() for digest in packs
        }
        packs = sum(
            len(self.kept.storage.objects[name][0])
            for name in self.kept.names("packs/")
            if bytes.fromhex(name[-64:]) not in waiting
        )
        return (small + packs) / (small + sum(chunks.values()))


def test_daily_runs_with_crashes_rot_and_lost_caches_lose_nothing_and_keep_the_repository_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", MEMORY)
    home = Path(tempfile.mkdtemp(prefix="endurance-", dir=MEMORY))
    try:
        live_for(home, DAYS)
    finally:
        shutil.rmtree(home)


def live_for(home: Path, days: int) -> Year:
    year = Year(Kept(home / "host"), home, random.Random(SEED))
    for day in range(days):
        for agent in AGENTS:
            year.work(agent, day)
            year.back_up(agent)
        if year.chance.random() < 0.07:
            year.lose_cache()
        year.kept.pass_time(HOUR_NS)
        if day > 3 and not year.clean_up():
            year.disturbed = day
        if day % 35 == 34:
            year.rot()
            year.disturbed = day
        # What is let go of is deleted on the third day; so it is later if a prune died, or the operator let points go after rot.
        if day > 20 and day - year.disturbed >= DUE_DAYS:
            year.overheads.append(year.overhead())
            assert year.overheads[-1] <= OVERHEAD, (day, year.overheads, year.happened)
            year.heaviest = max(year.heaviest, year.dead_weight())
            assert year.heaviest <= DEAD_WEIGHT, (day, year.heaviest, year.happened)
        if day % 25 == 24 or day == days - 1:
            year.check_points()
        year.kept.pass_time(DAY_NS - HOUR_NS)
    for what in ("run died", "prune died", "rot", "forgotten", "deleted packs", "moved"):
        assert year.happened[what], year.happened
    return year
