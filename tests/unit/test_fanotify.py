"""What is made of the kernel's bytes, without a kernel."""

import struct

import pytest

from trinity_snap.snapshot import fanotify
from trinity_snap.snapshot.changes import InodeIndex, Suspects
from trinity_snap.snapshot.fanotify import Touched, Unwatchable
from trinity_snap.snapshot.listing import Listing
from trinity_snap.snapshot.view import walk_directory


def handle(kind, inode, name=b"", information=2):
    identity = struct.pack("=II", inode, 7) if kind == 1 else struct.pack("=QI", inode, 7)
    body = bytes(8) + struct.pack("=Ii", len(identity), kind) + identity + name
    body += bytes(-(len(body) + 4) % 4)
    return struct.pack("=BBH", information, 0, len(body) + 4) + body


def event(mask, *information):
    body = b"".join(information)
    return struct.pack("=IBBHQii", 24 + len(body), 3, 0, 24, mask, -1, 1) + body


def decode(data):
    touched = Touched(set(), set())
    for _, information in fanotify._events(data):
        fanotify._decode(information, touched)
    return touched


def test_an_event_names_a_directory_an_entry_in_it_and_the_object():
    data = event(0x2, handle(1, 12, b"name\0"), handle(0x81, 1 << 40, information=1)) + event(
        0x4, handle(1, 13, b".\0")
    )
    touched = decode(data)
    assert touched.entries == {(12, b"name")}
    assert touched.inodes == {12, 13, 1 << 40}


@pytest.mark.parametrize("kind", [0, 2, 0x82, 0x4D, 0xFF])
def test_a_file_handle_of_another_kind_is_not_guessed_at(kind):
    with pytest.raises(Unwatchable, match="file handle"):
        decode(event(0x2, handle(kind, 12)))


def test_events_are_found_in_the_listing_by_inode_and_by_name(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").touch()
    (tmp_path / "linked").hardlink_to(tmp_path / "a" / "file")
    listing = Listing()
    inode = {}
    for item in walk_directory(bytes(tmp_path)):
        assert item.stat is not None
        listing.append(item.path, item.stat)
        inode[item.path] = item.stat.st_ino
    suspects = Suspects(InodeIndex(listing))
    suspects.add(Touched({(inode[b"a"], b"new"), (1, b"elsewhere")}, {inode[b"a/file"], 1}))
    suspects.add(Touched({(inode[b""], b".trinity-snap-restore-0123456789abcdef")}, set()))
    assert suspects.names == {b"a/new"}
    assert suspects.paths == {b"a/file", b"linked"}
