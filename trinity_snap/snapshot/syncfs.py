"""Writing a filesystem's dirty pages to disk."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

from trinity_snap.errors import SnapshotError


def syncfs(paths: Iterable[Path]) -> None:
    """Write to disk all that is dirty on the filesystems of these paths, each filesystem once.

    This is what syncfs of Linux does. Raise SnapshotError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    done: set[int] = set()
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise SnapshotError(f"{path} cannot be opened: {error.strerror}.") from error
        try:
            device = os.fstat(descriptor).st_dev
            if device not in done and libc.syncfs(descriptor) != 0:
                reason = os.strerror(ctypes.get_errno())
                raise SnapshotError(
                    f"The filesystem of {path} could not be written to disk: {reason}.",
                    next_step="The kernel log (`dmesg`) shows errors of the disk.",
                )
            done.add(device)
        finally:
            os.close(descriptor)
