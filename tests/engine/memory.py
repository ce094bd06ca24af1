"""A repository in memory with a clock, and a host that backs up to it: fast enough to begin anew at every operation."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from tests.model.storage import Storage
from trinity_snap.backup.engine import AgentPoint, Committed, Engine, SourceSpec
from trinity_snap.repository.keys import HostSecret, Identity, generate_host_secret, generate_identity
from trinity_snap.repository.lease import LEASE
from trinity_snap.repository.repository import Repository
from trinity_snap.snapshot.view import DirectoryView
from trinity_snap.targets import Target

HOUR_NS = 3600 * 10**9
DAY_NS = 24 * HOUR_NS
AFTER_WAIT_NS = LEASE.wait_ns + 60 * 10**9


@dataclass
class Kept:
    """A repository in memory. `copy` gives another one that goes on from here."""

    directory: Path
    storage: Storage = field(default_factory=Storage)
    host: HostSecret = field(default_factory=generate_host_secret)
    operator: Identity = field(default_factory=lambda: generate_identity("operator"))

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.storage.objects:
            Repository.create(self.storage, self.host, [self.operator.recipient])

    def copy(self, storage: Storage | None = None) -> Kept:
        """The same repository as it is now; what is done to it does nothing to this one."""
        mine = storage or self.storage
        return Kept(self.directory, Storage(mine.now_ns, dict(mine.objects)), self.host, self.operator)

    def open(self, target: Target | None = None) -> Repository:
        """Open it with all keys."""
        return Repository.open(target or self.storage, host=self.host, identity=self.operator)

    def pass_time(self, length_ns: int) -> None:
        """Let the storage's clock go on."""
        self.storage.now_ns += length_ns

    def backup(
        self, root: Path, agent: str = "tree", *, target: Target | None = None, cache: Path | None = None
    ) -> Committed:
        """Back up a tree at rest."""
        where = cache or self.directory / "cache"
        with Engine(self.open(target), where) as engine:
            source = SourceSpec(agent)
            # What has not changed for ten seconds is taken over unread; a test changes files more quickly than that.
            shipped = engine.ship(source, DirectoryView(root), 1)
            now_ns = self.storage.now_ns
            point = AgentPoint(agent, "host", f"{now_ns:032x}", now_ns, "none", "directory", "file-consistent")
            return engine.commit(point, [(source, shipped)])

    def forget_cache(self) -> None:
        """The host loses what it remembers."""
        shutil.rmtree(self.directory / "cache", ignore_errors=True)

    def bytes_of(self, kind: str) -> int:
        """How much is stored of a kind of objects."""
        return sum(len(data) for name, (data, _) in self.storage.objects.items() if name.startswith(kind))

    def names(self, kind: str) -> set[str]:
        """The names of a kind of objects."""
        return {name for name in self.storage.objects if name.startswith(kind)}
