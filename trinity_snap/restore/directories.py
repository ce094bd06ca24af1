"""Finding, making and removing things below a directory without ever following a link out of it."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trinity_snap.errors import IntegrityError
from trinity_snap.restore.system import destroy_subvolume, identity, is_mounted

__all__ = [
    "OPEN_DIRECTORY",
    "DirectoryCache",
    "check_name",
    "check_path",
    "keeping_time",
    "list_names",
    "lstat_or_none",
    "parent_and_name",
    "remove_tree",
    "shown",
]

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEPTH_LIMIT = 48


def shown(path: bytes) -> str:
    """A path as messages show it, on one line whatever is in it."""
    text = os.fsdecode(path) if path else "."
    return text if text.isprintable() else ascii(text)[1:-1]


def check_name(name: bytes, path: bytes) -> None:
    """Raise IntegrityError if `name`, the last part of `path`, cannot be the name of one entry of a directory."""
    if not name or name == b"." or name == b".." or b"\0" in name or b"/" in name:
        raise IntegrityError(f"The recovery point has an entry with the impossible path {path!r}.")


def check_path(path: bytes) -> None:
    """Raise IntegrityError if `path` is not relative, or has an empty, `.` or `..` part. The empty path is fine."""
    if path:
        for name in path.split(b"/"):
            check_name(name, path)


def parent_and_name(path: bytes) -> tuple[bytes, bytes]:
    """The path of the directory that holds `path`, and the name in it. `path` is not empty."""
    parent, _, name = path.rpartition(b"/")
    return parent, name


def lstat_or_none(name: bytes, directory: int) -> os.stat_result | None:
    """What is called `name` in the directory, links not followed, or None."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def list_names(directory: int) -> list[bytes]:
    """The names in an open directory, in no order."""
    return [os.fsencode(name) for name in os.listdir(directory)]


class DirectoryCache:
    """Open descriptors of the directories of one tree, by path; the tree's own directory is the empty path.

    Directories are opened one component at a time, relative to their parent and with O_NOFOLLOW, so that nothing in the
    tree can lead outside. A descriptor from `get` stays open at least until a few others were asked for.
    """

    def __init__(self, holder: int, root_name: bytes, limit: int = 200) -> None:
        """`holder` is the directory in which the tree is called `root_name`; the caller keeps it open."""
        self.holder = holder
        self.root_name = root_name
        self._limit = limit
        self._open: dict[bytes, int] = {}

    def get(self, path: bytes) -> int:
        """A descriptor of the directory `path`. Raise OSError if it or one above is no directory or a link."""
        descriptor = self._open.get(path)
        if descriptor is not None:
            return descriptor
        missing: list[bytes] = []
        step: bytes | None = path
        while step is not None and step not in self._open:
            missing.append(step)
            step = step.rpartition(b"/")[0] if step else None
        above = self.holder if step is None else self._open[step]
        for step in reversed(missing):
            name = step.rpartition(b"/")[2] if step else self.root_name
            above = os.open(name, OPEN_DIRECTORY, dir_fd=above)
            self._open[step] = above
            if len(self._open) > self._limit:
                os.close(self._open.pop(next(iter(self._open))))
        return above

    def place(self, path: bytes) -> tuple[int, bytes]:
        """The descriptor of the directory that holds `path`, and the name in it."""
        if not path:
            return self.holder, self.root_name
        parent, name = parent_and_name(path)
        return self.get(parent), name

    def drop(self, path: bytes) -> None:
        """Close the descriptor of a directory that is not needed again soon."""
        descriptor = self._open.pop(path, None)
        if descriptor is not None:
            os.close(descriptor)

    def drop_below(self, path: bytes) -> None:
        """Close the descriptors of a directory that was moved, and of all below it."""
        for known in [known for known in self._open if known == path or known.startswith(path + b"/")]:
            self.drop(known)

    def close(self) -> None:
        """Close every descriptor."""
        while self._open:
            os.close(self._open.popitem()[1])


@contextmanager
def keeping_time(directory: str | os.PathLike[str]) -> Iterator[None]:
    """Give a directory back the modification time that it had, after names of ours were made or removed in it."""
    before = os.stat(directory)
    yield
    os.utime(directory, ns=(before.st_atime_ns, before.st_mtime_ns))


def remove_tree(holder: int, name: bytes, keep: Callable[[bytes], bool] | None = None) -> bool:
    """Remove `name` in the directory `holder` and all below it; say whether there was anything.

    Links are removed, never followed, and nothing on another filesystem is touched: a mount point inside raises OSError
    (EBUSY). Subvolumes of btrfs are removed like directories. `keep` spares entries at the top by name; the top directory
    then stays. Any depth is fine: deep directories are moved up and emptied there.
    """
    found = lstat_or_none(name, holder)
    if found is None:
        return False
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(name, dir_fd=holder)
        return True
    top = os.open(name, OPEN_DIRECTORY, dir_fd=holder)
    try:
        _empty(top, top, found.st_dev, 0, keep)
        while keep is None and _empty_again(top, found.st_dev):
            pass
    finally:
        os.close(top)
    if keep is None:
        os.rmdir(name, dir_fd=holder)
    return True


def _empty_again(top: int, device: int) -> bool:
    """Empty a directory of what was moved up to it; btrfs shows that only to who opens it anew. Say if there was any."""
    again = os.open(b".", OPEN_DIRECTORY, dir_fd=top)
    try:
        found = bool(os.listdir(again))
        _empty(again, again, device, 0, None)
        return found
    finally:
        os.close(again)


def _empty(directory: int, top: int, device: int, depth: int, keep: Callable[[bytes], bool] | None) -> None:
    for name in list_names(directory):
        if keep is not None and keep(name):
            continue
        try:
            os.unlink(name, dir_fd=directory)
            continue
        except (IsADirectoryError, PermissionError):
            pass
        if depth >= _DEPTH_LIMIT:
            os.rename(name, b".moved-up-" + secrets.token_hex(8).encode(), src_dir_fd=directory, dst_dir_fd=top)
            continue
        inner = os.open(name, OPEN_DIRECTORY, dir_fd=directory)
        try:
            found = os.fstat(inner)
            if found.st_dev != device:
                _remove_subvolume(directory, name, inner, found)
                continue
            _empty(inner, top, device, depth + 1, None)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=directory)


def _remove_subvolume(directory: int, name: bytes, inner: int, found: os.stat_result) -> None:
    """Remove what is on another device than the directory that it is in: a subvolume; a mount point is refused."""
    identity_of = identity(name, directory)
    if identity_of is None or identity_of >= 0 or is_mounted(os.readlink(b"/proc/self/fd/%d" % inner)):
        raise OSError(errno.EBUSY, "a mount point is in the way", shown(name))
    try:
        destroy_subvolume(name, directory)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
        _empty(inner, inner, found.st_dev, 0, None)
        while _empty_again(inner, found.st_dev):
            pass
        destroy_subvolume(name, directory)
