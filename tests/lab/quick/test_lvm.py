"""The providers `lvm` and `lvm-thin` on real logical volumes."""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from tests.lab.policies import Policy
from tests.lab.quick.volumes import run, volume_group
from trinity_snap.agents import Source
from trinity_snap.errors import SnapshotError
from trinity_snap.progress import NullProgress
from trinity_snap.quiesce import Journal, recover
from trinity_snap.quiesce.journal import Leftover, journals, read_journal
from trinity_snap.snapshot import Deadline, Prepare, explain, select_providers
from trinity_snap.snapshot.logicalvolumes import our_snapshots, remove_snapshot
from trinity_snap.snapshot.lvm import FILESYSTEMS, remove_leftover
from trinity_snap.snapshot.mounting import mount_snapshot, remove_mounts
from trinity_snap.snapshot.mounts import read_mounts

KINDS = {"thick-ext4": "lvm", "thick-xfs": "lvm", "thin-ext4": "lvm-thin", "thin-xfs": "lvm-thin"}


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """A group with a thick and a thin volume of each filesystem, and room for thick snapshots."""
    with volume_group("lab-0", "/dev/ubda", tmp_path_factory.mktemp("group") / "mnt") as made:
        made.pool("pool", "800M")
        made.thick("thick-ext4", "ext4")
        made.thick("thick-xfs", "xfs", "320M")
        made.thin("thin-ext4", "ext4")
        made.thin("thin-xfs", "xfs", "400M")
        yield made


@pytest.fixture(autouse=True)
def nothing_stays(request):
    yield
    assert our_snapshots() == ()
    assert not [mount for mount in read_mounts() if "/mnt/run-" in str(mount.path)]


@pytest.fixture
def second(tmp_path):
    """An empty group on a disk of its own."""
    with volume_group("lab-1", "/dev/ubdb", tmp_path / "second") as made:
        yield made


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


def source(path, name=""):
    path.mkdir(parents=True, exist_ok=True)
    return Source(name or path.name, "volume", path, "/data")


def fresh(group, volume, name="one"):
    place = group.place / volume / name
    shutil.rmtree(place, ignore_errors=True)
    return source(place)


def prepared(state, sources, policy=None, run_id="run-1"):
    providers = select_providers(sources, policy or Policy(), state)
    journal = Journal.start(state, run_id)
    for provider in providers:
        provider.prepare(Prepare(run_id, journal, NullProgress()))
    return providers, journal


def snapshot(state, *sources, policy=None):
    providers, journal = prepared(state, sources, policy)
    for provider in providers:
        provider.flush()
        provider.snapshot(Deadline(60))
    return providers, journal


def tree(view):
    found = {}
    for item in view.walk():
        content = None
        if item.stat and stat.S_ISREG(item.stat.st_mode):
            with open(view.open(item.path), "rb") as file:
                content = file.read()
        found[item.path] = content
    return found


@pytest.mark.parametrize("volume", KINDS)
def test_a_view_shows_the_instant_and_nothing_later(group, state, volume):
    one = fresh(group, volume)
    (one.path / "kept").write_bytes(b"before")
    (one.path / "gone").write_bytes(b"there")
    (provider,), journal = snapshot(state, one)
    assert provider.name == KINDS[volume]
    (one.path / "kept").write_bytes(b"after")
    (one.path / "gone").unlink()
    (one.path / "new").touch()
    os.sync()
    view = provider.view(one)
    assert tree(view) == {b"": None, b"gone": b"there", b"kept": b"before"}
    provider.check(one)
    (mounted,) = [mount for mount in read_mounts() if mount.path.parent.parent == state / "mnt"]
    assert {"ro", "noatime", "nodev", "noexec", "nosuid"} <= mounted.options
    with pytest.raises(OSError, match="Read-only"):
        os.unlink(view.root / "kept")
    provider.release()
    provider.release()
    assert journal.end()
    assert not list(state.glob("mnt/*"))


def test_a_source_in_a_bind_mount_is_found_in_its_filesystem(group, state, tmp_path):
    inside = group.place / "thick-ext4" / "deep" / "er"
    inside.mkdir(parents=True, exist_ok=True)
    bound = tmp_path / "bound"
    bound.mkdir()
    run("mount", "--bind", inside, bound)
    try:
        one = source(bound / "volume")
        (one.path / "file").write_bytes(b"x")
        (one.path / "mnt").mkdir()
        run("mount", "-t", "tmpfs", "none", one.path / "mnt")
        (provider,), _ = snapshot(state, one)
        (one.path / "file").unlink()
        assert tree(provider.view(one)) == {b"": None, b"file": b"x", b"mnt": None}
        ((path, why),) = provider.problems(one)
        assert (path, "tmpfs" in why) == (b"mnt", True)
        provider.release()
    finally:
        run("umount", one.path / "mnt")
        run("umount", bound)


