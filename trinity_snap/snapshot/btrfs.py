"""The btrfs provider: read-only snapshots of the subvolumes that hold the sources.

One snapshot is made for each subvolume, whatever the number of sources in it, and lies in a directory
`.trinity-snap` of the nearest subvolume that is not itself (part of) a source. Its name, `<run
id>-<number>`, says whose it is. A subvolume inside a source, such as an agent may make for itself, gets its
own snapshot, and the view shows it in its place.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.errors import SnapshotError
from trinity_snap.quiesce.journal import Leftover
from trinity_snap.quiesce.steps import step
from trinity_snap.snapshot.grafts import Graft, GraftedView
from trinity_snap.snapshot.mounts import find_mount, nested_mounts, read_mounts, real_path
from trinity_snap.snapshot.protocol import Deadline, Prepare
from trinity_snap.snapshot.syncfs import syncfs
from trinity_snap.snapshot.view import DirectoryView, SourceView

if TYPE_CHECKING:
    from trinity_snap.agents.model import Source

NAME = "btrfs"
STORE = ".trinity-snap"
_SUBVOLUME_INODE = 256  # BTRFS_FIRST_FREE_OBJECTID: the root directory of every subvolume
_LEAST_FREE_BYTES = 16 << 20


@dataclass(frozen=True)
class _Snapshot:
    subvolume: Path
    where: Path


class BtrfsProvider:
    """Makes views of sources that lie on btrfs. See `trinity_snap.snapshot.protocol.Provider`."""

    name = NAME
    atomic = True

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = tuple(sources)
        self._roots = {source.name: real_path(source.path) for source in sources}
        self._subvolume_of: dict[str, Path] = {}
        self._nested: dict[str, tuple[Path, ...]] = {}
        self._snapshots: dict[Path, _Snapshot] = {}
        self._setting: Prepare | None = None

    def prepare(self, setting: Prepare) -> None:
        """Find the subvolumes, see that there is room, and note the snapshots to come in the journal."""
        require_btrfs_progs()
        self._setting = setting
        for source in self.sources:
            root = self._roots[source.name]
            self._subvolume_of[source.name] = subvolume_of(root)
            self._nested[source.name] = nested_subvolumes(root)
        subvolumes = {*self._subvolume_of.values()}.union(*self._nested.values())
        stores = {subvolume: self._store_for(subvolume) for subvolume in subvolumes}
        for number, subvolume in enumerate(sorted(subvolumes), 1):
            where = stores[subvolume] / f"{setting.run_id}-{number}"
            self._snapshots[subvolume] = _Snapshot(subvolume, where)
        for store in sorted(set(stores.values())):
            _make_store(store)
        setting.journal.making([Leftover("snapshot", each.where, NAME) for each in self._snapshots.values()])

    def flush(self) -> None:
        """Write the subvolumes' dirty pages."""
        syncfs(self._snapshots)

    def snapshot(self, deadline: Deadline) -> None:
        """Make all snapshots, in parallel; those of an earlier attempt are removed first."""
        for made in self._snapshots.values():
            if os.path.lexists(made.where):
                delete_snapshot(made.where)
        deadline.check()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self._make, self._snapshots.values()))
        deadline.check()

    def view(self, source: Source) -> SourceView:
        """The source's tree within the snapshot, nested subvolumes in their places."""
        root = self._roots[source.name]
        subvolume = self._subvolume_of[source.name]
        view: SourceView = DirectoryView(self._snapshots[subvolume].where / root.relative_to(subvolume))
        grafts = [
            Graft(os.fsencode(nested.relative_to(root)), DirectoryView(self._snapshots[nested].where))
            for nested in self._nested[source.name]
        ]
        hidden = [
            os.fsencode(store.relative_to(root))
            for store in {made.where.parent for made in self._snapshots.values()}
            if root in store.parents
        ]
        return GraftedView(view, grafts, hidden) if grafts or hidden else view

    def problems(self, source: Source) -> Sequence[tuple[bytes, str]]:
        """Other filesystems that are mounted inside the source, and subvolumes too new for the snapshot."""
        root = self._roots[source.name]
        known = self._nested.get(source.name, ())
        found = {
            mount.path: f"another filesystem ({mount.filesystem}) is mounted here" for mount in nested_mounts(root)
        }
        found |= dict.fromkeys(nested_subvolumes(root), "this subvolume was made while the run was under way")
        return [(os.fsencode(path.relative_to(root)), why) for path, why in sorted(found.items()) if path not in known]

    def release(self) -> None:
        """Delete the snapshots; the journal hears of each."""
        journal = self._setting.journal if self._setting else None
        failed: list[str] = []
        step("before-release")
        for subvolume in list(self._snapshots):
            where = self._snapshots[subvolume].where
            try:
                remove_leftover(where)
            except SnapshotError as error:
                failed.append(error.message)
                continue
            del self._snapshots[subvolume]
            if journal:
                journal.removed(where)
            step("half-released")
        if failed:
            raise SnapshotError(
                " ".join(failed),
                next_step="Free some space or fix the filesystem, then run `trinity-snap recover`.",
            )

    def _store_for(self, subvolume: Path) -> Path:
        """A place for a subvolume's snapshot that is in no source, if there is one on the same filesystem."""
        mount = find_mount(subvolume)
        place = subvolume
        while any(place == root or root in place.parents for root in self._roots.values()):
            above = place.parent
            if place == mount.path or above == place:
                return subvolume / STORE  # the source is a whole filesystem; the view hides the directory
            place = subvolume_of(above)
        return place / STORE

    def _make(self, wanted: _Snapshot) -> None:
        if os.path.realpath(wanted.subvolume) != str(wanted.subvolume):
            raise SnapshotError(
                f"{wanted.subvolume} is reached through a symbolic link that was not there a moment ago.",
                untouched="No snapshot of it was made.",
                next_step="Look at what made that link: an agent may be trying to reach outside of its volume.",
            )
        _btrfs(
            ["subvolume", "snapshot", "-r", str(wanted.subvolume), str(wanted.where)],
            f"The snapshot of {wanted.subvolume} could not be made",
        )
        step("first-snapshot")


