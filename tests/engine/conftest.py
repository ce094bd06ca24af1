"""Repositories for engine tests: real keys, a real local target, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from trinity_snap.backup.engine import Committed, backup_tree
from trinity_snap.repository.keys import HostSecret, Identity, generate_host_secret, generate_identity
from trinity_snap.repository.repository import Repository
from trinity_snap.targets import Target, open_target


@dataclass
class Store:
    """A repository on disk with all its keys, and a cache directory of the host."""

    directory: Path
    cache: Path
    host: HostSecret
    operator: Identity
    recovery: Identity

    def target(self) -> Target:
        return open_target(str(self.directory))

    def open(self, target: Target | None = None) -> Repository:
        return Repository.open(target or self.target(), host=self.host, identity=self.operator)

    def backup(self, root: Path, agent: str = "tree", cache: Path | None = None) -> Committed:
        return backup_tree(self.open(), cache or self.cache, root, agent=agent)

    def objects(self, prefix: str) -> set[str]:
        return set(self.target().list_prefix(prefix))


@pytest.fixture(scope="session")
def identities() -> tuple[Identity, Identity]:
    return generate_identity("operator"), generate_identity("recovery")


@pytest.fixture
def make_store(tmp_path: Path, identities: tuple[Identity, Identity]) -> Callable[[str], Store]:
    def make(name: str) -> Store:
        directory = tmp_path / name
        host = generate_host_secret()
        target = open_target(str(directory), create=True)
        Repository.create(target, host, [identity.recipient for identity in identities])
        return Store(directory, tmp_path / f"{name}-cache", host, *identities)

    return make


@pytest.fixture
def store(make_store: Callable[[str], Store]) -> Store:
    return make_store("repository")
