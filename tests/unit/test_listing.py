import os
import random

from hypothesis import given
from hypothesis import strategies as st

from trinity_snap.snapshot.listing import Listing, Records, ShippedTree, lies_in, pack, same
from trinity_snap.snapshot.view import walk_directory

_NAME = st.binary(min_size=1, max_size=4).filter(lambda name: b"/" not in name and b"\0" not in name)
_PATHS = st.sets(st.lists(_NAME, min_size=1, max_size=3).map(b"/".join), max_size=40)


def in_manifest_order(paths):
    return sorted(paths, key=lambda path: path.split(b"/"))


@given(_PATHS, st.randoms(use_true_random=False))
def test_every_recorded_file_is_found_in_any_order_and_no_other(paths, randomly):
    status = os.stat("/proc/self/exe")
    tree = ShippedTree()
    for path in in_manifest_order(paths):
        tree.record(path, status)
    asked = [*paths, *(path + b"!" for path in paths), b""]
    randomly.shuffle(asked)
    assert {path for path in asked if path in tree} == paths
    assert list(tree) == in_manifest_order(paths)


def test_a_listing_gives_back_what_lstat_said(tmp_path):
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_bytes(b"x" * 10_000)
    os.utime(tmp_path / "file", ns=(5, -123_456_789_987))
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    items = list(walk_directory(os.fsencode(tmp_path)))
    listing = Listing()
    for item in items:
        assert item.stat is not None
        listing.append(item.path, item.stat)
    wanted = "st_mode st_ino st_dev st_nlink st_uid st_gid st_size st_mtime_ns st_ctime_ns st_blocks st_rdev"
    for before, after in zip(items, listing.walk(), strict=True):
        assert before.path == after.path
        for field in wanted.split():
            assert getattr(before.stat, field) == getattr(after.stat, field), (before.path, field)
        assert before.stat is not None
        assert same(pack(before.stat), listing.find(before.path) or b"")


def test_a_listing_repeats_errors_where_they_happened():
    listing = Listing()
    status = os.stat("/")
    for path in (b"", b"a"):
        listing.append(path, status)
    listing.append_error(b"a", PermissionError(13, "no"))
    listing.append(b"b", status)
    assert [(item.path, bool(item.error)) for item in listing.walk()] == [
        (b"", False), (b"a", False), (b"a", True), (b"b", False)
    ]  # fmt: skip
    assert listing.find(b"b") == pack(status)


def test_looking_up_in_order_with_gaps_finds_everything():
    status = os.stat("/")
    tree = ShippedTree()
    names = [b"%06d" % number for number in range(2000)]
    for name in names:
        tree.record(name, status)
    picked = sorted(random.Random(1).sample(names, 500))
    assert all(name in tree for name in picked)


@given(_PATHS, _PATHS, _PATHS)
def test_merging_replaces_what_changed_and_leaves_out_what_is_gone(old, new, gone):
    gone = {path for path in gone | set(list(old)[:2]) if path}
    before, after = Records(4), Records(4)
    for path in in_manifest_order(old | {b""}):
        before.append(path, b"old!")
    for path in in_manifest_order(new):
        after.append(path, b"new!")
    wanted = {path: b"old!" for path in old | {b""} if not lies_in(path, gone)} | dict.fromkeys(new, b"new!")
    merged = before.merged(after, gone)
    assert list(merged) == [(path, wanted[path]) for path in in_manifest_order(wanted)]
    assert all(merged.find(path) == record for path, record in wanted.items())


def test_merging_keeps_an_entry_and_the_error_of_what_is_in_it():
    status = os.stat("/")
    before, after = Listing(), Listing(status.st_dev)
    for path in (b"", b"a", b"a/b", b"c"):
        before.append(path, status)
    after.append(b"a", status)
    after.append_error(b"a", PermissionError(13, "no"))
    merged = before.merged(after, {b"a"})
    assert [(item.path, bool(item.error)) for item in merged.walk()] == [
        (b"", False), (b"a", False), (b"a", True), (b"c", False)
    ]  # fmt: skip
