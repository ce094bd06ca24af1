"""What the kernel reports as touched, against what a walk finds: on real filesystems."""

import errno
import itertools
import mmap
import os
import shutil
import stat
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.lab.disks import filesystem
from tests.lab.treeops import OPERATIONS, TreeOperations
from trinity_snap.snapshot import BudgetExceeded, Deadline, fanotify, watching
from trinity_snap.snapshot import survey as survey_module
from trinity_snap.snapshot.instant import take_difference, take_instant
from trinity_snap.snapshot.listing import ShippedTree, pack
from trinity_snap.snapshot.staging import Staging
from trinity_snap.snapshot.survey import Layer, survey
from trinity_snap.snapshot.syncfs import syncfs
from trinity_snap.snapshot.view import walk_directory
from trinity_snap.snapshot.watching import Distrust, Watcher

pytestmark = pytest.mark.host

KEY = ("volume", "v")
FOREVER = 1 << 62
NUMBERS = itertools.count()


@pytest.fixture(scope="module", params=["ext4", "xfs"])
def disk(request, tmp_path_factory):
    with filesystem(request.param, tmp_path_factory.mktemp("disk"), 512 << 20) as place:
        yield place


@pytest.fixture(autouse=True)
def aged(monkeypatch):
    """Let nothing be suspect for being fresh: only what is reported, mapped or open is looked at again."""
    for module in (survey_module, watching):
        monkeypatch.setattr(module, "HOT_NS", -3600 * 10**9)


class Host:
    """A tree with something beside it, all shipped by a pass, and watched from then on."""

    def __init__(self, disk):
        place = disk / str(next(NUMBERS))
        self.root, self.outside = place / "root", place / "outside"
        self.root.mkdir(parents=True)
        self.outside.mkdir()
        self.operations = TreeOperations(self.root, self.outside)
        self.watcher = Watcher({KEY: self.root}, Distrust(None), 0)
        self.staging = Staging(place / "staging")
        self.staging.create()

    def survey(self, during=None):
        shipped = ShippedTree()
        for item in walk_directory(os.fsencode(self.root), live=True):
            if item.stat is not None and stat.S_ISREG(item.stat.st_mode):
                shipped.record(item.path, item.stat)
        syncfs([self.root])
        self.watcher.start()
        if during is not None:
            during.start()
        self.before = survey(self.root, [Layer(shipped, FOREVER)])
        if during is not None:
            during.join()
        self.watcher.surveyed({KEY: self.before})
        return self

    def compare(self):
        """In the pause: what the events tell is what a walk finds."""
        suspects = self.watcher.suspects()
        assert KEY in suspects, self.watcher.walking
        told = take_difference(self.root, self.before, suspects[KEY], self.staging, Deadline(60))
        walked = take_instant(self.root, self.before, self.staging, Deadline(60))
        self.looked_at = len(told.listing)
        told.complete(self.before)
        assert entries(told) == entries(walked)
        assert told.xattrs == walked.xattrs
        assert told.targets == walked.targets
        assert told.staged.keys() == walked.staged.keys()
        for path, number in told.staged.items():
            with (
                open(self.staging.open(number), "rb") as one,
                open(self.staging.open(walked.staged[path]), "rb") as two,
            ):
                assert one.read() == two.read()
        assert told.listing.elsewhere() == walked.listing.elsewhere()
        return self.looked_at


@contextmanager
def host_on(disk):
    made = Host(disk)
    try:
        yield made
    finally:
        made.watcher.close()
        made.operations.close()
        shutil.rmtree(made.root.parent)


@pytest.fixture
def host(disk):
    with host_on(disk) as made:
        yield made


def wait_until(condition, seconds=30):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def entries(instant):
    return [(item.path, pack(item.stat)[:-8] if item.stat else str(item.error)) for item in instant.listing.walk()]


_STEPS = st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 9999), st.integers(0, 9999)), max_size=40)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 9999), steps=_STEPS)
def test_events_tell_the_same_as_a_walk_whatever_happens(disk, seed, steps):
    with host_on(disk) as host:
        host.operations.run_random(seed, 60)
        host.survey()
        for step in steps:
            host.operations.run(*step)
        host.compare()


@pytest.mark.parametrize("seed", range(3))
def test_what_happens_while_the_survey_looks_is_told_too(host, seed):
    host.operations.run_random(seed, 300)
    for number in range(300):
        (host.root / f"more-{number:03}").mkdir()
        (host.root / f"more-{number:03}" / "file").write_bytes(b"x")
    host.survey(threading.Thread(target=host.operations.run_random, args=(seed + 100, 150)))
    host.compare()


def test_each_kind_of_change_alone_is_told(disk):
    for number, operation in enumerate(OPERATIONS):
        with host_on(disk) as host:
            host.operations.run_random(1, 120)
            host.operations.map(1, 1)
            host.operations.write_to_open(2, 2)
            host.survey()
            for attempt in range(5):
                host.operations.run(operation, number + attempt, 7 * attempt + 1)
            host.compare()


def test_the_pause_depends_on_what_changed_and_not_on_how_much_there_is(host):
    for directory in range(40):
        (host.root / f"d{directory}").mkdir()
        for number in range(50):
            (host.root / f"d{directory}" / f"f{number}").write_bytes(b"x")
    host.survey()
    for directory in range(10):
        (host.root / f"d{directory}" / "f7").write_bytes(b"changed")
        (host.root / f"d{directory}" / "new").write_bytes(b"new")
    assert len(host.before.listing) == 2041
    assert host.compare() <= 200  # 30, and some whose inode number is that of a file open elsewhere


