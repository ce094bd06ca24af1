"""A tree with everything in it, an exact comparison of two trees, and a point reader made of plain dictionaries."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tests.engine.conftest import Store
from trinity_snap.errors import IntegrityError
from trinity_snap.repository.manifest import Entry, is_below, sort_key
from trinity_snap.repository.points import RecoveryPoint, Volume
from trinity_snap.repository.reader import PointReader, SegmentRead

SEGMENT_BYTES = 64 * 1024


# -- trees --------------------------------------------------------------------------------------------------------


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX ACL as the kernel stores it: (tag, permissions, id) each."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


ACCESS_ACL = acl((1, 6, 2**32 - 1), (2, 5, 1234), (4, 4, 2**32 - 1), (16, 5, 2**32 - 1), (32, 0, 2**32 - 1))
DEFAULT_ACL = acl((1, 7, 2**32 - 1), (2, 7, 4321), (4, 5, 2**32 - 1), (16, 7, 2**32 - 1), (32, 5, 2**32 - 1))
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)


def make_everything(root: Path) -> None:
    """Make a tree with every kind of entry and property. Needs root."""
    top = os.fsencode(root)
    os.makedirs(top, exist_ok=True)

    def path(name: bytes | str) -> bytes:
        return top + b"/" + os.fsencode(name)

    def write(name: bytes | str, data: bytes, mode: int = 0o644) -> bytes:
        full = path(name)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "wb") as file:
            file.write(data)
        os.chmod(full, mode)
        return full

    for mode in (0o0, 0o400, 0o640, 0o755, 0o1777, 0o2755, 0o4755, 0o6711):
        full = write(f"modes/{mode:o}", b"mode")
        os.chown(full, 1000 + mode, 2000)
        os.chmod(full, mode)
        os.mkdir(path(f"modes/d{mode:o}"))
        os.chown(path(f"modes/d{mode:o}"), 7, 8)
        os.chmod(path(f"modes/d{mode:o}"), mode)
    os.chown(write("owned", b"by somebody"), 1000, 1000)
    for time in (0, 1, -1, -1_500_000_001, 1_234_567_890_123_456_789, 2**31 * 10**9 + 5):
        os.utime(write(f"times/{time}", b"t"), ns=(time, time))
    os.utime(path("times"), ns=(5, 987_654_321))
    os.setxattr(write("xattrs/user", b"x"), "user.comment", b"with\0bytes\xff")
    os.setxattr(path("xattrs/user"), "user.empty", b"")
    os.setxattr(path("xattrs/user"), "trusted.secret", b"root's")
    os.setxattr(write("xattrs/acl", b"x"), "system.posix_acl_access", ACCESS_ACL)
    os.setxattr(path("xattrs"), "system.posix_acl_default", DEFAULT_ACL)
    write("xattrs/inherits", b"x")
    os.makedirs(path("xattrs/below/it"))
    os.chown(write("xattrs/capable", b"\x7fELF", 0o755), 3, 3)
    os.setxattr(path("xattrs/capable"), "security.capability", CAPABILITY)
    os.symlink("nowhere", path("xattrs/link"))
    os.setxattr(path("xattrs/link"), "trusted.onlink", b"yes", follow_symlinks=False)

    write("links/a/first", b"linked content" * 50)
    os.makedirs(path("links/b/deep"))
    os.link(path("links/a/first"), path("links/b/deep/second"))
    os.link(path("links/a/first"), path("links/zz"))
    os.link(path("links/a/first"), path("0-before"))
    os.symlink("../a/first", path("links/b/symlink"))
    os.symlink("/etc/passwd", path("links/absolute"))
    os.symlink("dangling" * 30, path("links/dangling"))
    os.symlink(b"non-\xff-utf8", path("links/odd"))
    os.lchown(path("links/odd"), 12, 34)
    os.utime(path("links/odd"), ns=(1, 77_777_777_777), follow_symlinks=False)

    os.mkfifo(path("special-fifo"), 0o620)
    os.makedirs(path("special"))
    os.mknod(path("special/null"), 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(path("special/loop"), 0o660 | stat.S_IFBLK, os.makedev(7, 0))
    os.mknod(path("special/whiteout"), stat.S_IFCHR, os.makedev(0, 0))
    os.chown(path("special/loop"), 0, 6)

    os.makedirs(path("empty/directory/chain"))
    write("empty/file", b"")
    for name in (
        b"new\nline",
        b"tab\t",
        b"\xff\xfe",
        b"-rf",
        b"*",
        b" ",
        b"...",
        b"a\\b",
        b"\x01",
        b"\xe2\x82\xac",
        b"x" * 255,
    ):
        write(b"names/" + name, name)
    # Siblings that sort differently with "/" than with other bytes.
    for name in (b"order/a/x", b"order/a-b", b"order/a.b/x", b"order/a b"):
        write(name, name)
    deep = b"deep"
    for _ in range(60):
        deep += b"/" + b"d" * 60
    write(deep[:3400], b"at the bottom")

    with open(path("holes-middle"), "wb") as file:
        file.write(b"start" * 4000)
        file.seek(10_000_000)
        file.write(b"middle" * 4000)
        file.truncate(30_000_001)
    with open(path("holes-only"), "wb") as file:
        file.truncate(5_000_000_000)
    with open(path("holes-first"), "wb") as file:
        file.seek(1 << 20)
        file.write(os.urandom(300_000))
    write("large", os.urandom(3_000_000))
    write("zeros", bytes(2_000_000))
    write("text", b"again and again\n" * 60_000)


def make_sockets(root: Path) -> None:
    """Add a socket to a tree."""
    listener = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(root)
    listener.bind("a-socket")
    os.chdir(here)
    listener.close()


@dataclass(frozen=True)
class Facts:
    """Everything about one entry that a restore must give back."""

    kind: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    content: str
    target: bytes
    device: int
    xattrs: tuple[tuple[str, bytes], ...]
    data_layout: tuple[tuple[int, int], ...]
    names: frozenset[bytes]


def facts(root: Path, *, layout: bool = True, ignore: Iterable[bytes] = ()) -> dict[bytes, Facts]:
    """Everything about every entry of a tree, by relative path. Sockets are left out."""
    top = os.fsencode(root)
    found: dict[bytes, os.stat_result] = {}
    names: dict[tuple[int, int], set[bytes]] = {}
    ignored = set(ignore)
    for directory, directories, files in os.walk(top):
        for name in [b".", *directories, *files] if directory == top else [*directories, *files]:
            full = os.path.join(directory, name) if name != b"." else top
            path = full[len(top) + 1 :]
            if path in ignored:
                continue
            status = os.lstat(full)
            if stat.S_ISSOCK(status.st_mode):
                continue
            found[path] = status
            names.setdefault((status.st_dev, status.st_ino), set()).add(path)
    result = {}
    for path, status in found.items():
        full = top + b"/" + path if path else top
        kind = stat.S_IFMT(status.st_mode)
        regular = kind == stat.S_IFREG
        many = regular and status.st_nlink > 1
        result[path] = Facts(
            kind,
            0 if kind == stat.S_IFLNK else stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            status.st_size if regular else 0,
            _digest(full) if regular else "",
            os.readlink(full) if kind == stat.S_IFLNK else b"",
            status.st_rdev,
            tuple(
                sorted(
                    (os.fsdecode(name), os.getxattr(full, name, follow_symlinks=False))
                    for name in os.listxattr(full, follow_symlinks=False)
                    if name != "security.selinux" and not name.startswith("trusted.SGI_ACL_")
                )
            ),
            _data(full, status.st_size) if regular and layout else (),
            frozenset(names[status.st_dev, status.st_ino]) if many else frozenset(),
        )
    return result


def assert_same(expected: dict[bytes, Facts], actual: dict[bytes, Facts]) -> None:
    """Fail with a readable list of what differs."""
    wrong = []
    for path in sorted(expected.keys() | actual.keys()):
        if path not in actual:
            wrong.append(f"{path!r} is missing")
        elif path not in expected:
            wrong.append(f"{path!r} should not be there")
        elif expected[path] != actual[path]:
            for name in Facts.__dataclass_fields__:
                before, after = getattr(expected[path], name), getattr(actual[path], name)
                if before != after:
                    wrong.append(f"{path!r}: {name} is {after!r}, not {before!r}"[:400])
    assert not wrong, "\n".join(wrong[:40])


def assert_same_trees(expected: Path, actual: Path, *, layout: bool = True) -> None:
    """Compare two trees in everything that `facts` sees."""
    assert_same(facts(expected, layout=layout), facts(actual, layout=layout))


def _digest(path: bytes) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        at = 0
        while at < size:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            while start < end:
                piece = os.pread(file.fileno(), min(1 << 20, end - start), start)
                stripped = piece.rstrip(b"\0")
                if stripped:
                    # Zeros count as holes do, so that the digest is of the content alone.
                    for number in range(0, len(stripped), 4096):
                        block = stripped[number : number + 4096]
                        if block.strip(b"\0"):
                            digest.update(struct.pack("<Q", start + number) + block.rstrip(b"\0"))
                start += len(piece)
            at = end
        digest.update(struct.pack("<Q", size))
    return digest.hexdigest()


def _data(path: bytes, size: int) -> tuple[tuple[int, int], ...]:
    extents = []
    descriptor = os.open(path, os.O_RDONLY)
    try:
        at = 0
        while at < size:
            try:
                start = os.lseek(descriptor, at, os.SEEK_DATA)
            except OSError:
                break
            at = os.lseek(descriptor, start, os.SEEK_HOLE)
            extents.append((start, at))
    finally:
        os.close(descriptor)
    return tuple(extents)


# -- a reader made of dictionaries ----------------------------------------------------------------------------------


def fake_id(data: bytes | memoryview) -> bytes:
    """What the fake reader takes for a chunk's id."""
    return hashlib.blake2b(data, digest_size=32).digest()


