"""Snapshots of a run whose journal is lost: named by `recover`, removed by `recover --strays`, and only if they are ours."""

import os
import shutil
import signal

import pytest

from tests.lab.disks import unmount_all_below
from tests.lab.quick.test_whole_run import Host
from tests.lab.quick.volumes import run, volume_group
from trinity_snap.quiesce import HostLock
from trinity_snap.snapshot.btrfs_store import snapshots_by_name
from trinity_snap.snapshot.logicalvolumes import our_snapshots
from trinity_snap.snapshot.mounts import read_mounts


@pytest.fixture
def group(tmp_path):
    with volume_group("lab-2", "/dev/ubdd", tmp_path / "group") as made:
        made.pool()
        made.thick("thick", "ext4", "160M")
        made.thin("thin", "xfs", "400M")
        yield made
        unmount_all_below(tmp_path / "home")


@pytest.fixture
def btrfs(tmp_path):
    place = tmp_path / "btrfs"
    place.mkdir()
    run("mkfs.btrfs", "-q", "-f", "/dev/ubdc")
    run("mount", "/dev/ubdc", place)
    yield place
    run("umount", place)


def die_while_shipping(host):
    process = host.start("backup", TRINITY_SNAP_CRASH_AT="committed")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, (output, errors)


def test_what_a_run_without_a_journal_left_goes_when_asked_for_and_what_is_not_provably_ours_stays(
    group, btrfs, tmp_path
):
    places = [group.place / "thick" / "data", group.place / "thin" / "data", btrfs / "data"]
    for place in places:
        place.mkdir()
        (place / "file").write_bytes(os.urandom(1000))
    host = Host(tmp_path / "home", places)
    die_while_shipping(host)
    lost = {*map(str, our_snapshots()), *map(str, snapshots_by_name())}
    assert len(lost) == 3
    mounted = {mount.device for mount in read_mounts() if "trinity--snap" in mount.device}
    assert len(mounted) == 2
    shutil.rmtree(tmp_path / "home/state/journal")

    run_id = "0123456789abcdef" * 2
    run("lvcreate", "-y", "-q", "-s", "-L", "8M", "-n", f"trinity-snap-{run_id}-1", "lab-2/thick")  # no tag
    run("lvcreate", "-y", "-q", "-L", "8M", "-n", f"trinity-snap-{run_id}-2", "--addtag", "trinity-snap", "lab-2")
    run("lvcreate", "-y", "-q", "-s", "-L", "8M", "-n", "trinity-snap-mine", "--addtag", "trinity-snap", "lab-2/thick")
    run("btrfs", "subvolume", "snapshot", btrfs, btrfs / f".trinity-snap/{run_id}-1")  # can be written
    run("btrfs", "subvolume", "snapshot", "-r", btrfs, btrfs / ".trinity-snap/mine")
    run("btrfs", "subvolume", "create", btrfs / f".trinity-snap/{run_id}-3")  # no snapshot
    run("btrfs", "property", "set", "-ts", btrfs / f".trinity-snap/{run_id}-3", "ro", "true")
    run("btrfs", "subvolume", "snapshot", "-r", btrfs, btrfs / f".trinity-snap/keep-{run_id}-1")
    everything = group.volumes()

    told = host.run("recover")
    assert (told["removed"], lost <= set(told["strays"])) == ([], True)
    with HostLock(tmp_path / "other", "a" * 32):  # of another policy: they may be its own
        assert host.run("recover", "--strays", code=3)["error"] == "HostBusy"
    assert group.volumes() == everything

    swept = host.run("recover", "--strays", code=1)  # what is named like ours, and is not, is a problem
    assert set(swept["removed"]) == lost
    assert len(swept["problems"]) == 5, swept
    assert all("not as a run of this program" in problem for problem in swept["problems"])
    kept = str(btrfs / f".trinity-snap/keep-{run_id}-1")
    assert kept in swept["strays"]
    assert group.volumes() == sorted(set(everything) - {path.rpartition("/")[2] for path in lost})
    assert sorted(path.name for path in (btrfs / ".trinity-snap").iterdir()) == sorted(
        [f"{run_id}-1", f"{run_id}-3", "mine", f"keep-{run_id}-1"]
    )
    assert not [mount for mount in read_mounts() if mount.device in mounted]
    host.run("backup")
