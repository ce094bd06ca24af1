"""The precopy provider: a view of one instant on any filesystem, without any help from it.

Before the pause, *passes* over the live tree ship most of the data. During the pause, the tree is only
looked over with `lstat`; what no pass has shipped in its present state is copied aside. Afterwards the view
is the listing made in the pause, with each file's content either shipped already
(`PrecopyView.was_shipped`) or in the staging directory.

Why an unchanged signature (inode, ctime, mtime, size) means unchanged content:

- Every `write`, `truncate`, rename over, chmod, or xattr change sets ctime, and nobody can set it back.
- A store through a shared mapping sets ctime only when it makes a *clean* page dirty. So each pass starts
  with `syncfs`, which cleans all pages: the first store after that is seen.
- ctime has the grain of the kernel's tick, and is set when a `write` starts, not when it ends. A file whose
  ctime is not at least `HOT_NS` older than the start of the pass that read it is therefore never taken as
  shipped by that pass (Git calls such entries “racily clean”). `HOT_NS` is two seconds, much longer than a
  tick, so that one long `write` fits in.
- Filesystems where this does not hold (memory, network, FUSE) are not trusted: everything is copied in the
  pause.

The instant is that of the pause. Without one (mode `none`, or after the budget was exceeded), each file is
consistent in itself, and no two files are of the same moment.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.errors import SnapshotError
from trinity_snap.quiesce.journal import Leftover
from trinity_snap.quiesce.steps import step
from trinity_snap.snapshot.listing import pack, same
from trinity_snap.snapshot.mounts import find_mount, nested_mounts, real_path
from trinity_snap.snapshot.protocol import Deadline, Prepare, remove_tree
from trinity_snap.snapshot.staging import Staging, open_live
from trinity_snap.snapshot.survey import (
    HOT_NS,
    ChangedView,
    Instant,
    Layer,
    Survey,
    absolute,
    survey,
    take_instant,
)
from trinity_snap.snapshot.syncfs import syncfs
from trinity_snap.snapshot.view import DirectoryView, SourceView, WalkItem

if TYPE_CHECKING:
    from trinity_snap.agents.model import Source

NAME = "precopy"
_UNTRUSTED = ("tmpfs", "ramfs", "nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse", "virtiofs")
_SETTLED = 0.9


@dataclass(frozen=True)
class Settings:
    """How the provider works: where copies go, and when to stop making passes."""

    staging: Path
    max_passes: int = 3
    settle_bytes: int = 64 << 20


class PrecopyProvider:
    """Makes views of sources on any filesystem. See `trinity_snap.snapshot.protocol.Provider`."""

    name = NAME
    atomic = False

    def __init__(self, sources: Sequence[Source], settings: Settings) -> None:
        self.sources = tuple(sources)
        self._settings = settings
        self._roots = {source.name: real_path(source.path) for source in sources}
        self._trusted = {name: not _is_untrusted(root) for name, root in self._roots.items()}
        self._layers: dict[str, list[Layer]] = {source.name: [] for source in sources}
        self._surveys: dict[str, Survey] = {}
        self._instants: dict[str, Instant] = {}
        self._staging: Staging | None = None
        self._setting: Prepare | None = None
        self.passes = 0
        self.copied_bytes = 0

    def prepare(self, setting: Prepare) -> None:
        """Make passes until little changes between them, then see that the rest fits into the staging directory."""
        self._setting = setting
        self._staging = Staging(self._settings.staging / setting.run_id)
        setting.journal.making([Leftover("staging", self._staging.path, NAME)])
        self._staging.create()
        hot_before: int | None = None
        while setting.ship_pass is not None:
            started = self._pass(setting)
            hot = self._survey_all()
            settled = hot_before is not None and hot > hot_before * _SETTLED
            if hot <= self._settings.settle_bytes or self.passes >= self._settings.max_passes or settled:
                break
            hot_before = hot
            # What is only fresh, and not changing, is known for sure by a pass that starts later.
            time.sleep(max(0.0, HOT_NS / 1e9 - (time.monotonic() - started)))
        if setting.ship_pass is None:
            self._survey_all()
        sample = max(
            ((root / os.fsdecode(path) if path else root) for root, path in self._hot_paths()),
            key=_size,
            default=None,
        )
        self._staging.require_room(sum(each.hot_bytes for each in self._surveys.values()), sample)
        for layers in self._layers.values():
            layers.clear()  # the surveys know all that is needed from here on

    def flush(self) -> None:
        """Write the sources' dirty pages, so that the copies do not wait for the disk behind others' data."""
        syncfs(self._roots.values())

    def snapshot(self, deadline: Deadline) -> None:
        """Record every tree and copy what is hot."""
        staging = self._require_staging()
        staging.clear()
        self._instants.clear()
        for source in self.sources:
            before = self._surveys[source.name]
            try:
                self._instants[source.name] = take_instant(self._roots[source.name], before, staging, deadline)
            except OSError as error:
                raise SnapshotError(
                    f"Copying changed files of “{source.name}” to {staging.path} failed: {error.strerror}.",
                    next_step="Set `snapshot: precopy: staging:` in the policy to a directory with more room."
                    if error.errno in (errno.ENOSPC, errno.EDQUOT)
                    else "The kernel log (`dmesg`) may show why.",
                ) from error
            step("first-snapshot")
        self.copied_bytes = sum(instant.copied_bytes for instant in self._instants.values())
        deadline.check()

    def view(self, source: Source) -> PrecopyView:
        """The tree of a source as of the snapshot. `snapshot` cannot be called any more after this."""
        self._surveys.pop(source.name, None)
        return PrecopyView(self._roots[source.name], self._instants[source.name], self._require_staging())

    def problems(self, source: Source) -> Sequence[tuple[bytes, str]]:
        """Filesystems and subvolumes inside the source, and files that were written to while they were copied."""
        root = self._roots[source.name]
        found = [
            (
                os.fsencode(mount.path.relative_to(root)),
                f"another filesystem ({mount.filesystem}) is mounted here",
            )
            for mount in nested_mounts(root)
        ]
        instant = self._instants.get(source.name)
        unsteady = instant.unsteady if instant else []
        mounted = {path for path, _ in found}
        for path in instant.listing.elsewhere() if instant else ():
            if path not in mounted:
                found.append((path, "a subvolume of its own is here, which only the provider btrfs can back up"))
        return found + [(path, "it was written to while it was copied, and may be torn") for path in unsteady]

    def release(self) -> None:
        """Remove the staging directory; the journal hears of it."""
        self._instants.clear()
        step("before-release")
        if self._staging is None or self._setting is None:
            return
        try:
            if self._staging.path.exists():
                remove_tree(self._staging.path, self._setting.run_id)
        except OSError as error:
            raise SnapshotError(
                f"The staging directory {self._staging.path} could not be removed: {error.strerror}.",
                next_step="`trinity-snap recover` tries again.",
            ) from error
        self._setting.journal.removed(self._staging.path)
        self._staging = None
        step("half-released")

    def _pass(self, setting: Prepare) -> float:
        assert setting.ship_pass is not None
        self.passes += 1
        setting.progress.stage(f"pass {self.passes} over the live data")
        started, started_ns = time.monotonic(), time.time_ns()
        self.flush()
        for source in self.sources:
            root = self._roots[source.name]
            known = self._surveys.get(source.name)
            if known is None:
                shipped: Mapping[bytes, tuple[int, int, int, int]] = setting.ship_pass(
                    source, DirectoryView(root, live=True), self.passes
                )
            elif known.hot:
                shipped = setting.ship_pass(source, ChangedView(root, known), self.passes)
            else:
                continue
            if self._trusted[source.name]:
                self._layers[source.name].append(Layer(shipped, started_ns))
        return started

    def _survey_all(self) -> int:
        for source in self.sources:
            self._surveys[source.name] = survey(self._roots[source.name], self._layers[source.name])
        return sum(each.hot_bytes for each in self._surveys.values())

    def _hot_paths(self) -> Iterator[tuple[Path, bytes]]:
        for source in self.sources:
            for path in self._surveys[source.name].hot:
                yield self._roots[source.name], path

    def _require_staging(self) -> Staging:
        if self._staging is None:
            raise SnapshotError("The provider “precopy” was not prepared, or was released already.")
        return self._staging


class PrecopyView:
    """One source as it was in the pause. Safe to use from several threads once `walk` has ended."""

    def __init__(self, root: Path, instant: Instant, staging: Staging) -> None:
        self._root = os.fsencode(root)
        self._instant = instant
        self._staging = staging
        self._lock = threading.Lock()

    def walk(self) -> Iterator[WalkItem]:
        """The entries as they were, in manifest order."""
        return self._instant.listing.walk()

    def was_shipped(self, path: bytes) -> bool:
        """Whether a pass has shipped exactly the content that the regular file at `path` has in this view."""
        return path not in self._instant.staged

    def open(self, path: bytes) -> int:
        """The copy made in the pause; the live file where the content was shipped, if it is still the same.

        Raise OSError, ESTALE if the live file has changed since.
        """
        number = self._instant.staged.get(path)
        if number is not None:
            return self._staging.open(number)
        with self._lock:
            packed = self._instant.listing.find(path)
        descriptor = open_live(absolute(self._root, path))
        if packed is None or not same(packed, pack(os.fstat(descriptor))):
            os.close(descriptor)
            raise OSError(errno.ESTALE, "it changed after the snapshot, and its content was shipped before", path)
        return descriptor

    def xattrs(self, path: bytes, mode: int) -> dict[bytes, bytes]:
        """The extended attributes as they were. Raise OSError if they could not be read."""
        if path in self._instant.errors:
            raise self._instant.errors[path]
        return self._instant.xattrs.get(path, {})

    def readlink(self, path: bytes) -> bytes:
        """The link's target as it was. Raise OSError if it could not be read."""
        if path in self._instant.errors:
            raise self._instant.errors[path]
        return self._instant.targets[path]


def _is_untrusted(root: Path) -> bool:
    filesystem = find_mount(root).filesystem
    return filesystem in _UNTRUSTED or filesystem.startswith("fuse.")


def _size(path: Path) -> int:
    try:
        status = os.lstat(path)
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


__all__ = ["NAME", "PrecopyProvider", "PrecopyView", "Settings", "SourceView"]