def test_all_volumes_of_a_host_are_snapshotted_together(group, second, state):
    second.thick("more", "xfs", "320M")
    everything = [fresh(group, volume, f"on-{volume}") for volume in KINDS] + [source(second.place / "more" / "one")]
    nested = group.place / "thick-ext4" / "on-thick-ext4" / "nested"  # another volume's filesystem below this one's
    nested.mkdir()
    run("mount", "--bind", everything[3].path, nested)
    try:
        for each in everything:
            (each.path / "file").write_bytes(each.name.encode())
        nested_source = Source("nested", "volume", nested, "/nested")
        providers, journal = snapshot(state, *everything, nested_source)
        assert sorted(provider.name for provider in providers) == ["lvm", "lvm-thin"]
        assert [path.name for path in our_snapshots()] == [
            "trinity-snap-run-1-1", "trinity-snap-run-1-2", "trinity-snap-run-1-t1", "trinity-snap-run-1-t2",
            "trinity-snap-run-1-3",
        ]  # fmt: skip
        for each in everything:
            (each.path / "file").write_bytes(b"later")
        seen = {one.name: tree(provider.view(one)) for provider in providers for one in provider.sources}
        assert {name: found[b"file"] for name, found in seen.items()} == {
            **{each.name: each.name.encode() for each in everything},
            "nested": b"on-thin-xfs",
        }
        for provider in providers:
            provider.release()
        assert journal.end()
    finally:
        run("umount", nested)


@pytest.mark.parametrize("filesystem", ["ext4", "xfs"])
def test_what_is_only_in_the_log_of_the_filesystem_is_there(group, second, state, filesystem):
    place = second.thick("live", filesystem, "320M")
    run("lvcreate", "-y", "-q", "-L", "320M", "-n", "copy", second.name)
    os.sync()
    for number in range(50):
        (place / f"file-{number}").write_bytes(b"x" * number)
    descriptor = os.open(place, os.O_RDONLY)
    os.fsync(descriptor)  # in the log, and not yet in its place
    os.close(descriptor)
    with open("/dev/lab-1/live", "rb") as raw, open("/dev/lab-1/copy", "wb") as copy:
        while block := raw.read(1 << 20):  # as the disk is after a power cut
            copy.write(block)
    if filesystem == "ext4":
        assert "needs_recovery" in run("dumpe2fs", "-h", "/dev/lab-1/copy")
    where = state / "mnt" / "run-1-lvm" / "1"
    state.mkdir()
    mount_snapshot("/dev/lab-1/copy", where, filesystem, FILESYSTEMS[filesystem])
    assert sorted(path.name for path in where.glob("file-*")) == sorted(f"file-{number}" for number in range(50))
    assert remove_mounts(where.parent)


def test_room_is_looked_for_before_the_first_snapshot(second, state):
    second.thick("one", size="800M")
    second.thick("two", size="800M")
    sources = [source(second.place / name / "volume", name) for name in ("one", "two")]
    policy = Policy()
    policy.snapshot.lvm.percent = 50
    with pytest.raises(SnapshotError, match=r"lab-1 has .* MiB free, and snapshots of one, two need 800.0 MiB"):
        prepared(state, sources, policy)
    assert second.volumes() == ["one", "two"]
    assert read_journal(journals(state)[0]).leftovers == ()
    policy.snapshot.lvm.percent = 80
    choice = explain(sources[0], "auto", None, policy.snapshot.lvm)
    assert choice.provider == "precopy"
    assert "MiB free" in choice.why
    assert "vgextend" in choice.better


def test_a_snapshot_that_overflows_is_noticed_with_the_room_it_needed(second, state):
    place = second.thick("live", size="400M")
    run("tune2fs", "-e", "panic", "/dev/lab-1/live")  # nor does it bring the machine down
    one = source(place / "one")
    for number in range(200):
        (one.path / f"deep-{number}").mkdir()
        (one.path / f"deep-{number}" / "file").write_bytes(os.urandom(5000))
    policy = Policy()
    policy.snapshot.lvm.percent = 5
    (provider,), journal = snapshot(state, one, policy=policy)
    provider.view(one)
    provider.check(one)
    (one.path / "big").write_bytes(os.urandom(60 << 20))
    os.sync()
    with pytest.raises(SnapshotError) as caught:
        provider.check(one)
    said = str(caught.value)
    assert "it had room for 20.0 MiB" in said
    written = float(said.split(" MiB had been written")[0].rsplit(" ", 1)[1])
    assert 60 <= written < 120
    assert "snapshot: lvm: size" in said
    with contextlib.suppress(OSError):
        tree(provider.view(one))
    provider.release()
    assert journal.end()


