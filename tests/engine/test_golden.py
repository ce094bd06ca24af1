"""Every repository that any released version wrote can be read for ever."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.golden import make
from trinity_snap.repository.identity import load_host_key, load_identity
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.verify import verify
from trinity_snap.repository.vouching import vouched
from trinity_snap.targets import open_target

VERSIONS = sorted(path.name for path in make.HERE.iterdir() if (path / "expected.json").exists())


def private_copy(golden: Path, tmp_path: Path) -> Path:
    """A copy whose key files have the permissions that a checkout cannot keep."""
    copy = tmp_path / "golden"
    shutil.copytree(golden, copy)
    for name in ("identity", "host.key"):
        (copy / name).chmod(0o600)
    return copy


def test_there_is_one_for_this_version() -> None:
    assert "format-1" in VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_a_golden_repository_reads_as_it_did(version: str, tmp_path: Path) -> None:
    golden = private_copy(make.HERE / version, tmp_path)
    expected = json.loads((golden / "expected.json").read_text())
    target = open_target(str(golden / "repository"))
    host = load_host_key(golden / "host.key")
    repository = Repository.open(target, host=host, identity=load_identity(golden / "identity"))
    points = repository.points()
    assert not repository.unreadable_points
    assert {point.id: make.listing(repository.reader(point)) for point in points} == expected
    assert verify(repository, points, read_data=True).good


def test_the_repacked_one_says_what_it_was_made_of(tmp_path: Path) -> None:
    golden = private_copy(make.HERE / "format-1-repacked", tmp_path)
    host, identity = load_host_key(golden / "host.key"), load_identity(golden / "identity")
    repository = Repository.open(open_target(str(golden / "repository")), host=host, identity=identity)
    (point,) = repository.points()
    said = vouched(repository, point)
    assert said is not None and said.times == 1
    assert repository.resolve(said.original).id == point.id
