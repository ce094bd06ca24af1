"""The btrfs provider alone, on a real filesystem."""

import contextlib
import os
import shutil
import stat
import subprocess

import pytest

from tests.lab.disks import filesystem
from tests.lab.policies import Policy
from trinity_snap.agents import Source
from trinity_snap.errors import SnapshotError
from trinity_snap.progress import NullProgress
from trinity_snap.quiesce import Journal
from trinity_snap.snapshot import Deadline, Prepare, explain, select_providers
from trinity_snap.snapshot.btrfs import BtrfsProvider, remove_leftover, snapshots_by_name, subvolume_of

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    with filesystem("btrfs", tmp_path_factory.mktemp("disk"), 1 << 30) as place:
        yield place


@pytest.fixture
def place(disk, tmp_path):
    directory = disk / tmp_path.name
    directory.mkdir()
    return directory


def btrfs(*arguments):
    subprocess.run(["btrfs", *map(str, arguments)], check=True, capture_output=True)


def snapshot(state, *sources):
    provider = BtrfsProvider(sources)
    journal = Journal.start(state, "run-1")
    provider.prepare(Prepare("run-1", journal, NullProgress()))
    provider.flush()
    provider.snapshot(Deadline(30))
    return provider


def fill(path):
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(os.urandom(1 << 20))
            os.fsync(file.fileno())


def volume(path):
    path.mkdir(parents=True, exist_ok=True)
    return Source(path.name, "volume", path, "/data")


def tree(view):
    found = {}
    for item in view.walk():
        content = None
        if item.stat and stat.S_ISREG(item.stat.st_mode):
            with open(view.open(item.path), "rb") as file:
                content = file.read()
        found[item.path] = content
    return found


def test_a_view_shows_the_instant_and_nothing_later(place, tmp_path):
    source = volume(place / "one")
    (source.path / "kept").write_bytes(b"before")
    (source.path / "gone").write_bytes(b"there")
    provider = snapshot(tmp_path / "state", source, volume(place / "two"))
    (source.path / "kept").write_bytes(b"after")
    (source.path / "gone").unlink()
    (source.path / "new").touch()
    assert tree(provider.view(source)) == {b"": None, b"gone": b"there", b"kept": b"before"}
    assert len([path for path in snapshots_by_name([place]) if "run-1" in path.name]) == 1
    provider.release()
    provider.release()
    assert snapshots_by_name([place]) == ()


def test_a_subvolume_inside_a_volume_is_shown_in_its_place(place, tmp_path):
    source = volume(place / "one")
    (source.path / "a").mkdir()
    btrfs("subvolume", "create", source.path / "a" / "nested")
    btrfs("subvolume", "create", source.path / "a" / "nested" / "deeper")
    (source.path / "a" / "nested" / "deeper" / "file").write_bytes(b"deep")
    (source.path / "b").write_bytes(b"flat")
    provider = snapshot(tmp_path / "state", source)
    (source.path / "a" / "nested" / "deeper" / "file").write_bytes(b"changed")
    assert tree(provider.view(source)) == {
        b"": None, b"a": None, b"a/nested": None, b"a/nested/deeper": None, b"a/nested/deeper/file": b"deep",
        b"b": b"flat",
    }  # fmt: skip
    assert provider.problems(source) == []
    btrfs("subvolume", "create", source.path / "late")
    assert [path for path, _ in provider.problems(source)] == [b"late"]
    provider.release()
    assert not list(place.rglob(".trinity-snap"))


def test_subvolumes_are_found_whatever_their_names_and_however_many(place, tmp_path):
    source = volume(place / "one")
    odd = [b"two\nlines", b"ID 7 gen 7 top level 5 path x", b"\xff", "ü ".encode(), b"many"]
    for name in odd:
        (source.path / "sub").mkdir(exist_ok=True)
        btrfs("subvolume", "create", os.fsdecode(os.fsencode(source.path / "sub") + b"/" + name))
        (source.path / "sub" / os.fsdecode(name) / "file").write_bytes(name)
    many = source.path / "sub" / "many"
    subprocess.run(["sh", "-c", "seq 300 | xargs -n 1 btrfs -q subvolume create"], cwd=many, check=True)
    provider = snapshot(tmp_path / "state", source)
    shown = tree(provider.view(source))
    assert {path: data for path, data in shown.items() if path.endswith(b"/file")} == {
        b"sub/" + name + b"/file": name for name in odd
    }
    assert {path for path in shown if path.startswith(b"sub/many/")} == {b"sub/many/file"} | {
        b"sub/many/%d" % number for number in range(1, 301)
    }
    assert provider.problems(source) == []
    provider.release()


def test_a_volume_that_is_a_subvolume_does_not_see_the_snapshot(place, tmp_path):
    btrfs("subvolume", "create", place / "one")
    source = volume(place / "one")
    (source.path / "file").write_bytes(b"x")
    assert subvolume_of(source.path) == source.path
    provider = snapshot(tmp_path / "state", source)
    assert os.listdir(source.path) == ["file"]
    assert tree(provider.view(source)) == {b"": None, b"file": b"x"}
    provider.release()


