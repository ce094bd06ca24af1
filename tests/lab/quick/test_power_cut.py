"""After a power cut at any write, every recovery point that was reported as done is whole in a local target."""

import os
import random
import shutil
from pathlib import Path

import pytest

from tests.engine.conftest import Store
from tests.lab.quick.powercut import read_log, replay
from tests.lab.quick.volumes import run
from trinity_snap.errors import TrinitySnapError
from trinity_snap.repository.keys import generate_host_secret, generate_identity
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.verify import verify
from trinity_snap.targets import open_target

DISK, LOG = "/dev/ubdb", Path("/dev/ubdc")
BYTES = {"ext4": 96 << 20, "xfs": 320 << 20}
MKFS = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}
RUNS = 3
CUTS = int(os.environ.get("TRINITY_SNAP_POWER_CUTS", "12"))


def change(data, number):
    (data / f"new-{number}").write_bytes(os.urandom(300_000))
    (data / "grows").write_bytes(b"line\n" * 20_000 * (number + 1))
    for small in range(30):
        (data / f"small-{small}").write_bytes(os.urandom(200))


def mark(text):
    run("dmsetup", "message", "logged", "0", f"mark {text}")


def record(tmp_path, filesystem):
    """Back up several times into a target whose disk logs every write, with a mark after each report. Return the store."""
    run("dd", "if=/dev/zero", f"of={LOG}", "bs=1M", "count=1", "conv=fsync")
    run("dmsetup", "create", "logged", "--table", f"0 {BYTES[filesystem] // 512} log-writes {DISK} {LOG}")
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        run(*MKFS[filesystem], "/dev/mapper/logged")
        run("mount", "/dev/mapper/logged", disk)
        identities = generate_identity("operator"), generate_identity("recovery")
        store = Store(disk / "repository", tmp_path / "cache", generate_host_secret(), *identities)
        target = open_target(str(store.directory), create=True)
        Repository.create(target, store.host, [identity.recipient for identity in identities])
        mark("created")
        data = tmp_path / "data"
        data.mkdir()
        for number in range(RUNS):
            change(data, number)
            mark(f"point:{store.backup(data).id}")
        return store
    finally:
        run("umount", disk)
        run("dmsetup", "remove", "logged")


def cut_everywhere(tmp_path, filesystem, store, random_cuts):
    """Look at the disk as it was after some of the writes: after each report, and anywhere in between."""
    entries = list(read_log(LOG))
    created = next(at for at, entry in enumerate(entries) if entry.mark == "created")
    after_reports = {at + 1 for at, entry in enumerate(entries) if entry.mark}
    places = range(created + 1, len(entries) + 1)
    image, copy, after, done = tmp_path / "image", tmp_path / "copy", tmp_path / "after", 0
    after.mkdir()
    with open(image, "wb") as file:
        file.truncate(BYTES[filesystem])
    reported: set[str] = set()
    for cut in sorted(after_reports | set(random.Random(7).sample(places, min(random_cuts, len(places))))):
        replay(LOG, entries[done:cut], image)
        reported |= {entry.mark[6:] for entry in entries[done:cut] if entry.mark.startswith("point:")}
        done = cut
        run("cp", "--sparse=always", image, copy)  # mounting writes to it
        run("mount", "-o", "loop", copy, after)
        store.directory = after / "repository"
        try:
            repository = store.open()
            points = repository.points()
            assert reported <= {point.id for point in points}, f"cut at {cut} of {len(entries)}"
            assert verify(repository, points, read_data=True).good, f"cut at {cut} of {len(entries)}"
            cache = tmp_path / f"cache-{cut}"
            assert store.backup(tmp_path / "data", cache=cache).id  # and the next run works
            shutil.rmtree(cache)
        finally:
            run("umount", after)
    assert len(reported) == RUNS
    image.unlink()
    copy.unlink()


@pytest.mark.parametrize("filesystem", ["ext4", "xfs"])
def test_every_reported_point_survives_a_power_cut_at_any_write(tmp_path, filesystem):
    cut_everywhere(tmp_path, filesystem, record(tmp_path, filesystem), CUTS)


def test_a_flush_that_is_missing_would_show(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, lambda descriptor: None)
        store = record(tmp_path, "ext4")
    with pytest.raises((AssertionError, TrinitySnapError)):
        cut_everywhere(tmp_path, "ext4", store, 0)