def require_btrfs_progs() -> None:
    """Raise SnapshotError if the `btrfs` command is missing."""
    if shutil.which("btrfs") is None:
        raise SnapshotError(
            "The provider “btrfs” needs the command `btrfs`, which is not installed.",
            untouched="No container was paused.",
            next_step="Install the package btrfs-progs, or set `snapshot: provider: precopy` in the policy.",
        )


def subvolume_of(path: Path) -> Path:
    """The root directory of the btrfs subvolume that a path, symbolic links resolved, is in."""
    place = path
    while os.stat(place).st_ino != _SUBVOLUME_INODE or not place.is_dir():
        if place.parent == place:
            raise SnapshotError(f"{path} is in no btrfs subvolume.")
        place = place.parent
    return place


def nested_subvolumes(root: Path) -> tuple[Path, ...]:
    """The subvolumes below a directory, not the directory itself, in the order of their paths.

    Only directories can hold one, and a btrfs directory's link count is always 1; so the subvolume list of
    the filesystem is asked, and what it says is looked up in the tree.
    """
    if not root.is_dir():
        return ()
    top = subvolume_of(root)
    listed = _btrfs(["subvolume", "list", "-o", str(top)], f"The subvolumes of {top} could not be listed")
    top_path = _path_in_filesystem(top)
    found: list[Path] = []
    for line in listed.splitlines():
        full = Path("/" + line.partition(" path ")[2].removeprefix("<FS_TREE>/"))
        if top_path != full and top_path in full.parents:
            place = top / full.relative_to(top_path)
            if root in place.parents and place.parent.name != STORE and _is_subvolume(place):
                found += [place, *nested_subvolumes(place)]
    return tuple(sorted(found))


def snapshots_by_name(places: Iterable[Path] = ()) -> tuple[Path, ...]:
    """Every snapshot of ours, of whatever run, on mounted btrfs filesystems and in the subvolumes of `places`."""
    tops = {mount.path for mount in read_mounts() if mount.filesystem == NAME}
    for place in places:
        if place.exists() and find_mount(place).filesystem == NAME:
            tops.add(subvolume_of(real_path(place)))
    found: set[Path] = set()
    for top in tops:
        try:
            found.update(entry for entry in (top / STORE).iterdir() if _is_subvolume(entry))
        except OSError:
            continue
    return tuple(sorted(found))


def remove_leftover(where: Path) -> None:
    """Delete the snapshot at `where`, and the directory it lies in if that is empty then; no error if it is not there.

    Raise SnapshotError if it stays, or if `where` is not a place where this provider puts snapshots.
    """
    if where.parent.name != STORE:
        raise SnapshotError(f"{where} is no snapshot of this program's, and is left alone.")
    if os.path.lexists(where):
        delete_snapshot(where)
    try:
        where.parent.rmdir()
    except OSError:
        pass  # other snapshots are in it, or it is gone


def delete_snapshot(where: Path) -> None:
    """Delete one snapshot. Raise SnapshotError if it stays."""
    if not _is_subvolume(where):
        raise SnapshotError(f"{where} is no btrfs subvolume, and is left alone.")
    _btrfs(["subvolume", "delete", str(where)], f"The snapshot {where} could not be removed")


def _is_subvolume(path: Path) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return status.st_ino == _SUBVOLUME_INODE and not path.is_symlink() and path.is_dir()


def _path_in_filesystem(subvolume: Path) -> Path:
    """A subvolume's path from the top of its filesystem, as `btrfs subvolume list` shows paths."""
    first = _btrfs(["subvolume", "show", str(subvolume)], f"{subvolume} could not be looked at").splitlines()[0]
    return Path("/" + first.strip().strip("/"))


def _make_store(store: Path) -> None:
    free = os.statvfs(store.parent)
    if free.f_bavail * free.f_frsize < _LEAST_FREE_BYTES:
        raise _no_room(store.parent)
    try:
        store.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _no_room(store.parent) from error
        raise SnapshotError(
            f"{store}, where snapshots go, cannot be made: {error.strerror}.",
            untouched="No container was paused.",
        ) from error


def _no_room(place: Path) -> SnapshotError:
    return SnapshotError(
        f"The btrfs filesystem of {place} is full: there is no room for a snapshot.",
        untouched="No container was paused.",
        next_step="Free some space (`btrfs filesystem usage` shows where it went), then run again.",
    )


def _btrfs(arguments: Sequence[str], failure: str) -> str:
    done = subprocess.run(
        ["btrfs", *arguments], capture_output=True, text=True, check=False, errors="surrogateescape",
        stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C"}, start_new_session=True,
    )  # fmt: skip
    if done.returncode:
        reason = done.stderr.strip().removeprefix("ERROR: ") or f"exit code {done.returncode}"
        raise SnapshotError(
            f"{failure}: {reason}.", next_step="`btrfs filesystem usage` and the kernel log may show why."
        )
    return done.stdout


__all__ = [
    "NAME",
    "BtrfsProvider",
    "nested_subvolumes",
    "remove_leftover",
    "require_btrfs_progs",
    "snapshots_by_name",
    "subvolume_of",
]