def test_a_busy_writer_beside_the_tree_costs_nothing_in_it(host):
    for number in range(1000):
        (host.root / f"{number}").touch()
    host.survey()
    for number in range(2000):
        (host.outside / f"noise-{number}").write_bytes(b"x")
    assert host.compare() <= 200  # those whose inode number is that of a file open elsewhere


def test_a_writer_who_never_rests_does_not_keep_the_pause(host):
    """Its events come faster than they are read."""
    writer = subprocess.Popen(["dd", "if=/dev/zero", f"of={host.outside / 'log'}", "bs=1", "conv=notrunc"], stderr=-1)
    try:
        host.survey()
        wait_until(lambda: (host.outside / "log").exists())
        assert KEY in host.watcher.suspects()
    finally:
        writer.kill()
        writer.communicate()


def test_a_store_into_a_file_that_was_mapped_long_before_is_found(host):
    path = host.root / "mapped"
    path.write_bytes(bytes(8192))
    with open(path, "r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0)
    mapping[0] = 1
    syncfs([host.root])
    host.survey()
    mapping[1] = 2
    assert host.compare() >= 1
    descriptor = host.staging.open(0)
    assert os.pread(descriptor, 2, 0) == b"\1\2"
    os.close(descriptor)
    mapping.close()


def test_a_file_mapped_by_another_process_is_found(host, tmp_path):
    path = host.root / "mapped"
    path.write_bytes(bytes(8192))
    script = (
        "import mmap, os, sys\n"
        "descriptor = os.open(sys.argv[1], os.O_RDWR)\n"
        "mapping = mmap.mmap(descriptor, 0)\n"
        "os.close(descriptor)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "mapping[0] = 9\n"
        "print('stored', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        ["python3", "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin and other.stdout
        assert other.stdout.readline() == "ready\n"
        host.survey()
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "stored\n"
        assert host.compare() >= 1
        other.stdin.write("\n")


def test_a_large_directory_that_moves_takes_its_content_along(host):
    for number in range(300):
        (host.root / "a" / f"{number}").mkdir(parents=True)
    host.survey()
    os.rename(host.root / "a", host.root / "b")
    (host.root / "b" / "7" / "file").write_bytes(b"x")
    host.compare()


def test_something_mounted_meanwhile_means_a_walk(host):
    (host.root / "mnt").mkdir()
    host.survey()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(host.root / "mnt")], check=True)
    try:
        assert host.watcher.suspects() == {}
        assert "mounted" in host.watcher.walking[KEY]
    finally:
        subprocess.run(["umount", str(host.root / "mnt")], check=True)


def test_another_root_in_its_place_means_a_walk(host):
    host.survey()
    host.root.rename(host.outside / "former")
    host.root.mkdir()
    assert host.watcher.suspects() == {}
    assert "place" in host.watcher.walking[KEY]


def test_more_events_than_are_kept_mean_a_walk(host, monkeypatch):
    monkeypatch.setattr(fanotify, "MOST_EVENTS", 100)
    host.survey()
    for number in range(200):
        (host.root / f"{number}").touch()
    assert host.watcher.suspects() == {}
    assert "events" in host.watcher.walking[KEY]


def test_a_queue_that_overflows_means_a_walk(host, monkeypatch):
    """The kernel drops events when the queue is full; here it is limited, and nobody reads it meanwhile."""
    limit = Path("/proc/sys/fs/fanotify/max_queued_events")
    if not limit.exists():
        pytest.skip("this kernel does not say how many events it keeps")
    monkeypatch.setattr(fanotify, "_INIT", fanotify._INIT & ~0x10)
    host.survey()
    (watch,) = host.watcher._watches.values()
    with watch._lock:
        for number in range(int(limit.read_text()) + 100):
            os.mkdir(host.root / f"{number}")
    assert host.watcher.suspects() == {}
    assert "overflowed" in host.watcher.walking[KEY]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.EMFILE])
def test_a_kernel_that_does_not_watch_means_a_walk(host, monkeypatch, number):
    def refuse():
        raise fanotify.Unwatchable(f"fanotify_init: {os.strerror(number)}")

    monkeypatch.setattr(fanotify, "_open_group", refuse)
    host.survey()
    assert host.watcher.suspects() == {}
    assert os.strerror(number) in host.watcher.walking[KEY]


def test_hidden_processes_mean_a_walk(host, monkeypatch):
    def refuse():
        raise fanotify.Unwatchable("process 7 cannot be looked at: Permission denied")

    host.survey()
    monkeypatch.setattr(watching, "possible_writers", refuse)
    assert host.watcher.suspects() == {}
    assert "process 7" in host.watcher.walking[KEY]


def test_the_deadline_stops_a_look_at_many_changes(host):
    host.survey()
    for number in range(600):
        (host.root / f"{number}").touch()
    suspects = host.watcher.suspects()
    with pytest.raises(BudgetExceeded):
        take_difference(host.root, host.before, suspects[KEY], host.staging, Deadline(0))


def test_nothing_is_left_open(host):
    before = len(os.listdir("/proc/self/fd"))
    host.survey()
    host.watcher.suspects()
    host.watcher.close()
    host.watcher.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert not [thread for thread in threading.enumerate() if thread.name == "fanotify"]