def test_a_pool_that_is_nearly_full_is_refused_with_the_numbers(second, state):
    second.pool(size="100M")
    place = second.thin("live", size="200M")
    one = source(place / "one")
    with open(one.path / "big", "wb", buffering=0) as big:
        while float(run("lvs", "--noheadings", "-o", "data_percent", "lab-1/pool")) <= 90:
            big.write(os.urandom(4 << 20))
            os.fsync(big.fileno())
    with pytest.raises(
        SnapshotError, match=r"lab-1/pool is nearly full: 9\d\S* % of its 100.0 MiB of data.* limit is 90 %"
    ):
        prepared(state, [one])
    assert second.volumes() == ["live", "pool"]


def test_a_snapshot_that_was_marked_to_be_skipped_is_read_all_the_same(group, state):
    one = fresh(group, "thin-ext4")
    (provider,), _ = snapshot(state, one)
    ((flag, active),) = [
        line.split(",")
        for line in run(
            "lvs", "--noheadings", "--binary", "--separator=,", "-o", "lv_skip_activation,lv_active_locally",
            "lab-0/trinity-snap-run-1-t1",
        ).split()
    ]  # fmt: skip
    assert (flag, active) == ("1", "0")  # a machine that boots leaves it alone
    assert tree(provider.view(one)) == {b"": None}
    provider.release()


def test_a_second_snapshot_replaces_the_first(group, state):
    sources = [fresh(group, "thick-ext4"), fresh(group, "thin-xfs", "two")]
    providers, _ = snapshot(state, *sources)
    for each in sources:
        (each.path / "file").write_bytes(b"later")
    for provider in providers:
        provider.snapshot(Deadline())
        (one,) = provider.sources
        assert tree(provider.view(one)) == {b"": None, b"file": b"later"}
        provider.release()


def test_a_mount_that_is_in_use_stays_noted_until_it_can_go(group, state):
    one = fresh(group, "thick-ext4")
    (one.path / "file").write_bytes(b"x")
    (provider,), journal = snapshot(state, one)
    descriptor = provider.view(one).open(b"file")
    with pytest.raises(SnapshotError, match="fuser"):
        provider.release()
    assert {each.kind for each in read_journal(journal.path).leftovers} == {"mounts", "suspension", "snapshot"}
    assert len(our_snapshots()) == 1
    os.close(descriptor)
    provider.release()
    assert journal.end()


def test_mounts_of_snapshots_do_not_spread_to_containers_that_follow_the_hosts_mounts(group, state):
    one = fresh(group, "thin-ext4")
    run("mount", "--make-rshared", "/run")
    follower = subprocess.Popen(["unshare", "--mount", "--propagation", "slave", "sleep", "1000"])
    try:
        (provider,), _ = snapshot(state, one)
        provider.view(one)
        run("mount", "-t", "tmpfs", "none", group.place)  # this one spreads
        seen = wait_for_mount(follower.pid, group.place)
        assert any("trinity--snap" in mount.device for mount in read_mounts())
        assert not any("trinity--snap" in mount.device for mount in seen)
        run("umount", group.place)
        provider.release()
    finally:
        follower.kill()
        follower.wait()
        run("mount", "--make-rprivate", "/run")


def wait_for_mount(process, place):
    until = time.monotonic() + 30
    while True:
        seen = read_mounts(Path(f"/proc/{process}/mountinfo").read_bytes())
        if any(mount.path == place and mount.filesystem == "tmpfs" for mount in seen):
            return seen
        assert time.monotonic() < until
        time.sleep(0.05)


def die_at(state, step, sources):
    """Make a snapshot of the sources and read it, in a process that is killed at a step of it."""
    child = os.fork()
    if child == 0:
        os.environ["TRINITY_SNAP_CRASH_AT"] = step
        providers, _ = snapshot(state, *sources)
        for provider in providers:
            for one in provider.sources:
                tree(provider.view(one))
        for provider in providers:
            provider.release()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, step


@pytest.mark.parametrize(
    "step", ["first-snapshot", "before-mount", "mounted", "before-release", "unmounted", "half-released"]
)
def test_a_run_killed_at_any_step_leaves_nothing_after_recover(group, state, step):
    sources = [fresh(group, "thick-xfs"), fresh(group, "thin-ext4", "two")]
    before = group.volumes()
    die_at(state, step, sources)
    report = recover(state, None)
    assert report.problems == []
    assert report.strays == []
    assert any(path.name.startswith("trinity-snap-run-1") for path in report.removed) or step == "half-released"
    assert group.volumes() == before
    assert not list(state.glob("mnt/*"))
    assert read_journal(journals(state)[0]).ended
    again = recover(state, None)
    assert (again.runs, again.removed) == ([], [])


