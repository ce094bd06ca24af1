"""Which filesystem a path is on, from `/proc/self/mountinfo` (proc_pid_mountinfo(5))."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trinity_snap.errors import SnapshotError

_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class MountPoint:
    """One mount: where, of which directory (`root`) of which filesystem (`device`: a path, or a name of the kernel's)."""

    path: Path
    root: str
    filesystem: str
    device: str
    options: frozenset[str]


def read_mounts(mountinfo: bytes | None = None) -> tuple[MountPoint, ...]:
    """All mounts that this process sees, in the order they were made; later ones hide earlier ones.

    `mountinfo` is the text to parse instead of the kernel's. Lines that cannot be parsed are left out.
    """
    text = Path("/proc/self/mountinfo").read_bytes() if mountinfo is None else mountinfo
    mounts = []
    for line in text.splitlines():
        before, separator, after = line.partition(b" - ")
        fields, rest = before.split(b" "), after.split(b" ")
        if not separator or len(fields) < 6 or len(rest) < 2:
            continue
        mounts.append(
            MountPoint(
                path=Path(_text(fields[4])),
                root=_text(fields[3]),
                filesystem=_text(rest[0]),
                device=_text(rest[1]),
                options=frozenset(_text(fields[5]).split(",")),
            )
        )
    return tuple(mounts)


def find_mount(path: Path, mounts: Sequence[MountPoint] | None = None) -> MountPoint:
    """The mount that a path lies on, symbolic links resolved: the longest mount point above it, the newest of equals.

    Raise SnapshotError if the path does not exist.
    """
    real = real_path(path)
    chosen: MountPoint | None = None
    for mount in read_mounts() if mounts is None else mounts:
        above = mount.path == real or mount.path in real.parents
        if above and (chosen is None or len(mount.path.parts) >= len(chosen.path.parts)):
            chosen = mount
    if chosen is None:
        raise SnapshotError(
            f"No mounted filesystem holds {path}.", next_step="See that /proc is mounted and not restricted."
        )
    return chosen


def nested_mounts(path: Path, mounts: Sequence[MountPoint] | None = None) -> tuple[MountPoint, ...]:
    """The mounts below a path (not at it): other filesystems, which a view of the path does not show.

    The path may be gone meanwhile.
    """
    real = Path(os.path.realpath(path))
    found = {mount.path: mount for mount in (read_mounts() if mounts is None else mounts) if real in mount.path.parents}
    return tuple(found[name] for name in sorted(found))


def path_in_filesystem(real: Path, mount: MountPoint) -> Path:
    """Where a path, symbolic links resolved, lies in the filesystem that is mounted there, from its root; relative.

    Raise SnapshotError if the directory that was mounted has been removed since.
    """
    if mount.root.endswith("//deleted"):
        raise SnapshotError(
            f"{mount.path} is a mount of a directory that has been deleted.",
            untouched="No container was paused.",
            next_step="Unmount it, or mount again what should be there.",
        )
    return Path(mount.root.lstrip("/")) / real.relative_to(mount.path)


def real_path(path: Path) -> Path:
    """The path with all symbolic links resolved. Raise SnapshotError if it does not exist."""
    try:
        return Path(os.path.realpath(path, strict=True))
    except OSError as error:
        raise SnapshotError(
            f"{path} cannot be read: {error.strerror}.", next_step="See that it exists on this machine."
        ) from error


def _text(field: bytes) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), field))
