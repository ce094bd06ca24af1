"""The precopy provider alone, on real filesystems."""

import errno
import mmap
import os
import stat
import subprocess
import time

import pytest

from tests.lab.disks import filesystem
from tests.lab.shipping import Shipper
from trinity_snap.agents import Source
from trinity_snap.errors import SnapshotError
from trinity_snap.progress import NullProgress
from trinity_snap.quiesce import Journal
from trinity_snap.snapshot import BudgetExceeded, Deadline, Prepare
from trinity_snap.snapshot import survey as survey_module
from trinity_snap.snapshot.precopy import PrecopyProvider, Settings

pytestmark = pytest.mark.host


@pytest.fixture(scope="module", params=["ext4", "xfs", "btrfs"])
def disk(request, tmp_path_factory):
    with filesystem(request.param, tmp_path_factory.mktemp("disk"), 1 << 30) as place:
        yield place


@pytest.fixture
def source(disk, tmp_path):
    path = disk / tmp_path.name
    path.mkdir()
    return Source("volume", "volume", path, "/data")


@pytest.fixture
def aged(monkeypatch):
    """Let nothing count as hot for being fresh: tests make files and use them at once."""
    monkeypatch.setattr(survey_module, "HOT_NS", -10 * 10**9)


class Backup:
    def __init__(self, source, state, staging=None, **settings):
        self.source, self.shipper = source, Shipper()
        self.staging = staging or state / "staging"
        self.provider = PrecopyProvider([source], Settings(self.staging, **settings))
        self.journal = Journal.start(state, "run-1")

    def prepare(self):
        self.provider.prepare(Prepare("run-1", self.journal, NullProgress(), self.shipper.ship_pass))
        return self

    def restore(self, out, deadline=None):
        self.provider.snapshot(deadline or Deadline(60))
        return self.finish(out)

    def finish(self, out):
        self.view = self.provider.view(self.source)
        self.shipper.finish(self.source, self.view, out)
        return out


