"""Runs, and the commands of LVM that they started, killed at any moment: `recover` leaves nothing, and the filesystems work."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.lab.quick.test_lvm import snapshot, source, tree
from tests.lab.quick.volumes import run, volume_group
from trinity_snap.quiesce import recover
from trinity_snap.snapshot.logicalvolumes import our_snapshots

ROUNDS = int(os.environ.get("TRINITY_SNAP_KILL_ROUNDS", "8"))


@pytest.fixture
def group(tmp_path):
    with volume_group("lab-3", "/dev/ubde", tmp_path / "mnt") as made:
        made.pool()
        made.thick("thick", "ext4")
        made.thin("thin", "xfs", "400M")
        yield made


def kill_commands():
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "comm").read_text().strip() in ("lvcreate", "lvremove", "lvchange", "lvm"):
                os.kill(int(entry.name), signal.SIGKILL)
        except (OSError, ProcessLookupError):
            continue


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_stays_whenever_a_run_and_its_commands_are_killed(group, tmp_path):
    chance = random.Random(20261123)
    sources = [source(group.place / name / "data", name) for name in ("thick", "thin")]
    for number in range(ROUNDS):
        state = tmp_path / f"state-{number}"
        child = os.fork()
        if child == 0:
            for provider in snapshot(state, *sources)[0]:
                for one in provider.sources:
                    tree(provider.view(one))
                provider.release()
            os._exit(0)
        time.sleep(chance.uniform(0, 2.5))  # at any moment of its life
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if number % 2:
            kill_commands()
        if not (state / "journal").exists():
            continue
        report = recover(state, None)
        assert report.problems == [], number
        assert our_snapshots() == (), number
        assert group.volumes() == ["pool", "thick", "thin"], number
        for one in sources:
            (one.path / f"file-{number}").write_bytes(b"x" * 10_000)
        os.sync()
        shutil.rmtree(state)
    run("vgck", "lab-3")
