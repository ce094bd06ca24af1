"""A repository in the hands of somebody hostile, and what is known of it from before: who needs which object."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from trinity_snap.backup.engine import Committed, backup_tree
from trinity_snap.errors import IntegrityError
from trinity_snap.progress import NullProgress
from trinity_snap.repository.keys import HostSecret, Identity, generate_host_secret, generate_identity
from trinity_snap.repository.packs import pack_name
from trinity_snap.repository.recipients import add_recipient
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.sealed import PACK_MAGIC, parse_header
from trinity_snap.restore.write import write_and_check
from trinity_snap.targets import LocalTarget, open_target

KINDS = ("repository", "recipients", "sessions", "packs", "index", "points")


class FarTarget(LocalTarget):
    """A directory that is read as buckets are: tables from the index, and neighbours in one request."""

    @property
    def parallel_gets(self) -> int:
        return 8

    @property
    def read_ahead_bytes(self) -> int:
        return 20 << 20


@dataclass
class World:
    """A repository in a directory with its host, and what its points held when they were made."""

    directory: Path
    cache: Path
    trees: Path
    host: HostSecret
    identities: tuple[Identity, Identity]
    far: bool = False
    held: dict[str, dict[str, bytes]] = field(default_factory=dict)  # point: path: content
    agents: dict[str, str] = field(default_factory=dict)
    needs: dict[str, set[str]] = field(default_factory=dict)  # object: points

    def target(self) -> LocalTarget:
        return FarTarget(self.directory) if self.far else LocalTarget(self.directory)

    def open(self) -> Repository:
        return Repository.open(self.target(), host=self.host, identity=self.identities[0])

    def names(self, kind: str = "") -> list[str]:
        return sorted(name for name in self.target().list_prefix("") if name.split("/")[0] == kind or not kind)

    def read(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()

    def write(self, name: str, data: bytes | None) -> None:
        path = self.directory / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.unlink(missing_ok=True)
        if data is not None:
            path.write_bytes(data)

    def backup(self, agent: str) -> Committed:
        """A run of the honest host, which has no identity."""
        repository = Repository.open(self.target(), host=self.host)
        return backup_tree(repository, self.cache, self.trees / agent, agent=agent)

    def note(self, agent: str, committed: Committed) -> None:
        self.held[committed.id] = on_disk(self.trees / agent)
        self.agents[committed.id] = agent

    def learn_needs(self) -> None:
        """Who needs what, before anybody touches anything."""
        repository = self.open()
        for point in repository.points():
            names = {f"points/{point.id}", f"sessions/{point.session_id.hex()}", "repository"}
            for reference in point.pack_references():
                name = pack_name(reference.name)
                header = parse_header(self.read(name), PACK_MAGIC, self.host.repository_id, name)
                names |= {name, f"sessions/{header.session_id.hex()}"}
            for name in names:
                self.needs.setdefault(name, set()).add(point.id)

    def copy(self, where: Path, *, far: bool) -> World:
        """Another repository like this, with caches and trees of its own."""
        for one in ("repository", "cache", "trees"):
            shutil.copytree(getattr(self, "directory" if one == "repository" else one), where / one, symlinks=True)
        return World(
            where / "repository", where / "cache", where / "trees", self.host, self.identities, far,
            dict(self.held), dict(self.agents), {name: set(points) for name, points in self.needs.items()},
        )  # fmt: skip

    def restore(self, point_id: str, where: Path) -> set[str]:
        """Restore a point as far as it goes. Return the paths that were refused, by name.

        Everything that was written is compared with what was backed up. Raise IntegrityError if nothing can be restored.
        """
        repository = self.open()
        point = repository.read_point(point_id)
        assert point.agent == self.agents[point_id]
        reader = repository.reader(point)
        (volume,) = point.volumes
        where.mkdir(exist_ok=True)
        holder = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
        name = os.urandom(8).hex()
        try:
            result = write_and_check(
                reader, holder, name.encode(), volume.name, lambda: reader.entries(volume), NullProgress(),
                devices=False, total=0, damaged_is_fatal=False,
            )  # fmt: skip
        finally:
            os.close(holder)
        restored = on_disk(where / name)
        refused = {os.fsdecode(path) for path in result.damaged}
        expected = {path: data for path, data in self.held[point_id].items() if path not in refused}
        assert restored == expected, "something that nobody stored was restored, or something vanished without a word"
        shutil.rmtree(where / name)
        return refused

    def restorable(self, where: Path) -> dict[str, set[str] | None]:
        """Of every point that was made: the paths that are refused, None if the point as a whole is."""
        found: dict[str, set[str] | None] = {}
        for point_id in self.held:
            try:
                found[point_id] = self.restore(point_id, where)
            except IntegrityError:
                found[point_id] = None
            except Exception as error:  # only these two may say that a point is not there
                if type(error).__name__ not in ("PointMissing", "ForeignRepository"):
                    raise
                found[point_id] = None
        return found


def on_disk(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def fill(root: Path, source: random.Random, files: Iterable[int]) -> None:
    for number in files:
        directory = root / f"d{number % 3}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"file-{number}").write_bytes(source.randbytes(source.randrange(1, 2000)))
    for number in range(3):
        (root / f"large-{number}").write_bytes(source.randbytes(500_000))


def make_world(directory: Path, seed: int, identities: tuple[Identity, Identity]) -> World:
    """Two agents with two points each, of four runs, and two later lists of recipients."""
    source = random.Random(seed)
    host = generate_host_secret()
    world = World(directory / "repository", directory / "cache", directory / "trees", host, identities)
    target = open_target(str(world.directory), create=True)
    Repository.create(target, host, [identity.recipient for identity in identities])
    for agent in ("one", "two"):
        fill(world.trees / agent, source, range(20))
        world.note(agent, world.backup(agent))
    for label in ("late", "later"):
        add_recipient(target, host, identities[0], generate_identity(label).recipient)
    for agent in ("one", "two"):
        fill(world.trees / agent, source, range(15, 30))
        (world.trees / agent / "d0" / "file-0").write_bytes(b"changed")
        world.note(agent, world.backup(agent))
    world.learn_needs()
    return world
