"""Mounting snapshots read-only, each run's in a directory of its own, `<state directory>/mnt/<run id>`.

That directory is a private mount: nothing of it shows up in the mount namespaces of containers that follow the
host's mounts, where it could be kept busy.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from pathlib import Path

from trinity_snap.errors import SnapshotError
from trinity_snap.snapshot.mounts import read_mounts

STORE = "mnt"
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _NOATIME, _BIND, _PRIVATE = 1, 2, 4, 8, 1024, 4096, 1 << 18  # mount(2)
_BUSY_SECONDS = 5.0


def mount_snapshot(device: str, where: Path, filesystem: str, options: str = "") -> None:
    """Mount a snapshot read-only at `where`, whose parent is the run's own directory. Raise SnapshotError.

    The filesystem's log is replayed: the device must be writable for that, although nothing can be written through the mount.
    """
    make_private(where.parent)
    where.mkdir(mode=0o700, exist_ok=True)
    failed = _mount(device, where, filesystem, _RDONLY | _NOSUID | _NODEV | _NOEXEC | _NOATIME, options)
    if failed:
        raise SnapshotError(
            f"The snapshot {device} cannot be mounted ({filesystem}): {os.strerror(failed)}.",
            next_step="The kernel log (`dmesg`) says why. If it speaks of corruption, check the live filesystem soon.",
        )


def remove_mounts(directory: Path) -> bool:
    """Unmount all at and below a run's directory and remove it, if it is empty then; whether there was anything.

    Raise SnapshotError if something is in use and stays. Nothing is unmounted lazily: that would only hide it.
    """
    if directory.parent.name != STORE:
        raise SnapshotError(f"{directory} is no place where this program mounts snapshots, and is left alone.")
    found = os.path.lexists(directory)
    failed: list[SnapshotError] = []
    for mount in reversed(read_mounts()):
        if mount.path == directory or directory in mount.path.parents:
            found = True
            if failed and mount.path == directory:
                break
            try:
                _unmount(mount.path)
            except SnapshotError as error:
                failed.append(error)  # the others can go
    if failed:
        raise failed[0]
    if found:
        for place in (*directory.glob("*"), directory):
            try:
                place.rmdir()
            except OSError as error:
                raise SnapshotError(f"{place} cannot be removed: {error.strerror}.") from error
    return found


def make_private(directory: Path) -> None:
    """Make a run's directory, and a private mount of it. Raise SnapshotError."""
    directory.parent.mkdir(mode=0o700, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    if any(mount.path == directory for mount in read_mounts()):
        return
    failed = _mount(str(directory), directory, "", _BIND) or _mount("none", directory, "", _PRIVATE)
    if failed:
        raise SnapshotError(f"{directory} cannot be made a mount of its own: {os.strerror(failed)}.")


def _unmount(place: Path) -> None:
    until = time.monotonic() + _BUSY_SECONDS
    while (failed := _call("umount2", os.fsencode(place), 0)) == errno.EBUSY and time.monotonic() < until:
        time.sleep(0.1)
    if failed and failed != errno.EINVAL:  # EINVAL: it is no mount any more
        in_use = failed == errno.EBUSY
        raise SnapshotError(
            f"The snapshot mounted at {place} cannot be unmounted: {os.strerror(failed)}.",
            next_step=f"`fuser -vm {place}` shows who uses it; `trinity-snap recover` tries again." if in_use else "",
        )


def _mount(device: str, where: Path, filesystem: str, flags: int, options: str = "") -> int:
    return _call("mount", os.fsencode(device), os.fsencode(where), filesystem.encode(), flags, options.encode())


def _call(name: str, *arguments: bytes | int) -> int:
    """0, or why the system call failed."""
    libc = ctypes.CDLL(None, use_errno=True)
    converted = [ctypes.c_ulong(each) if name == "mount" and isinstance(each, int) else each for each in arguments]
    return 0 if getattr(libc, name)(*converted) == 0 else ctypes.get_errno()
