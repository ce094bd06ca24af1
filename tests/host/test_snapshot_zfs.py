"""The provider `zfs` against a stand-in for OpenZFS's command; the real thing, but old, is in tests/lab/quick/test_zfs.py."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from trinity_snap.agents import Source
from trinity_snap.errors import SnapshotError
from trinity_snap.progress import NullProgress
from trinity_snap.quiesce import Journal, recover
from trinity_snap.quiesce.journal import journals, read_journal
from trinity_snap.snapshot import Deadline, Prepare, explain, zfs
from trinity_snap.snapshot.mounts import MountPoint, read_mounts
from trinity_snap.snapshot.select import Storage
from trinity_snap.snapshot.zfs import ZfsProvider, destroy, our_snapshots

pytestmark = pytest.mark.host

ROOT = Path(__file__).resolve().parents[2]
STEPS = ["first-snapshot", "before-mount", "mounted", "before-release", "unmounted", "half-released"]


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """Two datasets, `tank/one` and `tank/two`, that look mounted."""
    home = tmp_path / "zfs"
    (home / "bin").mkdir(parents=True)
    command = home / "bin" / "zfs"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/lab/fake_zfs.py "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{home / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_ZFS", str(home))
    mounts = []
    for name in ("one", "two"):
        place = home / "datasets" / f"tank%{name}"
        place.mkdir(parents=True)
        mounts.append(MountPoint(place, "/", "zfs", f"tank/{name}", frozenset()))
    monkeypatch.setattr(zfs, "find_mount", lambda path: next(each for each in mounts if each.path in path.parents))
    monkeypatch.setattr(zfs, "read_mounts", lambda: (*mounts, *read_mounts()))
    yield mounts
    assert not [mount for mount in read_mounts() if tmp_path in mount.path.parents]


@pytest.fixture
def sources(pool):
    made = []
    for mount in pool:
        path = mount.path / "deep" / "volume"
        path.mkdir(parents=True)
        (path / "file").write_bytes(b"before")
        made.append(Source(mount.device, "volume", path, "/data"))
    return made


def prepared(state, sources):
    provider = ZfsProvider(sources, state)
    journal = Journal.start(state, "run-1")
    provider.prepare(Prepare("run-1", journal, NullProgress()))
    return provider, journal


def read(provider, source):
    with open(provider.view(source).open(b"file"), "rb") as file:
        return file.read()


def asked(pool):
    return [json.loads(line) for line in (pool[0].path.parents[1] / "log").read_text().splitlines()]


def test_all_datasets_of_a_pool_are_snapshotted_by_one_command(pool, sources, tmp_path):
    provider, journal = prepared(tmp_path / "state", sources)
    provider.flush()
    provider.snapshot(Deadline(30))
    (made,) = [words for words in asked(pool) if words[0] == "snapshot"]
    assert made[-2:] == ["tank/one@trinity-snap-run-1", "tank/two@trinity-snap-run-1"]
    for source in sources:
        (source.path / "file").write_bytes(b"after")
        assert read(provider, source) == b"before"
        with pytest.raises(OSError, match="Read-only"):
            os.unlink(provider.view(source).root / "file")
        provider.check(source)
    provider.release()
    provider.release()
    assert our_snapshots() == ()
    assert journal.end()
    assert not list((tmp_path / "state").glob("mnt/*"))


def test_a_second_snapshot_replaces_the_first(pool, sources, tmp_path):
    provider, _ = prepared(tmp_path / "state", sources)
    provider.snapshot(Deadline(30))
    for source in sources:
        (source.path / "file").write_bytes(b"later")
    provider.snapshot(Deadline())
    assert [read(provider, source) for source in sources] == [b"later", b"later"]
    provider.release()


@pytest.mark.parametrize("step", STEPS)
def test_a_run_killed_at_any_step_leaves_nothing_after_recover(pool, sources, tmp_path, step):
    state = tmp_path / "state"
    child = os.fork()
    if child == 0:
        os.environ["TRINITY_SNAP_CRASH_AT"] = step
        provider, _ = prepared(state, sources)
        provider.snapshot(Deadline())
        for source in sources:
            read(provider, source)
        provider.release()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    report = recover(state, None)
    assert report.problems == []
    assert report.removed
    assert our_snapshots() == ()
    assert read_journal(journals(state)[0]).ended


def test_snapshots_of_others_are_left_alone(pool, sources, tmp_path):
    os.system("zfs snapshot tank/one@trinity-snap-run-1")  # without the property
    with pytest.raises(SnapshotError, match="left alone"):
        destroy("tank/one@trinity-snap-run-1")
    provider, journal = prepared(tmp_path / "state", sources)
    with pytest.raises(SnapshotError, match="already exists"):
        provider.snapshot(Deadline())
    with pytest.raises(SnapshotError, match="left alone"):
        provider.release()
    assert not journal.end()


def test_the_choice_is_explained(pool, sources, monkeypatch):
    storage = Storage(pool)
    assert explain(sources[0], "auto", storage).provider == "zfs"
    assert "tank/one" in explain(sources[0], "zfs", storage).why
    monkeypatch.setenv("PATH", "/nowhere")
    choice = explain(sources[0], "auto", storage)
    assert (choice.provider, choice.better) == ("precopy", "install zfsutils-linux")
    with pytest.raises(SnapshotError, match="missing"):
        explain(sources[0], "zfs", storage)