@dataclass
class FakeReader:
    """A point reader whose entries and chunks are whatever a test likes; honest writers would refuse most of it."""

    volumes: dict[str, list[Entry]] = field(default_factory=dict)
    chunks: dict[bytes, bytes] = field(default_factory=dict)
    unreadable: set[bytes] = field(default_factory=set)
    missing: set[bytes] = field(default_factory=set)
    reads: int = 0

    def add(self, data: bytes) -> bytes:
        """Take a chunk in. Return its id."""
        identity = fake_id(data)
        self.chunks[identity] = data
        return identity

    def file(self, path: bytes, data: bytes, **more: object) -> Entry:
        """An entry for a file with this content in one chunk."""
        fields: dict[str, object] = {
            "path": path, "type": "f", "mode": 0o644, "uid": os.geteuid(), "gid": os.getegid(), "mtime_ns": 10**18,
            "size": len(data), "chunks": self.add(data) if data else b"", **more,
        }  # fmt: skip
        return Entry(**fields)  # type: ignore[arg-type]  # fields are given by name in tests

    def entries(self, volume: Volume, under: bytes = b"") -> Iterator[Entry]:
        """The entries, in the order in which the test gave them."""
        return iter([entry for entry in self.volumes[volume.name] if is_below(entry.path, under)])

    def entry(self, volume: Volume, path: bytes) -> Entry | None:
        """The first entry at `path`."""
        return next((entry for entry in self.volumes[volume.name] if entry.path == path), None)

    def plan_reads(self, ids: Iterable[bytes]) -> list[SegmentRead]:
        """Segments of a few chunks each, by id, so that neighbours are seldom neighbours in the tree."""
        wanted = sorted(set(ids))
        reads: list[SegmentRead] = []
        chunks: list[tuple[bytes, int, int]] = []
        start = 0
        for number, identity in enumerate(wanted):
            if identity not in self.chunks or identity in self.missing:
                raise IntegrityError(f"chunk {identity.hex()[:8]} is in no pack")
            length = len(self.chunks[identity])
            chunks.append((identity, start, length))
            start += length
            if start >= SEGMENT_BYTES or number == len(wanted) - 1:
                reads.append(SegmentRead("packs/fake", len(reads), start, len(reads), start, chunks))
                chunks, start = [], 0
        return reads

    parallel_gets = 2
    read_ahead_bytes = 0

    def read_span(self, reads: Sequence[SegmentRead]) -> list[bytes | memoryview | IntegrityError]:
        """The chunks of each, end to end."""
        return [self._segment(read) for read in reads]

    def _segment(self, read: SegmentRead) -> bytes | IntegrityError:
        self.reads += 1
        for identity, _, _ in read.chunks:
            if identity in self.unreadable:
                return IntegrityError("packs/fake has a damaged segment")
        return b"".join(self.chunks[identity] for identity, _, _ in read.chunks)

    chunk_key = bytes(32)

    def chunk_id(self, data: bytes | memoryview) -> bytes:
        """The id of these bytes."""
        return fake_id(data)

    # What a repository offers.

    def reader(self, point: RecoveryPoint) -> FakeReader:
        """This very reader."""
        return self


