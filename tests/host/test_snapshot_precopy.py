"""The precopy provider alone, on real filesystems."""

import contextlib
import errno
import mmap
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import time

import pytest

from tests.lab.disks import filesystem
from tests.lab.shipping import Shipper
from trinity_snap.agents import Source
from trinity_snap.errors import SnapshotError
from trinity_snap.progress import NullProgress
from trinity_snap.quiesce import Journal, recover
from trinity_snap.quiesce.journal import read_journal
from trinity_snap.snapshot import BudgetExceeded, Deadline, Prepare, fanotify, watching
from trinity_snap.snapshot import survey as survey_module
from trinity_snap.snapshot.mounts import find_mount
from trinity_snap.snapshot.precopy import PrecopyProvider, Settings
from trinity_snap.snapshot.syncfs import syncfs

pytestmark = pytest.mark.host


@pytest.fixture(scope="module", params=["ext4", "xfs", "btrfs", "ext4 walked"])
def disk(request, tmp_path_factory):
    kind, _, how = request.param.partition(" ")
    Backup.watch_from_seconds = 3600 if how else 0
    with filesystem(kind, tmp_path_factory.mktemp("disk"), 1 << 30) as place:
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
    watch_from_seconds = 0.0

    def __init__(self, source, state, *others, staging=None, **settings):
        self.source, self.shipper = source, Shipper()
        self.staging = staging or state / "staging"
        self.notes = []
        settings = {"is_chosen": True, "watch_from_seconds": self.watch_from_seconds, **settings}
        self.provider = PrecopyProvider([source, *others], Settings(self.staging, **settings))
        self.journal = Journal.start(state, "run-1")

    def prepare(self, budget_seconds=None):
        progress, ship_pass = NullProgress(), self.shipper.ship_pass
        self.provider.prepare(Prepare("run-1", self.journal, progress, ship_pass, self.notes.append, budget_seconds))
        return self

    def restore(self, out, deadline=None):
        self.provider.snapshot(deadline or Deadline(60))
        return self.finish(out)

    def finish(self, out):
        self.view = self.provider.view(self.source)
        self.shipper.finish(self.source, self.view, out)
        return out


def used_bytes(disk):
    status = os.statvfs(disk)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


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


def test_a_source_too_large_for_the_staging_directory_fails_alone_and_before_the_pause(disk, source, tmp_path):
    (source.path / "big").write_bytes(os.urandom(80 << 20))
    other = Source("other", "volume", disk / f"{tmp_path.name}-other", "/data")
    other.path.mkdir()
    (other.path / "file").write_bytes(b"small")
    with filesystem("ext4", tmp_path / "small", 64 << 20) as small:
        backup = Backup(source, tmp_path / "state", other, staging=small, max_passes=1).prepare()
        failures = backup.provider.failures()
        assert list(failures) == [("volume", source.name)]
        assert "MiB free" in str(failures["volume", source.name])
        backup.provider.snapshot(Deadline(60))
        with pytest.raises(SnapshotError, match="MiB free"):
            backup.provider.view(source)
        view = backup.provider.view(other)
        assert [item.path for item in view.walk()] == [b"", b"file"]
        backup.provider.release()


def test_running_out_of_room_in_the_pause_is_a_clear_error_of_that_source_alone(disk, source, tmp_path, aged):
    other = Source("other", "volume", disk / f"{tmp_path.name}-other", "/data")
    other.path.mkdir()
    with filesystem("ext4", tmp_path / "small", 64 << 20) as small:
        backup = Backup(source, tmp_path / "state", other, staging=small).prepare()
        (source.path / "big").write_bytes(os.urandom(80 << 20))
        (other.path / "late").write_bytes(b"small")
        backup.provider.snapshot(Deadline(60))
        with pytest.raises(SnapshotError, match="No space left"):
            backup.provider.view(source)
        view = backup.provider.view(other)
        with open(view.open(b"late"), "rb") as file:
            assert file.read() == b"small"
        backup.provider.release()
        assert not (small / "run-1").exists()


