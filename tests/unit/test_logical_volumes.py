"""What the tools of LVM and ZFS say, as it was recorded, and what is made of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from trinity_snap.errors import SnapshotError
from trinity_snap.quiesce.journal import Leftover
from trinity_snap.snapshot import zfs
from trinity_snap.snapshot.leftovers import remove_leftover
from trinity_snap.snapshot.logicalvolumes import SnapshotState, parse_state, parse_volumes
from trinity_snap.snapshot.lvm import require_pool
from trinity_snap.snapshot.mounts import MountPoint, path_in_filesystem

COMMON = {
    "vg_free": "1501560832",
    "vg_extent_size": "4194304",
    "lv_suspended": "0",
    "metadata_percent": "",
    "lv_metadata_size": "",
}
THICK = {
    **COMMON, "vg_name": "vg0", "lv_name": "data", "lv_uuid": "yBE7j8", "lv_size": "536870912", "lv_layout": "linear",
    "lv_role": "public,origin,thickorigin", "lv_tags": "", "pool_lv": "", "lv_dm_path": "/dev/mapper/vg0-data",
    "lv_kernel_major": "254", "lv_kernel_minor": "0", "data_percent": "",
}  # fmt: skip
OURS = {
    **THICK, "lv_name": "trinity-snap-x-1", "lv_role": "public,snapshot,thicksnapshot", "lv_tags": "trinity-snap,more",
    "data_percent": "0.01",
}  # fmt: skip
POOL = {
    **THICK, "vg_name": "vg1", "lv_name": "pool", "lv_layout": "thin,pool", "lv_role": "private", "data_percent": "12.63",
    "metadata_percent": "11.43", "lv_metadata_size": "4194304",
}  # fmt: skip
THIN = {
    **THICK,
    "vg_name": "vg1",
    "lv_name": "thin",
    "lv_layout": "thin,sparse",
    "pool_lv": "pool",
    "lv_kernel_minor": "-1",
}


def volumes(*rows):
    return parse_volumes(json.dumps({"report": [{"lv": list(rows)}], "log": []}))


def test_thick_and_thin_and_pools_are_told_apart():
    thick, ours, pool, thin = volumes(THICK, OURS, POOL, THIN)
    assert [(each.is_thick, each.is_thin) for each in (thick, ours, pool, thin)] == [
        (True, False), (False, False), (False, False), (False, True),
    ]  # fmt: skip
    assert (thick.number, thick.full_name, thick.path) == ((254, 0), "vg0/data", Path("/dev/vg0/data"))
    assert (pool.percent, pool.metadata_percent, thin.percent) == (12.63, 11.43, None)
    for layout in ("cache", "vdo", "writecache", "mirror", "unknown"):
        assert not replace(thick, layout=frozenset({layout})).is_thick


def test_a_volume_is_ours_by_name_and_tag_only():
    (ours,) = volumes(OURS)
    assert ours.is_ours
    assert not replace(ours, tags=frozenset()).is_ours
    assert not replace(ours, name="data").is_ours
    assert not replace(ours, name="my-trinity-snap-x").is_ours


@pytest.mark.parametrize(
    "text", ["", "Volume group not found", "[]", '{"report": [{"lv": [{"vg_name": "x"}]}]}', '{"report": 3}']
)
def test_a_report_that_makes_no_sense_is_an_error(text):
    with pytest.raises(SnapshotError, match="lvs"):
        parse_volumes(text)


@pytest.mark.parametrize(
    ("line", "state"),
    [
        ("0 1048576 snapshot 24/204800 16", SnapshotState(False, 24 * 512)),
        ("0 1048576 snapshot Invalid", SnapshotState(True)),
        ("0 1048576 snapshot Overflow", SnapshotState(True)),
        ("0 1048576 snapshot Merge failed", SnapshotState(True)),
        ("0 2097152 thin 132480 2097151", SnapshotState(False, 132480 * 512)),
        ("0 2097152 thin 0 -", SnapshotState(False, 0)),
        ("0 2097152 thin Fail", SnapshotState(True)),
        ("0 2097152 error", SnapshotState(True)),
        ("", SnapshotState(True)),
    ],
)
def test_the_kernels_word_on_a_snapshot(line, state):
    assert parse_state(line) == state


def test_a_pool_is_refused_for_its_data_and_for_its_metadata():
    (pool,) = volumes(POOL)
    require_pool(pool, 90)
    with pytest.raises(SnapshotError, match=r"vg1/pool .*95\.5 % of its 512\.0 MiB of data"):
        require_pool(replace(pool, percent=95.5), 90)
    with pytest.raises(SnapshotError, match=r"91 % of its 4\.0 MiB of metadata .*poolmetadatasize"):
        require_pool(replace(pool, metadata_percent=91.0), 90)


def test_a_path_is_found_from_the_root_of_its_filesystem():
    mount = MountPoint(Path("/srv/bound"), "/docker/volumes", "ext4", "/dev/mapper/vg0-data", frozenset())
    assert path_in_filesystem(Path("/srv/bound/one/_data"), mount) == Path("docker/volumes/one/_data")
    whole = MountPoint(Path("/"), "/", "ext4", "/dev/mapper/vg0-root", frozenset())
    assert path_in_filesystem(Path("/var/lib"), whole) == Path("var/lib")
    with pytest.raises(SnapshotError, match="deleted"):
        path_in_filesystem(Path("/srv/bound"), replace(mount, root="/docker//deleted"))


def test_of_zfs_only_what_has_name_and_property_is_ours():
    listing = "\n".join(
        [
            "tank\t-",
            "tank/one\t-",
            "tank/one@trinity-snap-r1\tr1",
            "tank/one@trinity-snap-r2\t-",
            "tank/one@trinity-snap-r2\tr1",
            "tank/one@daily\tr1",
            "tank/trinity-snap-r1-1\tr1",
            "tank/trinity-snap-r1-1/below\tr1",
            "tank/trinity-snap-r1-1@daily\tr1",
        ]
    )
    assert zfs.parse_list(listing) == {"tank/one@trinity-snap-r1": "r1", "tank/trinity-snap-r1-1": "r1"}


@pytest.mark.parametrize(
    "leftover",
    [
        Leftover("snapshot", Path("/dev/vg0/trinity-snap-run-2-1"), "lvm"),
        Leftover("snapshot", Path("/dev/vg0/data"), "lvm-thin"),
        Leftover("mounts", Path("/var/lib/trinity-snap/mnt/run-2-lvm"), "lvm"),
        Leftover("clone", Path("tank/trinity-snap-run-2-1"), "zfs"),
        Leftover("snapshot", Path("tank/one@trinity-snap-run-2"), "zfs"),
        Leftover("snapshot", Path("/mnt/.trinity-snap/run-2-1"), "btrfs"),
        Leftover("staging", Path("/var/lib/trinity-snap/staging/run-2"), "precopy"),
    ],
    ids=lambda leftover: f"{leftover.provider}-{leftover.kind}",
)
def test_what_is_not_named_after_its_run_is_left_alone(leftover):
    with pytest.raises(SnapshotError, match="left alone"):
        remove_leftover(leftover, "run-1")


def test_a_leftover_of_a_provider_of_the_future_is_left_alone():
    with pytest.raises(SnapshotError, match="does not know"):
        remove_leftover(Leftover("snapshot", Path("/x/run-1"), "stratis"), "run-1")