def directory(path: bytes, **more: object) -> Entry:
    """An entry for a directory."""
    fields: dict[str, object] = {
        "path": path, "type": "d", "mode": 0o755, "uid": os.geteuid(), "gid": os.getegid(), "mtime_ns": 10**18, **more,
    }  # fmt: skip
    return Entry(**fields)  # type: ignore[arg-type]  # fields are given by name in tests


def other(path: bytes, kind: str, **more: object) -> Entry:
    """An entry of any other type."""
    return msgspec.structs.replace(directory(path, **more), type=kind)


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Entries in manifest order."""
    return sorted(entries, key=lambda entry: sort_key(entry.path))


def fake_volume(name: str = "v", **more: object) -> Volume:
    """A volume of a fake point."""
    fields: dict[str, object] = {
        "name": name, "kind": "volume", "root": bytes(32), "root_length": 0, "entries": 0, "files": 0, "bytes": 0, **more,
    }  # fmt: skip
    return Volume(**fields)  # type: ignore[arg-type]  # fields are given by name in tests


def fake_point(volumes: Iterable[Volume], agent: str = "fake", **more: object) -> RecoveryPoint:
    """A point with these volumes."""
    fields: Mapping[str, object] = {
        "id": "ab" * 16, "agent": agent, "host": "here", "run_id": "cd" * 16, "created_ns": 1_700_000_000_000_000_000,
        "mode": "pause", "provider": "btrfs", "consistency": "crash-consistent", "pause_ns": 1, "files": 0, "bytes": 0,
        "volumes": list(volumes), "packs": b"", **more,
    }  # fmt: skip
    return RecoveryPoint(**fields)  # type: ignore[arg-type]  # fields are given by name in tests


# -- several trees in one point --------------------------------------------------------------------------------


class TreeRepository:
    """A repository whose points are made of several trees, each a path of the host."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.readers: dict[bytes, PointReader] = {}

    def point(self, *paths: Path) -> RecoveryPoint:
        """Back the paths up. Return a point that has them all."""
        volumes = [self.volume(path, name=str(path), kind="path", source=str(path)) for path in paths]
        return fake_point(volumes, "platform", files=sum(volume.files for volume in volumes))

    def volume(self, path: Path, **more: object) -> Volume:
        """Back a tree up. Return it as a volume with these fields."""
        point = self.store.open().read_point(self.store.backup(path).id)
        (volume,) = point.volumes
        self.readers[volume.root] = self.store.open().reader(point)
        return msgspec.structs.replace(volume, **more)

    def reader(self, point: RecoveryPoint) -> TreeRepository:
        return self

    parallel_gets = 2
    read_ahead_bytes = 0

    @property
    def chunk_key(self) -> bytes:
        return self.store.open().host.chunk_id_key

    def __getattr__(self, name: str) -> Callable:
        def call(*arguments):
            if name in ("entries", "entry"):
                return getattr(self.readers[arguments[0].root], name)(*arguments)
            if name == "plan_reads":
                return self._plan(list(arguments[0]))
            if name == "read_span":
                reader = next(each for each in self.readers.values() if arguments[0][0].pack in each._lengths)
                return reader.read_span(*arguments)
            return getattr(next(iter(self.readers.values())), name)(*arguments)

        return call

    def _plan(self, ids):
        reads = []
        for reader in self.readers.values():
            here = [each for each in ids if reader.has_chunk(each)]
            ids = [each for each in ids if not reader.has_chunk(each)]
            reads += reader.plan_reads(here)
        if ids:
            raise IntegrityError("in no pack")
        return reads
