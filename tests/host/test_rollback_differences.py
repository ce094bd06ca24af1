"""Rolling back where files cannot share their data with the snapshot: only what differs is copied."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.fidelity import assert_same, facts, make_everything
from tests.engine.test_restore_paths import crash, fill, spoil
from tests.lab.disks import filesystem
from tests.lab.image_keeper import snapshot_of
from trinity_snap.restore import resume_restores
from trinity_snap.rollback import RollbackPlan, RollbackVolume, execute
from trinity_snap.rollback.difference import _Comparison, compare
from trinity_snap.rollback.run import RollbackResult
from trinity_snap.snapshot import local
from trinity_snap.snapshot.local import LocalAgent, LocalSnapshot, LocalSource, write_local
from trinity_snap.snapshot.protocol import Kept, KeptTree

pytestmark = pytest.mark.host


@pytest.fixture(params=["ext4", "xfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with filesystem(request.param, tmp_path / "disk", 400 << 20) as found:
        yield found


class Host:
    """A tree that is spoilt since its filesystem was snapshot."""

    def __init__(self, place: Path, then: Path, created_ns: int, state: Path) -> None:
        self.live, self.then, self.state, self.created_ns = place / "data", then / "data", state, created_ns

    def plan(self) -> RollbackPlan:
        source = LocalSource(str(self.live), "path", str(self.live))
        tree = KeptTree("path", source.name, "data")
        kept = Kept("image", "11", str(self.then.parent), "", "", (tree,))
        agent = LocalAgent("platform", "crash-consistent", (source,))
        snapshot = LocalSnapshot("11", self.created_ns, (agent,), (kept,))
        write_local(self.state, snapshot)
        volume = RollbackVolume(source, self.live, None, ((kept, tree),), "in_place")
        return RollbackPlan("0123456789abcdef", "platform", snapshot, agent, self.state, (volume,))

    def rollback(self) -> RollbackResult:
        return execute(self.plan(), None)  # type: ignore[arg-type]  # only precopy's settings


@pytest.fixture
def host(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setitem(local._KEEPERS, "image", "tests.lab.image_keeper")
    monkeypatch.setattr("trinity_snap.rollback.run.keep_present", lambda *_: None)
    data = place / "data"
    data.mkdir()
    fill(data)
    make_everything(data / "all")
    (data / "big").write_bytes(os.urandom(20_000_000))
    os.sync()
    time.sleep(0.01)
    image = place.with_name(f"{place.name}.img")
    # Files as young as the snapshot are read, whatever their times say; here they are old enough for the rest to count.
    created_ns = time.time_ns() + 10_000_000_000
    with snapshot_of(place, image, tmp_path / "then") as then:
        yield Host(place, then, created_ns, tmp_path / "state")


def change(data: Path) -> None:
    spoil(data)
    os.link(data / "big", data / "big-too")
    with (data / "all/text").open("r+b") as file:
        file.write(b"AGAIN")
    os.utime(data / "all/text", ns=(1, os.stat(data / "all/text").st_mtime_ns))
    os.setxattr(data / "all/large", "user.new", b"1")
    (data / "all/names/new").mkdir()


def test_only_what_differs_is_copied_and_all_is_as_it_was(host: Host) -> None:
    then = facts(host.live)
    change(host.live)
    before = {path: os.stat(path).st_ino for path in (host.live / "all/zeros", host.live / "same/deep/file")}
    result = host.rollback()
    assert_same(then, facts(host.live))
    assert facts(host.then).keys() == then.keys()
    assert {path: os.stat(path).st_ino for path in before} == before
    assert result.copied.files < 20
    assert result.notes == ()
    assert [name for name in os.listdir(host.live.parent) if name.startswith(".trinity")] == []
    again = compare(host.then, host.live, host.created_ns)
    assert (again.add, again.replace, again.remove, again.directories) == ([], [], [], {})


def test_files_as_young_as_the_snapshot_are_read_whatever_their_times_say(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change in the same tick of the clock as the snapshot leaves no trace in the times."""
    read: list[bytes] = []

    def differs(_: object, path: bytes, size: int) -> bool:
        read.append(path)
        return path != b"big"

    monkeypatch.setattr(_Comparison, "_same_content", differs)
    assert compare(host.then, host.live, host.created_ns).replace == []
    assert read == []
    young = os.stat(host.live / "big").st_ctime_ns
    assert compare(host.then, host.live, young + 1_000_000_000).replace == [b"big"]
    assert b"all/text" in read


def test_other_content_with_the_same_times_and_size_is_found(host: Host) -> None:
    found = os.stat(host.live / "all/holes-middle")
    with (host.live / "all/holes-middle").open("r+b") as file:
        file.seek(20_000_000)
        file.write(b"in a hole")
    os.utime(host.live / "all/holes-middle", ns=(found.st_atime_ns, found.st_mtime_ns))
    assert compare(host.then, host.live, host.created_ns).replace == [b"all/holes-middle"]


@pytest.mark.parametrize("at", ["rollback.copied", "restore.swapping", "restore.first-operation", "restore.closing"])
def test_killed_it_is_as_before_or_done(host: Host, at: str) -> None:
    then = facts(host.live)
    change(host.live)
    now = facts(host.live)
    assert crash(at, host.rollback)
    (ended,) = resume_restores(host.state, None)
    assert ended.outcome == ("undone" if at == "rollback.copied" else "finished")
    assert_same(now if at == "rollback.copied" else then, facts(host.live))
    assert [name for name in os.listdir(host.live.parent) if name.startswith(".trinity")] == []