def test_a_source_that_vanishes_fails_alone_whenever_that_is(disk, source, tmp_path, aged):
    (source.path / "file").write_bytes(b"kept")
    others = [Source(name, "volume", disk / f"{tmp_path.name}-{name}", "/data") for name in ("a", "b", "c")]
    for other in others[1:]:
        other.path.mkdir()
    backup = Backup(source, tmp_path / "state", *others)
    others[1].path.rmdir()
    backup.prepare()
    others[2].path.rmdir()
    backup.provider.flush()
    assert content(backup.restore(tmp_path / "out")) == {"file": b"kept"}
    assert sorted(name for _, name in backup.provider.failures()) == ["a", "b", "c"]
    for other in others:
        with pytest.raises(SnapshotError):
            backup.provider.view(other)
    backup.provider.release()


def test_what_the_kernel_did_not_report_is_found_after_the_pause_and_remembered(disk, source, tmp_path, monkeypatch):
    """A file that changes without an event, and without being open or mapped, is what the check is for."""
    if not (Backup.watch_from_seconds == 0 and find_mount(disk).filesystem in ("ext4", "xfs")):
        return
    monkeypatch.setattr(survey_module, "HOT_NS", 10_000_000)
    monkeypatch.setattr(watching, "HOT_NS", 10_000_000)
    for name in ("file", "other"):
        (source.path / name).write_bytes(b"before")
    time.sleep(0.05)
    distrust = tmp_path / "precopy.json"
    backup = Backup(source, tmp_path / "state", distrust=distrust).prepare()
    assert not backup.provider.walking
    take = fanotify.Watch.take
    monkeypatch.setattr(fanotify.Watch, "take", lambda watch: take(watch) and fanotify.Touched(set(), set()))
    (source.path / "file").write_bytes(b"after!")
    time.sleep(0.05)
    backup.provider.snapshot(Deadline(60))
    (source.path / "other").write_bytes(b"since the instant, which says nothing")
    backup.provider.view(source)
    assert [path for path, _ in backup.provider.problems(source)] == [b"file"]
    assert "file" in backup.provider.doubt
    assert any("next run" in note for note in backup.notes)
    backup.provider.release()
    backup.journal.end()

    monkeypatch.setattr(fanotify.Watch, "take", take)
    again = Backup(source, tmp_path / "again", distrust=distrust).prepare()
    assert "file" in again.provider.walking["volume", source.name]
    assert content(again.restore(tmp_path / "out")) == content(source.path)
    assert not again.provider.doubt
    again.provider.release()


DATABASES = """
import os, sqlite3, sys
os.chdir(sys.argv[1])
databases = []
for mode in ("wal", "delete"):
    database = sqlite3.connect(f"{mode}.db", isolation_level=None)
    database.execute(f"pragma journal_mode={mode}")
    database.execute("pragma synchronous=off")
    database.execute("pragma mmap_size=1048576")
    database.execute("create table log (n integer primary key, text)")
    databases.append(database)
said = os.open("said", os.O_RDWR | os.O_CREAT, 0o644)
n = 0
while True:
    n += 1
    for database in databases:
        database.execute("insert into log values (?, ?)", (n, "x" * (n % 300)))
    os.pwrite(said, b"%020d" % n, 0)
    if n == 1:
        print("ready", flush=True)
"""


