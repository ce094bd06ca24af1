"""Trinity's portable form of an agent's data into an agent of this host: read, checked, put together beside, exchanged.

The tar is anybody's. Every name must be `data/…` (or the manifest), each once, none may lead through a link or out of the
destination, hard links only to files of the tar, no devices. Symbolic links are kept as they are and never followed. Files get
the owner of the agent's home and the modes of the tar; of extended attributes only `user.…`.
"""

from __future__ import annotations

import json
import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from trinity_snap.errors import IntegrityError, RestoreRefused
from trinity_snap.progress import Progress
from trinity_snap.quiesce.steps import step
from trinity_snap.restore.directories import DirectoryCache, check_path, lstat_or_none, shown
from trinity_snap.restore.names import STAGED
from trinity_snap.restore.plan import How, Mode, human
from trinity_snap.restore.swap import Part
from trinity_snap.restore.system import sync_filesystem
from trinity_snap.restore.tree import write_error
from trinity_snap.restore.volumes import VolumeTarget
from trinity_snap.trinity.portable import DATA, FORMAT_VERSION, MANIFEST

__all__ = ["Contents", "Home", "ImportPlan", "look_through", "write_tar"]

_UNTOUCHED = "Nothing was changed."
_MAX_MANIFEST_BYTES = 1 << 20
_COPY_BYTES = 1 << 20
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SPECIAL = {tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device"}


@dataclass
class Contents:
    """What a portable tar holds: its manifest (None: it has none), and numbers of entries, files and bytes."""

    manifest: dict[str, Any] | None = None  # JSON, as it came
    entries: int = 0
    files: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Home:
    """The volume that gets the data: as `swap.SwapVolume`."""

    name: str
    kind: str
    live: Path
    how: How = "paths"
    target: VolumeTarget | None = None
    paths: tuple[bytes, ...] = (DATA,)


@dataclass(frozen=True)
class ImportPlan:
    """What an import does: as `swap.SwapPlan`. What was in `data` is kept, as after a restore."""

    id: str
    agent: str
    state_dir: Path
    home: Home
    file: Path
    contents: Contents
    exists: bool
    origin: str = "portable"
    mode: Mode = "paths"
    discards: bool = False

    @property
    def volumes(self) -> tuple[Home, ...]:
        """The one volume."""
        return (self.home,)

    def lines(self) -> list[str]:
        """The plan for an operator."""
        held = self.contents
        manifest = held.manifest or {}
        whence = (
            f"{manifest.get('agent_name', 'unknown')!r:.60}, exported at {manifest.get('exported_at', 'unknown')!r:.40}"
        )
        what = f"{held.files} files, {human(held.bytes)}"
        lines = [
            f"Import {self.file} (of agent {whence}) into {self.agent}",
            f"  volume {self.home.name}: data/: {what}",
        ]
        if self.exists:
            lines.append("  what is in data/ now is kept until `trinity-snap restore --release`")
        return lines


class _Member(NamedTuple):
    path: bytes
    info: tarfile.TarInfo


def look_through(file: IO[bytes]) -> Contents:
    """Read the whole of a tar's table, check it, and sum it up. Raise RestoreRefused."""
    found = Contents()
    for member in _members(file, found):
        _count(found, member.info)
    if not found.entries and found.manifest is None:
        raise _refused("It has neither a manifest nor anything in `data/`.")
    return found


def write_tar(part: Part, file: IO[bytes], progress: Progress) -> Contents:
    """Put the tar's tree together in the holder of `part`, and have it on disk. Raise RestoreRefused, RestoreError."""
    owner = part.live.stat()
    written = Contents()
    holder = os.open(part.holder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with closing(_Writer(holder, owner.st_uid, owner.st_gid)) as writer:
            try:
                writer.begin()
                for member in _members(file, written, writer):
                    _count(written, member.info)
                    if member.info.isreg():
                        step("import.file-written")
                    progress.advance(member.info.size if member.info.isreg() else 0)
                writer.finish()
            except OSError as error:
                raise write_error(error, writer.at, holder) from error
        sync_filesystem(holder)
    finally:
        os.close(holder)
    return written


def _members(file: IO[bytes], found: Contents, writer: _Writer | None = None) -> Iterator[_Member]:
    """The entries below `data/`, checked, each handed to the writer; the manifest goes into `found`."""
    file.seek(0)
    seen: dict[bytes, str] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            while (info := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else it remembers each
                path = _path(info.name)
                if path == MANIFEST.encode() and info.isreg():
                    if found.manifest is not None:
                        raise _refused("It has two manifests.")
                    found.manifest = _manifest(tar, info)
                    continue
                if not path:
                    continue
                kind = _check(path, info, seen)
                seen[path] = kind
                if writer is not None:
                    writer.write(path, kind, info, tar)
                yield _Member(path, info)
            end = os.pread(file.fileno(), 512, tar.offset)  # where the last entry ended
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise _refused(f"It is no tar, or not a whole one ({error}).") from error
    if end != bytes(512):
        raise _refused("It is not whole: its end is missing.")


def _path(name: str) -> bytes:
    """A name in the tar as a path from the destination. Raise RestoreRefused if it would lead out of it."""
    path = os.fsencode(name).rstrip(b"/")
    while path.startswith(b"./"):
        path = path[2:]
    if path in (b"", b"."):
        return b""
    try:
        check_path(path)
    except IntegrityError:
        raise _refused(f"{name!r:.200} would leave the destination.") from None
    return path


def _check(path: bytes, info: tarfile.TarInfo, seen: dict[bytes, str]) -> str:
    if path != DATA and not path.startswith(DATA + b"/"):
        raise _refused(f"{shown(path)} is not below `data/`.")
    if path in seen and not (info.isdir() and seen[path] == "d"):
        raise _refused(f"It has {shown(path)} twice.")
    above = path.rpartition(b"/")[0]
    while above:
        if seen.get(above, "d") != "d":
            raise _refused(f"{shown(path)} would lead through {shown(above)}, which is no directory.")
        above = above.rpartition(b"/")[0]
    if path == DATA and not info.isdir():
        raise _refused("`data` is no directory in it.")
    if info.islnk():
        target = _path(info.linkname)
        if seen.get(target) != "f":
            raise _refused(f"{shown(path)} is a hard link to {info.linkname!r:.200}, which is no file before it.")
        return "f"
    for test, kind in ((info.isreg(), "f"), (info.isdir(), "d"), (info.issym(), "l"), (info.isfifo(), "p")):
        if test:
            return kind
    raise _refused(f"{shown(path)} is {_SPECIAL.get(info.type, 'of a kind that is not known')}.")


def _manifest(tar: tarfile.TarFile, info: tarfile.TarInfo) -> dict[str, Any]:
    content = tar.extractfile(info)
    assert content is not None
    try:
        said = json.loads(content.read(_MAX_MANIFEST_BYTES))
    except (ValueError, RecursionError) as error:
        raise _refused("Its manifest is no JSON.") from error
    if not isinstance(said, dict):
        raise _refused("Its manifest is no JSON object.")
    version = said.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool) or said.get("data_root", "data/") != "data/":
        raise _refused(f"Its format ({version!r:.40}) is not known: this trinity-snap reads version {FORMAT_VERSION}.")
    return said


def _count(found: Contents, info: tarfile.TarInfo) -> None:
    found.entries += 1
    found.files += info.isreg() or info.islnk()
    found.bytes += info.size if info.isreg() else 0


def _refused(why: str) -> RestoreRefused:
    return RestoreRefused(
        f"The file cannot be imported. {why}",
        untouched=_UNTOUCHED,
        next_step="It has to be what `trinity-snap export --portable` or Trinity's own export writes.",
    )


@dataclass
class _Writer:
    """Writes entries below the holder, relative to open directories, following nothing."""

    holder: int
    uid: int
    gid: int
    at: bytes = b""
    _cache: DirectoryCache = field(init=False)
    _directories: dict[bytes, tarfile.TarInfo | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._cache = DirectoryCache(self.holder, STAGED)

    def begin(self) -> None:
        """Make the root, and `data`, which is there even if the tar has nothing."""
        os.mkdir(STAGED, 0o700, dir_fd=self.holder)
        self._parents(DATA + b"/")

    def write(self, path: bytes, kind: str, info: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
        """Write one entry that was checked. Raise OSError."""
        self.at = path
        self._parents(path)
        if kind == "d":
            self._parents(path + b"/")
            self._directories[path] = info
            return
        directory, name = self._cache.place(path)
        if info.islnk():
            target = _path(info.linkname)
            source, source_name = self._cache.place(target)
            found = lstat_or_none(source_name, source)
            if found is None or not stat.S_ISREG(found.st_mode):
                raise _refused(f"{shown(path)} is a hard link to what is no file.")
            directory, name = self._cache.place(path)
            os.link(source_name, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        elif kind == "l":
            os.symlink(os.fsencode(info.linkname), name, dir_fd=directory)
            self._finish_name(directory, name, info)
        elif kind == "p":
            os.mkfifo(name, 0o600, dir_fd=directory)
            self._finish_name(directory, name, info)
        else:
            self._write_file(directory, name, info, tar)

    def _write_file(self, directory: int, name: bytes, info: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
        content = tar.extractfile(info)
        assert content is not None
        descriptor = os.open(name, _CREATE, 0o600, dir_fd=directory)
        with open(descriptor, "wb", buffering=0) as out:
            left = info.size
            while left:
                piece = content.read(min(left, _COPY_BYTES))
                if not piece:
                    raise _refused(f"It is not whole: {shown(self.at)} is cut off.")
                left -= len(piece)
                view = memoryview(piece)
                while view:
                    view = view[out.write(view) :]
            self._finish(out.fileno(), info)

    def finish(self) -> None:
        """Give directories what the tar says of them, the deepest first; those it does not mention are the agent's, 0755."""
        for path in sorted(self._directories, key=lambda each: each.count(b"/"), reverse=True):
            self.at = path
            info = self._directories[path]
            descriptor = self._cache.get(path)
            if info is None:
                os.fchown(descriptor, self.uid, self.gid)
                os.fchmod(descriptor, 0o755)
            else:
                self._finish(descriptor, info)

    def _parents(self, path: bytes) -> None:
        """Make the directories above `path` that are not there yet."""
        missing = []
        above = path.rpartition(b"/")[0]
        while above and above not in self._directories:
            missing.append(above)
            above = above.rpartition(b"/")[0]
        for each in reversed(missing):
            directory, name = self._cache.place(each)
            os.mkdir(name, 0o700, dir_fd=directory)
            self._directories[each] = None

    def _finish(self, descriptor: int, info: tarfile.TarInfo) -> None:
        os.fchown(descriptor, self.uid, self.gid)
        for key, value in info.pax_headers.items():
            attribute = key.removeprefix("SCHILY.xattr.")
            if attribute != key and attribute.startswith("user."):
                os.setxattr(descriptor, os.fsencode(attribute), os.fsencode(value))
        os.fchmod(descriptor, info.mode & 0o7777)
        os.utime(descriptor, ns=(_time_ns(info), _time_ns(info)))

    def _finish_name(self, directory: int, name: bytes, info: tarfile.TarInfo) -> None:
        os.chown(name, self.uid, self.gid, dir_fd=directory, follow_symlinks=False)
        if not info.issym():
            os.chmod(name, info.mode & 0o7777, dir_fd=directory)
        os.utime(name, ns=(_time_ns(info), _time_ns(info)), dir_fd=directory, follow_symlinks=False)

    def close(self) -> None:
        """Close what is open."""
        self._cache.close()


def _time_ns(info: tarfile.TarInfo) -> int:
    """The time of an entry: from the text of the pax header, as the number has lost what is behind the point."""
    text = info.pax_headers.get("mtime", "")
    seconds, _, fraction = text.partition(".")
    if seconds.removeprefix("-").isdecimal() and (not fraction or fraction.isdecimal()):
        return int(seconds) * 10**9 + int(fraction[:9].ljust(9, "0"))
    return int(info.mtime) * 10**9
