"""The btrfs provider: read-only snapshots of the subvolumes that hold the sources.

One snapshot is made for each subvolume, whatever the number of sources in it, and lies in a directory
`.trinity-snap` of the nearest subvolume that is not itself (part of) a source. Its name, `<run
id>-<number>`, says whose it is. A subvolume inside a source, such as an agent may make for itself, gets its
own snapshot, and the view shows it in its place.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.errors import SnapshotError
from trinity_snap.quiesce.journal import Leftover
from trinity_snap.quiesce.steps import step
from trinity_snap.snapshot.btrfs_store import (
    identity_of,
    lasting_path,
    remove_leftover,
    remove_stray,
    settle,
    snapshots_by_name,
)
from trinity_snap.snapshot.grafts import Graft, GraftedView
from trinity_snap.snapshot.mounts import find_mount, nested_mounts, real_path
from trinity_snap.snapshot.protocol import STORE, Deadline, Kept, KeptTree, Prepare, SourceKey, source_key
from trinity_snap.snapshot.subvolumes import (
    NAME,
    delete_snapshot,
    nested_subvolumes,
    require_btrfs_progs,
    run_btrfs,
    subvolume_of,
)
from trinity_snap.snapshot.syncfs import syncfs
from trinity_snap.snapshot.view import DirectoryView, SourceView, is_own

if TYPE_CHECKING:
    from trinity_snap.agents.model import Source

_LEAST_FREE_BYTES = 16 << 20


@dataclass(frozen=True)
class _Snapshot:
    subvolume: Path
    where: Path


class BtrfsProvider:
    """Makes views of sources that lie on btrfs. See `trinity_snap.snapshot.protocol.Provider`."""

    name = NAME
    atomic = True
    doubt = ""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = tuple(sources)
        self._failures: dict[SourceKey, SnapshotError] = {}
        self._roots: dict[SourceKey, Path] = {}
        for source in sources:
            try:
                self._roots[source_key(source)] = real_path(source.path)
            except SnapshotError as error:
                self._failures[source_key(source)] = error
        self._subvolume_of: dict[SourceKey, Path] = {}
        self._nested: dict[SourceKey, tuple[Path, ...]] = {}
        self._uuids: dict[Path, bytes] = {}
        self._snapshots: dict[Path, _Snapshot] = {}
        self._setting: Prepare | None = None

    def prepare(self, setting: Prepare) -> None:
        """Find the subvolumes, see that there is room, and note the snapshots to come in the journal."""
        require_btrfs_progs()
        self._setting = setting
        for key, root in self._roots.items():
            try:
                subvolume, nested = subvolume_of(root), nested_subvolumes(root)
                self._uuids |= {each: subvolume_uuids(each)[0] for each in (subvolume, *nested)}
            except (SnapshotError, OSError) as error:
                self._failures[key] = _as_ours(root, error)
                continue
            self._subvolume_of[key], self._nested[key] = subvolume, nested
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
        syncfs(sorted({made.where.parent for made in self._snapshots.values()}))

    def snapshot(self, deadline: Deadline) -> None:
        """Make all snapshots, in parallel; those of an earlier attempt are removed first."""
        for made in self._snapshots.values():
            if os.path.lexists(made.where):
                delete_snapshot(made.where)
        for key in self._subvolume_of:
            self._failures.pop(key, None)
        deadline.check()
        with ThreadPoolExecutor(4) as pool:
            failed = dict(zip(self._snapshots, pool.map(self._make, self._snapshots.values()), strict=True))
        for key, subvolume in self._subvolume_of.items():
            for each in (subvolume, *self._nested[key]):
                if (error := failed[each]) is not None:
                    self._failures.setdefault(key, error)
        deadline.check()

    def failures(self) -> Mapping[SourceKey, SnapshotError]:
        """The sources that there is no view of."""
        return self._failures

    def view(self, source: Source) -> SourceView:
        """The source's tree within the snapshot, nested subvolumes in their places."""
        key = source_key(source)
        if key in self._failures:
            raise self._failures[key]
        root = self._roots[key]
        subvolume = self._subvolume_of[key]
        view: SourceView = DirectoryView(self._snapshots[subvolume].where / root.relative_to(subvolume))
        grafts = [
            Graft(os.fsencode(nested.relative_to(root)), DirectoryView(self._snapshots[nested].where))
            for nested in self._nested[key]
        ]
        hidden = [os.fsencode(store.relative_to(root)) for store in self._stores_in(root)]
        return GraftedView(view, grafts, hidden) if grafts or hidden else view

    def problems(self, source: Source) -> Sequence[tuple[bytes, str]]:
        """Other filesystems that are mounted inside the source, and subvolumes too new for the snapshot."""
        root = self._roots[source_key(source)]
        known = self._nested.get(source_key(source), ())
        found = {
            mount.path: f"another filesystem ({mount.filesystem}) is mounted here" for mount in nested_mounts(root)
        }
        found |= dict.fromkeys(nested_subvolumes(root), "this subvolume was made while the run was under way")
        return [(os.fsencode(path.relative_to(root)), why) for path, why in sorted(found.items()) if path not in known]

    def keepable(self) -> Sequence[Kept]:
        """The snapshots that show something of a source, each with the UUID by which it is known again."""
        found = []
        for made in self._snapshots.values():
            trees = tuple(self._trees(made))
            if trees and self._setting is not None:
                where, identity = lasting_path(made.where), identity_of(made.where)
                found.append(Kept(NAME, self._setting.run_id, str(where), str(made.where), identity, trees))
        return found

    def keep(self) -> None:
        """Rename them: a rename within a directory is all or nothing, and works on read-only snapshots."""
        for kept in self.keepable():
            settle(kept)
            step("half-kept")
            if self._setting is not None:
                self._setting.journal.removed(Path(kept.made))
            for subvolume in [each for each, made in self._snapshots.items() if str(made.where) == kept.made]:
                del self._snapshots[subvolume]

    def check(self, source: Source) -> None:
        """A btrfs snapshot is there as long as the filesystem is, and the kernel compares what it reads with checksums."""

    def release(self) -> None:
        """Delete the snapshots that are not kept; the journal hears of each."""
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

    def _trees(self, made: _Snapshot) -> Iterator[KeptTree]:
        """What a snapshot shows of which source."""
        for source in self.sources:
            key = source_key(source)
            if key in self._failures:
                continue
            root = self._roots[key]
            if self._subvolume_of[key] == made.subvolume:
                place = root.relative_to(made.subvolume)
                hidden = tuple(str(store.relative_to(root)) for store in self._stores_in(root))
                yield KeptTree(source.kind, source.name, "" if place == Path() else str(place), "", hidden)
            elif made.subvolume in self._nested[key]:
                at = made.subvolume.relative_to(root)
                if not is_own(os.fsencode(at.parts[0])):
                    yield KeptTree(source.kind, source.name, "", str(at))

    def _stores_in(self, root: Path) -> set[Path]:
        return {made.where.parent for made in self._snapshots.values() if root in made.where.parents}

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

    def _make(self, wanted: _Snapshot) -> SnapshotError | None:
        """Make one snapshot. Return why it cannot be used, if so."""
        try:
            run_btrfs(
                ["subvolume", "snapshot", "-r", str(wanted.subvolume), str(wanted.where)],
                f"The snapshot of {wanted.subvolume} could not be made",
            )
            if subvolume_uuids(wanted.where)[1] != self._uuids[wanted.subvolume]:
                raise SnapshotError(
                    f"{wanted.subvolume} is another subvolume than a moment ago, and not the one that was to be snapshotted.",
                    untouched="The other sources are not affected, and nothing of the snapshot is read.",
                    next_step="Look at what put it there: an agent may be trying to reach outside of its volume.",
                )
        except (SnapshotError, OSError) as error:
            return _as_ours(wanted.subvolume, error)
        step("first-snapshot")
        return None


def _as_ours(place: Path, error: SnapshotError | OSError) -> SnapshotError:
    if isinstance(error, SnapshotError):
        return error
    return SnapshotError(f"{place} cannot be looked at: {error.strerror}.", untouched="Other sources are not affected.")


def subvolume_uuids(subvolume: Path) -> tuple[bytes, bytes]:
    """The UUID of a subvolume, and of the one that it is a snapshot of (zeros if none). Raise OSError.

    Asked by BTRFS_IOC_GET_SUBVOL_INFO (linux/btrfs.h, Linux 4.18).
    """
    answer = bytearray(504)
    descriptor = os.open(subvolume, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, 0x81F8943C, answer)
    finally:
        os.close(descriptor)
    return bytes(answer[296:312]), bytes(answer[312:328])


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


__all__ = [
    "NAME",
    "BtrfsProvider",
    "nested_subvolumes",
    "remove_leftover",
    "remove_stray",
    "require_btrfs_progs",
    "snapshots_by_name",
    "subvolume_of",
]