def test_after_a_reboot_the_volumes_are_there_and_the_mounts_are_not(second, state):
    second.pool()
    places = [second.thick("thick"), second.thin("thin")]
    die_at(state, "before-release", [source(place / "one", place.name) for place in places])
    for mount in reversed(read_mounts()):
        if state in mount.path.parents or mount.path in places:
            run("umount", mount.path)
    run("vgchange", "-q", "-an", second.name)
    run("vgchange", "-q", "-ay", second.name)
    assert len(our_snapshots()) == 2
    report = recover(state, None)
    assert (report.problems, report.strays) == ([], [])
    assert second.volumes() == ["pool", "thick", "thin"]
    assert not list(state.glob("mnt/*"))


def test_without_a_journal_leftovers_are_found_by_name(group, state):
    die_at(state, "before-mount", [fresh(group, "thick-ext4"), fresh(group, "thin-xfs", "two")])
    shutil.rmtree(state)
    report = recover(state, None)
    assert [str(path) for path in report.strays] == [
        "/dev/lab-0/trinity-snap-run-1-1",
        "/dev/lab-0/trinity-snap-run-1-t1",
    ]
    for path in report.strays:
        assert remove_snapshot(path)


def test_a_source_that_vanishes_fails_alone_whenever_that_is(group, state):
    gone, unmounted = fresh(group, "thick-ext4", "gone"), fresh(group, "thick-xfs", "unmounted")
    kept = fresh(group, "thick-ext4", "kept")
    (kept.path / "file").write_bytes(b"x")
    (provider,) = select_providers([gone, unmounted, kept], Policy(), state)
    gone.path.rmdir()
    unmounted.path.rmdir()
    unmounted.path.symlink_to("/run")  # now on no logical volume
    journal = Journal.start(state, "run-1")
    provider.prepare(Prepare("run-1", journal, NullProgress()))
    provider.flush()
    provider.snapshot(Deadline(60))
    assert set(provider.failures()) == {(each.kind, each.name) for each in (gone, unmounted)}
    for each in (gone, unmounted):
        with pytest.raises(SnapshotError):
            provider.view(each)
    assert tree(provider.view(kept)) == {b"": None, b"file": b"x"}
    provider.release()
    assert journal.end()
    unmounted.path.unlink()


def test_volumes_of_others_are_left_alone_whatever_they_are_called(group, state):
    run("lvcreate", "-y", "-q", "-L", "4M", "-n", "trinity-snap-run-1-1", "lab-0")
    run("lvcreate", "-y", "-q", "-L", "4M", "-n", "precious", "--addtag", "trinity-snap", "lab-0")
    try:
        assert our_snapshots() == ()
        with pytest.raises(SnapshotError, match="left alone"):
            remove_snapshot(group.place.parent / "lab-0" / "trinity-snap-run-1-1")
        for name in ("trinity-snap-run-1-1", "precious"):
            where = Path("/dev/lab-0") / name
            with pytest.raises(SnapshotError, match="left alone"):
                remove_leftover(Leftover("snapshot", where, "lvm"), "run-1")
        one = fresh(group, "thick-ext4")
        (provider,), journal = prepared(state, [one])
        with pytest.raises(SnapshotError, match="already exists"):
            provider.snapshot(Deadline())
        with pytest.raises(SnapshotError, match="left alone"):
            provider.release()
        assert not journal.end()
        assert {"trinity-snap-run-1-1", "precious"} <= set(group.volumes())
    finally:
        run("lvremove", "-q", "-y", "lab-0/trinity-snap-run-1-1", "lab-0/precious")


def test_a_volume_that_a_killed_command_left_suspended_is_resumed(group, state):
    journal = Journal.start(state, "run-1")
    where = Path("/dev/lab-0/thick-xfs")
    journal.making([Leftover("suspension", where, "lvm")])
    journal.close()
    text = journal.path.read_text()
    journal.path.write_text(text.replace(f'"pid": {os.getpid()}', '"pid": 999999'))
    run("dmsetup", "suspend", "/dev/lab-0/thick-xfs")
    report = recover(state, None)
    assert (report.problems, report.removed) == ([], [where])
    (group.place / "thick-xfs" / "written").write_bytes(b"x")
    os.sync()


def test_the_choice_is_explained(group, monkeypatch):
    thick, thin = fresh(group, "thick-ext4"), fresh(group, "thin-xfs")
    assert "thin pool" in explain(thick).better
    assert "lab-0/pool" in explain(thin).why
    assert explain(thin).better == ""
    assert "lvm-thin" in explain(thin, "precopy").better
    with pytest.raises(SnapshotError, match="not in a thin pool"):
        explain(thick, "lvm-thin")
    with pytest.raises(SnapshotError, match="no thick snapshots"):
        explain(thin, "lvm")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    choice = explain(thick)
    assert (choice.provider, choice.better) == ("precopy", "install lvm2")