def test_databases_that_are_written_all_the_time_are_whole(source, tmp_path):
    """The writer is stopped for the snapshot, as a container would be."""
    with subprocess.Popen([sys.executable, "-c", DATABASES, str(source.path)], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
            for number in range(4):
                backup = Backup(source, tmp_path / f"state-{number}", max_passes=2, settle_bytes=0).prepare()
                backup.provider.flush()
                os.kill(writer.pid, signal.SIGSTOP)
                os.waitid(os.P_PID, writer.pid, os.WSTOPPED)
                backup.provider.snapshot(Deadline(60))
                os.kill(writer.pid, signal.SIGCONT)
                out = backup.finish(tmp_path / f"out-{number}")
                assert not backup.provider.doubt
                backup.provider.release()
                said = int((out / "said").read_bytes())
                for mode in ("wal", "delete"):
                    with contextlib.closing(sqlite3.connect(out / f"{mode}.db")) as database:
                        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
                        assert database.execute("select count(*), max(n) from log").fetchone() in (
                            (said, said),
                            (said + 1, said + 1),
                        )
        finally:
            writer.kill()


def test_a_change_that_no_recovery_point_holds_is_nothing_missed(source, tmp_path, aged):
    """`chattr` is not reported, and everybody may do it to a file of their own."""
    (source.path / "file").write_bytes(b"x")
    backup = Backup(source, tmp_path / "state").prepare()
    subprocess.run(["chattr", "+d", str(source.path / "file")], check=True)
    time.sleep(0.05)
    backup.provider.snapshot(Deadline(60))
    backup.provider.view(source)
    assert not backup.provider.doubt
    assert backup.provider.problems(source) == []
    backup.provider.release()


def test_what_changes_after_the_instant_is_nothing_missed(source, tmp_path, aged):
    root = source.path
    for directory in ("a/b", "c"):
        (root / directory).mkdir(parents=True)
        (root / directory / "file").write_bytes(b"x")
    backup = Backup(source, tmp_path / "state").prepare()
    backup.provider.snapshot(Deadline(60))
    time.sleep(0.05)
    os.rename(root / "a", root / "z")
    os.rename(root / "c", root / "a")
    (root / "new").mkdir()
    os.rename(root / "z" / "b", root / "new" / "b")
    os.link(root / "a" / "file", root / "linked")
    view = backup.provider.view(source)
    assert [item.path for item in view.walk()] == [b"", b"a", b"a/b", b"a/b/file", b"c", b"c/file"]
    assert not backup.provider.doubt
    backup.provider.release()


def test_a_pause_that_will_hardly_suffice_is_said_before(source, tmp_path):
    (source.path / "small").write_bytes(b"x")
    backup = Backup(source, tmp_path / "state", staging=tmp_path / "elsewhere", max_passes=1).prepare(
        budget_seconds=1e-4
    )
    assert any("budget" in note for note in backup.notes)
    backup.provider.release()


def test_a_large_file_on_xfs_is_not_copied_but_shared(tmp_path):
    with filesystem("xfs", tmp_path / "disk", 600 << 20) as disk:
        source = Source("volume", "volume", disk / "volumes" / "one", "/data")
        source.path.mkdir(parents=True)
        (source.path / "hot").write_bytes(os.urandom(200 << 20))
        backup = Backup(source, tmp_path / "state", max_passes=1, is_chosen=False).prepare()
        assert (disk / ".trinity-snap" / "run-1").is_dir()
        with open(source.path / "hot", "r+b") as file:
            file.write(b"now")
        syncfs([disk])
        used = used_bytes(disk)
        backup.provider.snapshot(Deadline(60))
        syncfs([disk])
        assert used_bytes(disk) - used < 20 << 20
        before = (source.path / "hot").read_bytes()
        with open(source.path / "hot", "r+b") as file:
            file.write(b"later")
        view = backup.provider.view(source)
        assert not view.was_shipped(b"hot")
        with open(view.open(b"hot"), "rb") as file:
            assert file.read() == before
        assert [leftover.where for leftover in read_journal(backup.journal.path).leftovers] == [
            disk / ".trinity-snap" / "run-1"
        ]
        backup.provider.release()
        assert os.listdir(disk) == ["volumes"]
        assert backup.journal.end()


def test_copies_on_the_sources_own_filesystem_are_removed_by_recover(tmp_path):
    with filesystem("xfs", tmp_path / "disk", 600 << 20) as disk:
        source = Source("volume", "volume", disk / "volumes" / "one", "/data")
        source.path.mkdir(parents=True)
        (source.path / "hot").write_bytes(b"x")
        run = textwrap.dedent("""
            import os, sys
            from pathlib import Path
            from tests.host.test_snapshot_precopy import Backup
            from trinity_snap.agents import Source
            from trinity_snap.snapshot import Deadline
            backup = Backup(Source("volume", "volume", Path(sys.argv[1]), "/data"), Path(sys.argv[2]), is_chosen=False)
            backup.prepare().provider.snapshot(Deadline(60))
            os.kill(os.getpid(), 9)
        """)
        subprocess.run([sys.executable, "-c", run, str(source.path), str(tmp_path / "state")], check=False)
        assert (disk / ".trinity-snap" / "run-1").is_dir()
        assert recover(tmp_path / "state", None).removed == [disk / ".trinity-snap" / "run-1"]
        assert os.listdir(disk) == ["volumes"]


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
