"""Files that may be written to without anybody being told: those mapped shared, and those open for writing.

Neither a store through a mapping nor, on some kernels, an asynchronous write makes a fanotify event. Both
set the file's ctime (see `trinity_snap.snapshot.precopy`), so that an `lstat` of these few files tells. A file that was
mapped or open, and is no more, was reported when it was closed (`FAN_CLOSE_WRITE`): a mapping keeps its
file open.
"""

from __future__ import annotations

import os
import re
import stat

from trinity_snap.snapshot.fanotify import Unwatchable

__all__ = ["possible_writers"]

_SHARED = re.compile(rb"^\S+ ...s \S+ \S+ ([1-9]\d*)", re.MULTILINE)  # proc_pid_maps(5)
_INODE = re.compile(rb"^ino:\s*(\d+)", re.MULTILINE)  # proc_pid_fdinfo(5)
_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # linux/proc_ns.h: PROC_PID_INIT_INO
_READ_BYTES = 1 << 18


def possible_writers() -> set[int]:
    """The inode numbers, whatever the filesystem, of all files that some process has mapped shared or open for writing.

    Complete for processes that do not run meanwhile. Raise Unwatchable if the kernel does not tell.
    """
    if os.stat("/proc/self/ns/pid").st_ino != _FIRST_PID_NAMESPACE:
        raise Unwatchable("this process does not see the host's other processes")
    found: set[int] = set()
    for process in os.listdir("/proc"):
        if process.isdigit():
            try:
                _look(f"/proc/{process}", found)
            except OSError as error:
                if process == "1":
                    continue  # the host's init may be closed even to root, and has no agent's files open
                raise Unwatchable(f"process {process} cannot be looked at: {error.strerror}") from error
    return found


def _look(process: str, found: set[int]) -> None:
    # Descriptors first: one can become a mapping while this looks, but a mapping never becomes one.
    _open_files(process, found)
    maps = _read(f"{process}/maps")
    if not maps:
        # A kernel thread; or the first thread has ended, and others go on.
        for task in _names(f"{process}/task")[1:]:
            _open_files(f"{process}/task/{task}", found)
            maps += _read(f"{process}/task/{task}/maps")
    found.update(map(int, _SHARED.findall(maps)))


def _open_files(process: str, found: set[int]) -> None:
    for number in _names(f"{process}/fd"):
        link = f"{process}/fd/{number}"
        try:
            # The link's own permissions say how the file was opened. Nothing here asks the file's filesystem, which may hang.
            if os.lstat(link).st_mode & stat.S_IWUSR and os.readlink(link).startswith("/"):
                found.update(_inode_of(f"{process}/fdinfo/{number}"))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended, or closed it


def _inode_of(information: str) -> list[int]:
    """The inode of an open file; nothing if it is open no more."""
    text = _read(information)
    match = _INODE.search(text)
    if text and match is None:
        raise Unwatchable("this kernel does not tell which files are open")  # before Linux 5.14
    return [int(match[1])] if match is not None else []


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, ProcessLookupError):
        return []


def _read(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return b""
    try:
        text = b""
        while piece := os.read(descriptor, _READ_BYTES):
            text += piece
        return text
    except (FileNotFoundError, ProcessLookupError):
        return b""
    finally:
        os.close(descriptor)
