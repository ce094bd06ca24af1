"""Owner, mode, times and extended attributes of what is restored: checking, setting, and comparing them."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field

from trinity_snap.errors import IntegrityError
from trinity_snap.repository.manifest import Entry
from trinity_snap.restore.directories import shown

__all__ = ["Losses", "MetadataSetter", "check_entry", "differences", "read_xattrs"]

_ID_LIMIT = 2**32 - 1  # (uid_t)-1 means "leave it"
_SIZE_LIMIT = 2**63 - 1
_SECOND = 1_000_000_000
_TIME_EVERYWHERE = 2**31 * _SECOND  # what every filesystem can hold
_DEVICE_LIMIT = 2**32
_CANNOT_HOLD = frozenset((errno.EOPNOTSUPP, errno.E2BIG, errno.ERANGE, errno.EINVAL, errno.EPERM, errno.ENODATA))
_NO_SPACE = frozenset((errno.ENOSPC, errno.EDQUOT))
_FORMATS = {
    "f": stat.S_IFREG,
    "h": stat.S_IFREG,
    "d": stat.S_IFDIR,
    "l": stat.S_IFLNK,
    "p": stat.S_IFIFO,
    "c": stat.S_IFCHR,
    "b": stat.S_IFBLK,
}
_INHERITED = (b"system.posix_acl_default", b"system.posix_acl_access")
# XFS shows ACLs a second time under these names; SELinux labels are the host's own business.
_NOT_OURS = frozenset((b"trusted.SGI_ACL_FILE", b"trusted.SGI_ACL_DEFAULT", b"security.selinux"))
_SHOWN_LOSSES = 20


@dataclass
class Losses:
    """What the destination cannot hold: sentences for the operator (the first few), and what to excuse when comparing."""

    notes: list[str] = field(default_factory=list)
    count: int = 0
    xattrs: set[tuple[bytes, bytes]] = field(default_factory=set)
    owners: bool = False

    def add(self, note: str) -> None:
        """Note something that was lost or skipped."""
        self.count += 1
        if len(self.notes) < _SHOWN_LOSSES:
            self.notes.append(note)


def check_entry(entry: Entry) -> None:
    """Raise IntegrityError if an entry holds a number, a name or a combination that no real file can have."""
    if not (0 <= entry.uid < _ID_LIMIT and 0 <= entry.gid < _ID_LIMIT and 0 <= entry.mode <= 0o7777):
        raise _impossible(entry, "owner or mode")
    if not 0 <= entry.size <= _SIZE_LIMIT:
        raise _impossible(entry, "size")
    if not -(2**63) <= entry.mtime_ns < 2**63:
        raise _impossible(entry, "time")
    kind = entry.type
    if kind != "f" and (entry.chunks or entry.size or entry.extents):
        raise _impossible(entry, "content for its type")
    if (kind in "lh") != bool(entry.target) or b"\0" in entry.target:
        raise _impossible(entry, "target")
    if entry.device != (0, 0):
        major, minor = entry.device
        if kind not in "cb" or not (0 <= major < _DEVICE_LIMIT and 0 <= minor < _DEVICE_LIMIT):
            raise _impossible(entry, "device")
    for name in entry.xattrs:
        if not name or b"\0" in name:
            raise _impossible(entry, "extended attribute")
    if entry.extents:
        position = 0
        for offset, length in entry.extents:
            if offset < position or length < 0:
                raise _impossible(entry, "list of extents")
            position = offset + length
        if position > entry.size:
            raise _impossible(entry, "list of extents")


def _impossible(entry: Entry, what: str) -> IntegrityError:
    return IntegrityError(f"The recovery point has an impossible {what} for {shown(entry.path)}.")


class MetadataSetter:
    """Gives what was just created its owner, attributes, mode and times, in the order that keeps them all.

    Whoever is not root cannot give files away: owners are then left and the loss is noted once.
    """

    def __init__(self, losses: Losses) -> None:
        self.losses = losses
        self.user = os.geteuid()
        self.group = os.getegid()

    def finish(self, descriptor: int, entry: Entry) -> None:
        """Set everything on an open file or directory that belongs to this process and has no metadata of its own yet."""
        if entry.uid != self.user or entry.gid != self.group or not entry.path:
            self._chown(descriptor, entry)
        for name, value in entry.xattrs.items():
            self.set_xattr(descriptor, name, value, entry.path)
        os.fchmod(descriptor, entry.mode)
        os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))

    def finish_name(self, directory: int, name: bytes, entry: Entry) -> None:
        """Set everything on a link, fifo or device that was just created in an open directory."""
        if entry.uid != self.user or entry.gid != self.group or not entry.path:
            try:
                os.chown(name, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
            except PermissionError:
                self._not_owner()
        if entry.type != "l":
            # A descriptor that only names the file: fifos and devices must not be opened.
            handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                for key, value in entry.xattrs.items():
                    self.set_xattr(f"/proc/self/fd/{handle}", key, value, entry.path)
                os.chmod(f"/proc/self/fd/{handle}", entry.mode)
            finally:
                os.close(handle)
        elif entry.xattrs:
            place = b"/proc/self/fd/%d/%s" % (directory, name)
            for key, value in entry.xattrs.items():
                self.set_xattr(place, key, value, entry.path)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=directory, follow_symlinks=False)

    def set_directory(self, descriptor: int, entry: Entry) -> None:
        """Make an existing directory exactly what the entry says, attributes that it has too many included."""
        have = read_xattrs(descriptor)
        for name in have.keys() - entry.xattrs.keys():
            self._remove_xattr(descriptor, name)
        try:
            os.fchown(descriptor, entry.uid, entry.gid)
        except PermissionError:
            self._not_owner()
        for name, value in entry.xattrs.items():
            if have.get(name) != value:
                self.set_xattr(descriptor, name, value, entry.path)
        os.fchmod(descriptor, entry.mode)
        os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))

    def strip_inherited(self, descriptor: int) -> None:
        """Take off what a new directory got from the one that it is in: group, setgid bit, ACLs."""
        with suppress(PermissionError):
            os.fchown(descriptor, self.user, self.group)
        os.fchmod(descriptor, 0o700)
        for name in _INHERITED:
            self._remove_xattr(descriptor, name)

    def set_xattr(self, place: int | str | bytes, name: bytes, value: bytes, path: bytes) -> None:
        """Set one extended attribute; if the destination cannot hold it, note that."""
        if name in _NOT_OURS:
            return
        follow = not isinstance(place, bytes)
        try:
            os.setxattr(place, name, value, follow_symlinks=follow)
        except OSError as error:
            if error.errno in _NO_SPACE and _has_space(place):
                pass  # ext4 says this of attributes that are larger than a block
            elif error.errno not in _CANNOT_HOLD:
                raise
            self.losses.xattrs.add((path, name))
            self.losses.add(
                f"{shown(path)}: the destination did not take the extended attribute {shown(name)} ({error.strerror})."
            )

    def _chown(self, descriptor: int, entry: Entry) -> None:
        try:
            os.fchown(descriptor, entry.uid, entry.gid)
        except PermissionError:
            self._not_owner()

    def _not_owner(self) -> None:
        if not self.losses.owners:
            self.losses.owners = True
            self.losses.add("Owners were not restored: only root can give files to other users.")

    @staticmethod
    def _remove_xattr(descriptor: int, name: bytes) -> None:
        try:
            os.removexattr(descriptor, name)
        except OSError as error:
            if error.errno not in _CANNOT_HOLD:
                raise


def _has_space(place: int | str | bytes) -> bool:
    if isinstance(place, bytes):
        place = os.path.dirname(place)
    return os.statvfs(place).f_bavail > 1


def read_xattrs(place: int | str | bytes) -> dict[bytes, bytes]:
    """All extended attributes of an open file, or of the name itself; empty where the filesystem has none."""
    follow = not isinstance(place, bytes)
    try:
        names = os.listxattr(place, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _CANNOT_HOLD:
            return {}
        raise
    return {
        name: os.getxattr(place, name, follow_symlinks=follow)
        for name in map(os.fsencode, names)
        if name not in _NOT_OURS
    }


def differences(
    entry: Entry, found: os.stat_result, xattrs: dict[bytes, bytes] | None, losses: Losses | None
) -> list[str]:
    """How what is on disk differs from its entry, content aside: names of properties. `xattrs` None: not looked at.

    `losses` are excused; so are times that some filesystems cannot hold, when something is excused at all.
    """
    result = []
    if stat.S_IFMT(found.st_mode) != _FORMATS.get(entry.type):
        return ["type"]
    if entry.type != "l" and stat.S_IMODE(found.st_mode) != entry.mode:
        result.append("mode")
    if (found.st_uid != entry.uid or found.st_gid != entry.gid) and not (losses and losses.owners):
        result.append("owner")
    if found.st_mtime_ns != entry.mtime_ns and not (losses and abs(entry.mtime_ns) >= _TIME_EVERYWHERE):
        result.append("time")
    if entry.type == "f" and found.st_size != entry.size:
        result.append("size")
    if entry.type in "cb" and (os.major(found.st_rdev), os.minor(found.st_rdev)) != tuple(entry.device):
        result.append("device")
    if xattrs is not None and xattrs != entry.xattrs:
        names = {name for name in xattrs.keys() | entry.xattrs.keys() if xattrs.get(name) != entry.xattrs.get(name)}
        if losses is not None:
            names = {name for name in names if (entry.path, name) not in losses.xattrs}
        if names - _NOT_OURS:
            result.append("extended attributes")
    return result
