"""Copying a tree out of a local snapshot: in no time where files can share their data, with everything that they carry.

Nothing is read where the filesystem can clone (FICLONE); elsewhere data is copied, and holes stay holes. Owners, modes, times
to the nanosecond, extended attributes, hard links and special files come along. The source is at rest. Links are never
followed on either side.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trinity_snap.restore.directories import OPEN_DIRECTORY, DirectoryCache, keeping_time, list_names
from trinity_snap.restore.metadata import Losses, MetadataSetter
from trinity_snap.restore.names import is_ours
from trinity_snap.restore.selection import ancestors
from trinity_snap.restore.system import snapshot_subvolume
from trinity_snap.snapshot.protocol import Deadline
from trinity_snap.snapshot.staging import clone, copy_range, data_extents

__all__ = ["Copied", "TreeCopier"]

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOATIME
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SECOND_COPIES = frozenset(("trusted.SGI_ACL_FILE", "trusted.SGI_ACL_DEFAULT"))  # how XFS shows ACLs once more
_GETFLAGS, _SETFLAGS = 0x80086601, 0x40086602  # linux/fs.h: FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
_NOCOW = 0x00800000  # linux/fs.h: FS_NOCOW_FL


@dataclass
class Copied:
    """What was copied: numbers of entries and of regular files, their bytes, and how many of those could not be shared."""

    entries: int = 0
    files: int = 0
    bytes: int = 0
    bytes_copied: int = 0


class TreeCopier:
    """Copies trees to `root_name` in the open directory `holder`. Every method raises OSError."""

    def __init__(self, holder: int, root_name: bytes) -> None:
        self.copied = Copied()
        self._to = DirectoryCache(holder, root_name)
        self._set = MetadataSetter(Losses())
        self.at = b""

    def close(self) -> None:
        """Let go of the directories."""
        self._to.close()

    def copy(self, source: Path, hidden: Collection[bytes] = ()) -> None:
        """Copy a tree, or a single file. What restores put at the top of it, and what is `hidden` there, is left out."""
        self._copy(source, b"", frozenset(hidden))

    def graft(self, source: Path, at: bytes) -> None:
        """Put a subvolume where the tree has an empty directory in its place: as a subvolume if that can be, or else copied."""
        self.at = at
        directory, name = self._to.place(at)
        with keeping_time(f"/proc/self/fd/{directory}"):
            os.rmdir(name, dir_fd=directory)
            opened = os.open(source, OPEN_DIRECTORY)
            try:
                snapshot_subvolume(opened, name, directory)
                self.copied.entries += 1
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.ENOTTY, errno.EINVAL):
                    raise
                self._copy(source, at, frozenset())
            finally:
                os.close(opened)

    def copy_units(self, source: Path, units: Iterable[bytes]) -> None:
        """Copy only these paths, with all that is in them. The directories above them are made, and only that."""
        first_names: dict[int, bytes] = {}
        made = {b""}
        with _opened(source) as tree:
            self._make_directory(b"")
            for unit in units:
                for step in ancestors(unit):
                    if step not in made:
                        made.add(step)
                        self._make_directory(step)
                self._entry(tree, unit, b"", frozenset(), first_names)

    def _copy(self, source: Path, at: bytes, hidden: frozenset[bytes]) -> None:
        with _opened(source) as tree:
            self._entry(tree, b"", at, hidden, {})

    def _entry(
        self, tree: DirectoryCache, path: bytes, at: bytes, hidden: frozenset[bytes], first_names: dict[int, bytes]
    ) -> None:
        """Copy the entry at `path` of a tree that belongs at `at`, with all that is in it."""
        directory, name = tree.place(path)
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            self._directory(tree, path, at, found, hidden, first_names)
        else:
            self._other(tree, path, _join(at, path), found, first_names)

    def _directory(
        self,
        tree: DirectoryCache,
        top: bytes,
        at: bytes,
        root: os.stat_result,
        hidden: frozenset[bytes],
        first_names: dict[int, bytes],
    ) -> None:
        directories = [(top, root)]
        pending = [top]
        self._make_directory(_join(at, top))
        self._set.strip_inherited(self._to.get(_join(at, top)))
        while pending:
            path = pending.pop()
            for name in list_names(tree.get(path)):
                if not path and (name in hidden or is_ours(name)):
                    continue
                inner = _join(path, name)
                self.at = target = _join(at, inner)
                found = os.stat(name, dir_fd=tree.get(path), follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    self._make_directory(target)
                    directories.append((inner, found))
                    pending.append(inner)
                else:
                    self._other(tree, inner, target, found, first_names)
            tree.drop(path)
        # What is made in a directory changes its time, so that comes last, the innermost first.
        for inner, found in reversed(directories):
            self._finish(tree.get(inner), self._to.get(_join(at, inner)), found)
            tree.drop(inner)
            self._to.drop(_join(at, inner))

    def _make_directory(self, target: bytes) -> None:
        directory, name = self._to.place(target)
        os.mkdir(name, 0o700, dir_fd=directory)
        self.copied.entries += 1

    def _other(
        self, tree: DirectoryCache, path: bytes, target: bytes, found: os.stat_result, first_names: dict[int, bytes]
    ) -> None:
        """Copy what is no directory. `first_names` tells files with several names again."""
        self.copied.entries += 1
        if found.st_nlink > 1:
            first = first_names.setdefault(found.st_ino, target)
            if first != target:
                from_directory, from_name = self._to.place(first)
                held = os.dup(from_directory)
                try:
                    directory, name = self._to.place(target)
                    os.link(from_name, name, src_dir_fd=held, dst_dir_fd=directory, follow_symlinks=False)
                finally:
                    os.close(held)
                return
        source, source_name = tree.place(path)
        directory, name = self._to.place(target)
        if stat.S_ISREG(found.st_mode):
            self._file(source, source_name, directory, name, found)
        elif stat.S_ISLNK(found.st_mode):
            os.symlink(os.readlink(source_name, dir_fd=source), name, dir_fd=directory)
            self._finish_name(source, source_name, directory, name, found)
        else:
            os.mknod(name, stat.S_IFMT(found.st_mode) | 0o600, found.st_rdev, dir_fd=directory)
            self._finish_name(source, source_name, directory, name, found)

    def _file(self, source: int, source_name: bytes, directory: int, name: bytes, found: os.stat_result) -> None:
        self.copied.files += 1
        self.copied.bytes += found.st_size
        from_file = os.open(source_name, _READ, dir_fd=source)
        try:
            to_file = os.open(name, _CREATE, 0o600, dir_fd=directory)
            try:
                if found.st_size:
                    self._content(from_file, to_file, found.st_size)
                self._finish(from_file, to_file, found)
            finally:
                os.close(to_file)
        finally:
            os.close(from_file)

    def _content(self, source: int, target: int, size: int) -> None:
        # On btrfs a file shares data only with one that is copy-on-write, or is not, like itself.
        if clone(source, target) or (_copy_nocow(source, target) and clone(source, target)):
            return
        os.ftruncate(target, size)
        for start, end in data_extents(source, size):
            copy_range(source, target, start, end, Deadline())
            self.copied.bytes_copied += end - start

    def _finish(self, source: int, target: int, found: os.stat_result) -> None:
        """Give an open file or directory the metadata of another; attributes go before modes and after owners."""
        if stat.S_ISDIR(found.st_mode):
            _copy_nocow(source, target)
        if found.st_uid or found.st_gid:
            os.fchown(target, found.st_uid, found.st_gid)
        for key in os.listxattr(source):
            if key not in _SECOND_COPIES:
                os.setxattr(target, key, os.getxattr(source, key))
        os.fchmod(target, stat.S_IMODE(found.st_mode))
        os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))

    @staticmethod
    def _finish_name(source: int, source_name: bytes, directory: int, name: bytes, found: os.stat_result) -> None:
        """The same for what must not be opened."""
        os.chown(name, found.st_uid, found.st_gid, dir_fd=directory, follow_symlinks=False)
        from_place = b"/proc/self/fd/%d/%s" % (source, source_name)
        to_place = b"/proc/self/fd/%d/%s" % (directory, name)
        for key in os.listxattr(from_place, follow_symlinks=False):
            value = os.getxattr(from_place, key, follow_symlinks=False)
            os.setxattr(to_place, key, value, follow_symlinks=False)
        if not stat.S_ISLNK(found.st_mode):
            os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=directory)
        os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=directory, follow_symlinks=False)


@contextmanager
def _opened(source: Path) -> Iterator[DirectoryCache]:
    parent = os.open(source.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    tree = DirectoryCache(parent, os.fsencode(source.name))
    try:
        yield tree
    finally:
        tree.close()
        os.close(parent)


def _join(at: bytes, path: bytes) -> bytes:
    return at + b"/" + path if at and path else at or path


def _copy_nocow(source: int, target: int) -> bool:
    """Make `target`, an empty file or a directory, copy-on-write or not as `source` is; say whether that changed anything."""
    try:
        wanted, have = _flags(source), _flags(target)
        if not (wanted ^ have) & _NOCOW:
            return False
        fcntl.ioctl(target, _SETFLAGS, struct.pack("l", have & ~_NOCOW | wanted & _NOCOW))
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL):
            return False  # a filesystem without such flags
        raise
    return True


def _flags(descriptor: int) -> int:
    buffer = bytearray(8)
    fcntl.ioctl(descriptor, _GETFLAGS, buffer)
    return int(struct.unpack_from("=I", buffer)[0])