def content(root):
    return {
        str(path.relative_to(root)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def age(path):
    """Wait until the file's ctime is well before now."""
    while time.time_ns() - os.stat(path).st_ctime_ns < survey_module.HOT_NS + 50_000_000:
        time.sleep(0.05)


def test_only_what_changed_after_the_pass_is_copied_in_the_pause(source, tmp_path, aged):
    root = source.path
    (root / "directory").mkdir()
    for name in ("same", "changed", "removed", "replaced", "directory/moved"):
        (root / name).write_bytes(os.urandom(100_000))
    backup = Backup(source, tmp_path / "state").prepare()
    with open(root / "changed", "r+b") as file:
        file.write(b"X")
    (root / "removed").unlink()
    (root / "new").write_bytes(b"new")
    (root / "replacement").write_bytes(b"other")
    os.rename(root / "replacement", root / "replaced")
    os.rename(root / "directory", root / "renamed")
    os.symlink("same", root / "link")
    wanted = content(root)
    assert content(backup.restore(tmp_path / "out")) == wanted
    assert backup.view.was_shipped(b"same")
    assert not any(backup.view.was_shipped(name) for name in (b"changed", b"new", b"replaced"))
    backup.provider.release()
    assert not list(backup.staging.iterdir())
    assert backup.journal.end()


def test_the_view_stays_at_the_instant_while_the_tree_goes_on(source, tmp_path, aged):
    root = source.path
    (root / "shipped").write_bytes(b"shipped")
    os.setxattr(root / "shipped", "user.mark", b"1")
    os.symlink("there", root / "link")
    backup = Backup(source, tmp_path / "state").prepare()
    (root / "hot").write_bytes(b"hot")
    os.setxattr(root / "hot", "user.mark", b"2")
    wanted = content(root)
    backup.provider.snapshot(Deadline(60))
    for name in ("shipped", "hot"):
        (root / name).write_bytes(b"later")
        os.setxattr(root / name, "user.mark", b"9")
    (root / "link").unlink()
    (root / "later").touch()
    assert content(backup.finish(tmp_path / "out")) == wanted
    view = backup.view
    assert view.xattrs(b"shipped", stat.S_IFREG)[b"user.mark"] == b"1"
    assert view.xattrs(b"hot", stat.S_IFREG)[b"user.mark"] == b"2"
    assert view.readlink(b"link") == b"there"
    with pytest.raises(OSError) as problem:
        view.open(b"shipped")
    assert problem.value.errno == errno.ESTALE
    backup.provider.release()


def test_a_store_through_a_mapping_after_the_pass_is_seen(source, tmp_path):
    path = source.path / "mapped"
    path.write_bytes(bytes(1 << 20))
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[0] = 1  # the page is dirty, and further stores would not touch the ctime
        age(path)
        backup = Backup(source, tmp_path / "state")
        backup.prepare()
        assert backup.shipper.content["volume", b"mapped"][0] == 1
        mapping[0] = 2
        out = backup.restore(tmp_path / "out")
        assert (out / "mapped").read_bytes()[0] == 2
    backup.provider.release()


def test_a_file_that_was_just_written_is_not_taken_as_shipped(source, tmp_path):
    (source.path / "fresh").write_bytes(b"1")
    backup = Backup(source, tmp_path / "state", max_passes=1).prepare()
    backup.restore(tmp_path / "out")
    assert not backup.view.was_shipped(b"fresh")
    backup.provider.release()


def test_later_passes_ship_only_what_changed_and_settle(source, tmp_path):
    root = source.path
    for number in range(20):
        (root / f"old-{number}").write_bytes(os.urandom(10_000))
    age(root / "old-19")
    (root / "fresh").write_bytes(os.urandom(500_000))
    backup = Backup(source, tmp_path / "state", settle_bytes=100_000).prepare()
    assert [(number, files) for _, number, files in backup.shipper.passes] == [(1, 21), (2, 1)]
    assert content(backup.restore(tmp_path / "out")) == content(root)
    assert backup.provider.copied_bytes == 0
    backup.provider.release()


def test_hard_links_are_copied_once_and_those_shipped_once_are_known(source, tmp_path, aged):
    root = source.path
    (root / "a").write_bytes(os.urandom(50_000))
    os.link(root / "a", root / "b")
    backup = Backup(source, tmp_path / "state")
    whole = backup.shipper.ship_pass

    def first_names_only(source, view, number):
        shipped = whole(source, view, number)
        return {path: signed for path, signed in shipped.items() if path != b"b"}

    backup.provider.prepare(Prepare("run-1", backup.journal, NullProgress(), first_names_only))
    (root / "c").write_bytes(os.urandom(50_000))
    os.link(root / "c", root / "d")
    assert content(backup.restore(tmp_path / "out")) == content(root)
    assert backup.view.was_shipped(b"a")
    assert backup.view.was_shipped(b"b")
    assert backup.provider.copied_bytes < 60_000
    backup.provider.release()


def test_holes_stay_holes_in_the_copy(source, tmp_path):
    with open(source.path / "sparse", "wb") as file:
        file.truncate(200 << 20)
        file.seek(100 << 20)
        file.write(b"island" * 1000)
    backup = Backup(source, tmp_path / "state").prepare()
    backup.provider.snapshot(Deadline(60))
    view = backup.provider.view(source)
    descriptor = view.open(b"sparse")
    status = os.fstat(descriptor)
    assert status.st_size == 200 << 20
    assert status.st_blocks * 512 < 1 << 20
    assert os.pread(descriptor, 6, 100 << 20) == b"island"
    os.close(descriptor)
    backup.provider.release()


def test_a_staging_directory_without_room_is_refused_before_the_pause(source, tmp_path):
    (source.path / "big").write_bytes(os.urandom(80 << 20))
    with filesystem("ext4", tmp_path / "small", 64 << 20) as small:
        backup = Backup(source, tmp_path / "state", staging=small, max_passes=1)
        with pytest.raises(SnapshotError, match="MiB free"):
            backup.prepare()
        backup.provider.release()


def test_running_out_of_room_in_the_pause_is_a_clear_error(source, tmp_path, aged):
    with filesystem("ext4", tmp_path / "small", 64 << 20) as small:
        backup = Backup(source, tmp_path / "state", staging=small).prepare()
        (source.path / "big").write_bytes(os.urandom(80 << 20))
        with pytest.raises(SnapshotError, match="No space left"):
            backup.provider.snapshot(Deadline(60))
        backup.provider.release()
        assert not (small / "run-1").exists()


def test_copying_stops_at_the_deadline_and_can_be_done_again(source, tmp_path):
    (source.path / "file").write_bytes(os.urandom(1 << 20))
    backup = Backup(source, tmp_path / "state").prepare()
    with pytest.raises(BudgetExceeded):
        backup.provider.snapshot(Deadline(0))
    assert content(backup.restore(tmp_path / "out")) == content(source.path)
    backup.provider.release()


def test_a_filesystem_whose_times_cannot_be_trusted_is_copied_whole(tmp_path, aged):
    root = next(path for path in (os.path.join("/dev/shm", tmp_path.name),))
    os.mkdir(root)
    try:
        from pathlib import Path

        source = Source("memory", "path", Path(root), root)
        (source.path / "file").write_bytes(b"x")
        backup = Backup(source, tmp_path / "state").prepare()
        backup.restore(tmp_path / "out")
        assert not backup.view.was_shipped(b"file")
        backup.provider.release()
    finally:
        os.unlink(os.path.join(root, "file"))
        os.rmdir(root)


def test_a_single_file_is_a_source_too(source, tmp_path):
    path = source.path / ".env"
    path.write_bytes(b"SECRET=1")
    alone = Source(".env", "path", path, str(path))
    backup = Backup(alone, tmp_path / "state").prepare()
    backup.provider.snapshot(Deadline(60))
    path.write_bytes(b"SECRET=2")
    view = backup.provider.view(alone)
    (item,) = view.walk()
    assert item.path == b""
    with open(view.open(b""), "rb") as file:
        assert file.read() == b"SECRET=1"
    backup.provider.release()


def test_a_subvolume_inside_is_left_out_and_said(source, tmp_path):
    made = subprocess.run(
        ["btrfs", "subvolume", "create", str(source.path / "inner")], capture_output=True, check=False
    )
    if made.returncode:
        assert b"not a btrfs" in made.stderr  # ext4 and xfs have no subvolumes
        return
    (source.path / "inner" / "file").write_bytes(b"left out")
    (source.path / "file").write_bytes(b"kept")
    backup = Backup(source, tmp_path / "state").prepare()
    assert content(backup.restore(tmp_path / "out")) == {"file": b"kept"}
    ((path, why),) = backup.provider.problems(source)
    assert path == b"inner"
    assert "btrfs" in why