def test_a_source_that_is_a_whole_filesystem_is_shown_without_our_directory(tmp_path):
    with filesystem("btrfs", tmp_path / "disk", 256 << 20) as whole:
        (whole / "file").write_bytes(b"x")
        source = Source("whole", "path", whole, str(whole))
        provider = snapshot(tmp_path / "state", source)
        assert tree(provider.view(source)) == {b"": None, b"file": b"x"}
        provider.release()
        assert os.listdir(whole) == ["file"]


def test_a_single_file_is_a_source_too(place, tmp_path):
    (place / ".env").write_bytes(b"SECRET=1")
    source = Source(".env", "path", place / ".env", str(place / ".env"))
    provider = snapshot(tmp_path / "state", source)
    (place / ".env").write_bytes(b"SECRET=2")
    assert tree(provider.view(source)) == {b"": b"SECRET=1"}
    provider.release()


def test_a_filesystem_mounted_inside_is_reported(place, tmp_path):
    source = volume(place / "one")
    inside = source.path / "mnt"
    inside.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(inside)], check=True)
    try:
        provider = snapshot(tmp_path / "state", source)
        ((path, why),) = provider.problems(source)
        assert path == b"mnt"
        assert "tmpfs" in why
        provider.release()
    finally:
        subprocess.run(["umount", str(inside)], check=True)


def test_a_volume_exchanged_for_a_link_to_another_subvolume_fails_alone(place, tmp_path):
    for name in ("one", "two", "secret"):
        btrfs("subvolume", "create", place / name)
    one, two = volume(place / "one"), volume(place / "two")
    (place / "secret" / "key").write_bytes(b"secret")
    (two.path / "file").write_bytes(b"x")
    provider = BtrfsProvider([one, two])
    journal = Journal.start(tmp_path / "state", "run-1")
    provider.prepare(Prepare("run-1", journal, NullProgress()))
    (place / "one").rename(place / "gone")
    (place / "one").symlink_to(place / "secret")
    provider.flush()
    provider.snapshot(Deadline(30))
    assert list(provider.failures()) == [("volume", "one")]
    with pytest.raises(SnapshotError, match="another subvolume"):
        provider.view(one)
    assert tree(provider.view(two)) == {b"": None, b"file": b"x"}
    (place / "one").unlink()
    (place / "gone").rename(place / "one")
    provider.snapshot(Deadline(30))
    assert not provider.failures()
    assert tree(provider.view(one)) == {b"": None}
    provider.release()
    assert snapshots_by_name([place]) == ()


def test_a_volume_that_vanishes_fails_alone(place, tmp_path):
    gone, kept = volume(place / "gone"), volume(place / "kept")
    provider = BtrfsProvider([gone, kept, Source("never", "volume", place / "never", "/data")])
    gone.path.rmdir()
    provider.prepare(Prepare("run-1", Journal.start(tmp_path / "state", "run-1"), NullProgress()))
    provider.snapshot(Deadline(30))
    assert sorted(name for _, name in provider.failures()) == ["gone", "never"]
    assert tree(provider.view(kept)) == {b"": None}
    provider.release()


def test_a_second_snapshot_replaces_the_first(place, tmp_path):
    source = volume(place / "one")
    provider = snapshot(tmp_path / "state", source)
    (source.path / "file").write_bytes(b"later")
    provider.snapshot(Deadline())
    assert tree(provider.view(source)) == {b"": None, b"file": b"later"}
    provider.release()


def test_without_the_btrfs_command_the_choice_says_so(place, monkeypatch):
    source = volume(place / "one")
    assert explain(source).provider == "btrfs"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    choice = explain(source)
    assert choice.provider == "precopy"
    assert "btrfs-progs" in choice.better
    with pytest.raises(SnapshotError, match="btrfs-progs"):
        explain(source, "btrfs")


def test_forcing_btrfs_elsewhere_is_refused_with_the_reason(tmp_path):
    source = volume(tmp_path / "one")
    policy = Policy()
    policy.snapshot.provider = "btrfs"
    with pytest.raises(SnapshotError, match=r"not on btrfs"):
        select_providers([source], policy, tmp_path)


def test_a_full_filesystem_is_a_clear_error_before_anything_is_paused(tmp_path):
    with filesystem("btrfs", tmp_path / "disk", 128 << 20) as small:
        source = volume(small / "one")
        fill(source.path / "big")
        with pytest.raises(SnapshotError, match="full"):
            snapshot(tmp_path / "state", source)


def test_only_snapshots_in_our_directory_are_ever_removed(place):
    btrfs("subvolume", "create", place / "precious")
    with pytest.raises(SnapshotError, match="left alone"):
        remove_leftover(place / "precious")
    assert (place / "precious").is_dir()
