"""What differs between recovery points, and where a name is, against what a plain comparison of trees says."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_cli_json import assert_same_shape, documented
from tests.unit.test_cli_repository import Host, host, make_host, repository
from trinity_snap.browse import differences, search
from trinity_snap.repository.manifest import Entry, PageReference
from trinity_snap.repository.points import RecoveryPoint
from trinity_snap.repository.reader import PointReader
from trinity_snap.repository.repository import Repository

__all__ = ["host", "make_host", "repository"]  # fixtures


def opened(host: Host) -> Repository:
    from trinity_snap.policy import load_policy
    from trinity_snap.repository.identity import load_host_key, load_identity
    from trinity_snap.targets import open_target

    policy = load_policy(host.policy)
    assert policy.keys.identity is not None
    target = open_target(policy.target.settings())
    return Repository.open(
        target, host=load_host_key(policy.keys.host_key), identity=load_identity(policy.keys.identity)
    )


def state(tree: Path) -> dict[str, tuple[Any, ...]]:
    found = {}
    for directory, names, files in os.walk(tree):
        for name in [*names, *files]:
            path = Path(directory, name)
            status = path.lstat()
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else os.path.islink(path)
            found[str(path.relative_to(tree))] = (status.st_mode, status.st_mtime_ns, content)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_differences_are_those_of_the_trees(host: Host, seed: int) -> None:
    chance = random.Random(seed)
    host.back_up()
    tree = host.home / "tree-web"
    for number in range(1500):
        path = tree / f"d{number % 23:02d}" / f"file {number:04d} {'x' * chance.randrange(90)}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(chance.randbytes(chance.randrange(1, 300)))
    before, older = host.back_up(), state(tree)
    names = sorted(path for path in tree.rglob("*") if path.is_file() and "file" in path.name and not path.is_symlink())
    for path in chance.sample(names, 40):
        what = chance.randrange(5)
        if what == 0:
            path.unlink()
        elif what == 1:
            path.write_bytes(b"other" + chance.randbytes(9))
        elif what == 2:
            path.chmod(0o600)
        elif what == 3:
            path.with_name(f"{path.name}-new").write_bytes(b"new")
        else:
            path.unlink()
            path.symlink_to("elsewhere")
    shutil.rmtree(tree / "d07")
    after, newer = host.back_up(), state(tree)
    assert len(older) > 1500
    repository = opened(host)
    found = {
        os.fsdecode(change.path): change.kind
        for change in differences(repository, repository.resolve(before), repository.resolve(after))
        if change.path
    }
    expected = dict.fromkeys(older.keys() - newer.keys(), "removed")
    expected |= dict.fromkeys(newer.keys() - older.keys(), "added")
    for name in older.keys() & newer.keys():
        if older[name] != newer[name]:
            same_type = older[name][0] >> 12 == newer[name][0] >> 12
            expected[name] = "metadata" if same_type and older[name][2] == newer[name][2] else "changed"
    assert found == expected
    assert len(expected) > 40


def test_pages_that_both_points_have_are_not_read(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = host.home / "tree-web"
    tree.mkdir()
    for number in range(8000):
        (tree / f"{number:04d}{'y' * 60}").touch()
    before = host.back_up()
    (tree / f"2000{'y' * 60}").write_bytes(b"changed")
    after = host.back_up()
    repository = opened(host)
    points = repository.resolve(before), repository.resolve(after)
    read: list[bytes] = []
    real = PointReader.page

    def noting(self: PointReader, page: PageReference) -> list[Entry]:
        read.append(page.page_id)
        return real(self, page)

    monkeypatch.setattr(PointReader, "page", noting)
    changes = list(differences(repository, *points))
    assert [change.kind for change in changes if change.kind != "metadata"] == ["changed"]
    old, new = (
        {page.page_id for volume in point.volumes for page in repository.reader(point).pages(volume)}
        for point in points
    )
    assert old & new
    assert set(read) == old ^ new


def test_a_name_is_found_with_all_its_versions(host: Host) -> None:
    tree = host.home / "tree-web"
    points = []
    for content in ("one", "one", "two", None):
        (tree / "deep" / "er").mkdir(parents=True, exist_ok=True)
        wanted = tree / "deep" / "er" / "needle.db"
        if content is None:
            wanted.unlink()
        elif not wanted.exists() or wanted.read_text() != content:
            wanted.write_text(content)
        points.append(host.back_up())
    host.back_up("other")
    answer = host.json("find", "needle.*")
    assert_same_shape(answer, documented("find"))
    (found,) = answer["found"]
    assert (found["agent"], found["path"], found["in_latest"], answer["points"]) == (
        "web",
        "deep/er/needle.db",
        False,
        5,
    )
    seen = [(version["newest"]["id"], version["oldest"]["id"], version["points"]) for version in found["versions"]]
    assert seen == [(points[2], points[2], 1), (points[1], points[0], 2)]
    assert host.json("find", "deep/*/needle.db", "--gone")["total"] == 1
    assert host.json("find", "er/needle.db", code=1)["total"] == 0
    assert host.json("find", "needle", code=1)["total"] == 0
    assert host.json("find", "sub", "--gone", code=1)["total"] == 0
    assert host.json("find", "[nm]eedle.d?")["total"] == 1
    assert host.json("find", "f[h-j]le", "--agent", "other")["total"] == 1
    assert host.json("find", "caf*", "--limit", "1")["total"] == 2
    assert len(host.json("find", "caf*", "--limit", "1")["found"]) == 1
    assert "not in the newest point" in host.text("find", "needle.db")
    assert host.json("find", "x", "--agent", "nobody", code=2)["error"] == "AgentMissing"


def test_diff_compares_what_was_named(host: Host) -> None:
    first = host.back_up()
    (host.home / "tree-web" / "new\x1b[31m").write_text("new")
    second = host.back_up()
    answer = host.json("diff", first, second)
    assert_same_shape(answer, documented("diff"))
    assert [(change["kind"], change["path"]) for change in answer["changes"]] == [("added", "new\x1b[31m")]
    backwards = host.json("diff", second, first)
    assert [change["kind"] for change in backwards["changes"]] == ["removed"]
    for same in (["--agent", "web"], [second]):
        assert host.json("diff", *same)["before"]["id"] == first
    assert "\x1b" not in host.text("diff", first, second)
    assert host.json("diff", first, first)["changes"] == []
    host.text("diff", first, code=2)
    host.text("diff", code=2)
    host.text("diff", first, "--agent", "web", code=2)


def test_what_is_damaged_is_said_and_the_rest_is_looked_at(host: Host, repository: str) -> None:
    host.back_up()
    packs = set(Path(repository, "packs").rglob("*"))
    host.back_up("other")
    for pack in set(Path(repository, "packs").rglob("*")) - packs:
        if pack.is_file():
            pack.unlink()
    answer = host.json("find", "file", code=90)
    assert [found["agent"] for found in answer["found"]] == ["web"]
    assert answer["unread"]


def test_many_files_are_looked_through_quickly(host: Host) -> None:
    tree = host.home / "tree-web"
    for number in range(100):
        (tree / f"directory-{number:03d}").mkdir(parents=True)
        for other in range(200):
            (tree / f"directory-{number:03d}" / f"some-file-{other:04d}.txt").touch()
    host.back_up()
    repository = opened(host)
    points: list[RecoveryPoint] = repository.points()
    began = time.process_time()
    assert len(search(repository, points, "*-0123.txt").found) == 100
    assert len(search(repository, points, "directory-05?").found) == 10
    assert time.process_time() - began < 4  # for 2 x 20,000 files; ten seconds are allowed for 100,000
