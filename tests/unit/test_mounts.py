from pathlib import Path

import pytest

from trinity_snap.errors import SnapshotError
from trinity_snap.snapshot.mounts import find_mount, nested_mounts, read_mounts

MOUNTINFO = b"""\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
22 21 0:40 /@docker {root}/data rw,relatime - btrfs /dev/sdb rw,subvolid=256
23 22 0:41 / {root}/data/in\\040side rw - tmpfs tmpfs rw
24 21 8:2 / {root}/dat rw - xfs /dev/sdc rw
25 21 8:3 / {root}/over rw - ext4 /dev/sdd rw
26 25 8:4 / {root}/over rw - xfs /dev/sde rw
damaged line
27 21 8:5 / {root}/x rw - """


@pytest.fixture
def root(tmp_path):
    for name in ("data/in side/deep", "dat", "over"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    return tmp_path


def mounts_of(root):
    return read_mounts(MOUNTINFO.replace(b"{root}", bytes(root)))


def test_the_longest_mount_point_above_a_path_is_its_mount(root):
    mounts = mounts_of(root)
    assert find_mount(root / "data", mounts).filesystem == "btrfs"
    assert find_mount(root / "dat", mounts).filesystem == "xfs"
    assert find_mount(root, mounts).filesystem == "ext4"
    assert find_mount(root / "data/in side/deep", mounts).filesystem == "tmpfs"


def test_of_two_mounts_at_one_place_the_later_counts(root):
    assert find_mount(root / "over", mounts_of(root)).device == "/dev/sde"


def test_symbolic_links_are_followed_first(root):
    assert find_mount(root / "link", mounts_of(root)).root == "/@docker"


def test_mounts_inside_a_path_are_found_and_the_one_at_it_is_not(root):
    mounts = mounts_of(root)
    assert [mount.path for mount in nested_mounts(root / "data", mounts)] == [root / "data/in side"]
    assert nested_mounts(root / "dat", mounts) == ()


def test_a_missing_path_is_an_error_that_names_it(tmp_path):
    with pytest.raises(SnapshotError, match="nowhere"):
        find_mount(tmp_path / "nowhere")


def test_the_kernels_own_table_can_be_read():
    assert find_mount(Path("/proc/self")).filesystem == "proc"
