"""The providers `lvm` and `lvm-thin`: snapshots of the logical volumes whose filesystems hold the sources.

One snapshot is made for each logical volume, whatever the number of sources on it, and is called
`trinity-snap-<run id>-<number>` (in a thin pool `trinity-snap-<run id>-t<number>`), with the tag `trinity-snap`. LVM freezes the
filesystem while it makes one, so that it is whole. It is mounted after the pause, read-only; the device itself can be
written, so that the filesystem can replay its log.

A thick snapshot has a room of its own for what changes on the volume while it exists. If that overflows, the kernel throws the
snapshot away: `check` says so, and nothing that was read from it counts.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.errors import SnapshotError
from trinity_snap.quiesce.journal import Leftover
from trinity_snap.quiesce.steps import step
from trinity_snap.snapshot import logicalvolumes
from trinity_snap.snapshot.commands import wait_for_changes
from trinity_snap.snapshot.logicalvolumes import LogicalVolume
from trinity_snap.snapshot.lvm_store import FILESYSTEMS as FILESYSTEMS
from trinity_snap.snapshot.lvm_store import lasting_name, settle
from trinity_snap.snapshot.mounting import STORE, mount_snapshot, remove_mounts
from trinity_snap.snapshot.mounts import (
    MountPoint,
    find_mount,
    nested_mounts,
    path_in_filesystem,
    read_mounts,
    real_path,
)
from trinity_snap.snapshot.protocol import Deadline, Kept, KeptTree, Prepare, SourceKey, source_key
from trinity_snap.snapshot.syncfs import syncfs
from trinity_snap.snapshot.view import DirectoryView, SourceView

if TYPE_CHECKING:
    from trinity_snap.agents.model import Source

THICK = "lvm"
THIN = "lvm-thin"
_PASSING = re.compile(re.escape(logicalvolumes.PREFIX) + r"(?P<run>[0-9a-f]{32})-t?[0-9]+")


@dataclass(frozen=True)
class Settings:
    """How much room a thick snapshot gets, from the size of its volume; and how full, in percent, a thin pool may be."""

    thick_bytes: Callable[[int], int]
    pool_limit_percent: int = 90


@dataclass
class _Snapshot:
    origin: LogicalVolume
    name: str
    mount: MountPoint
    number: int
    thick_bytes: int | None
    made: bool = False
    written_before: int = 0
    mounted: Path | None = None
    device: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def full_name(self) -> str:
        return f"{self.origin.group}/{self.name}"

    @property
    def path(self) -> Path:
        return Path("/dev") / self.origin.group / self.name


class LvmProvider:
    """Makes views of sources on logical volumes. See `trinity_snap.snapshot.protocol.Provider`.

    One provider is for thick snapshots or for those in thin pools, never for both.
    """

    atomic = True
    doubt = ""

    def __init__(self, sources: Sequence[Source], settings: Settings, state_dir: Path, *, thin: bool) -> None:
        self.name = THIN if thin else THICK
        self.sources = tuple(sources)
        self._thin = thin
        self._settings = settings
        self._state = Path(state_dir)
        self._setting: Prepare | None = None
        self._mounts: Path | None = None
        self._roots: dict[SourceKey, Path] = {}
        self._inner: dict[SourceKey, Path] = {}
        self._snapshot_of: dict[SourceKey, _Snapshot] = {}
        self._snapshots: list[_Snapshot] = []
        self._failures: dict[SourceKey, SnapshotError] = {}

    def prepare(self, setting: Prepare) -> None:
        """Find the volumes, see that there is room for all snapshots, and note them in the journal."""
        logicalvolumes.require_tools()
        volumes = logicalvolumes.read_volumes()
        found: dict[str, _Snapshot] = {}
        for source in self.sources:
            try:
                real = real_path(source.path)
                mount = find_mount(real)
                origin = self._volume(source, os.lstat(real).st_dev, volumes)
            except (SnapshotError, OSError) as error:
                self._failures[source_key(source)] = _as_ours(source, error)
                continue
            snapshot = found.get(origin.uuid)
            if snapshot is None:
                number = len(found) + 1
                name = f"{logicalvolumes.PREFIX}{setting.run_id}-{'t' if self._thin else ''}{number}"
                snapshot = found[origin.uuid] = _Snapshot(origin, name, mount, number, self._room_for(origin))
            self._snapshot_of[source_key(source)] = snapshot
            self._roots[source_key(source)] = real
            self._inner[source_key(source)] = path_in_filesystem(real, mount)
        self._require_room(list(found.values()), volumes)
        self._setting = setting
        self._snapshots = list(found.values())
        self._mounts = self._state / STORE / f"{setting.run_id}-{self.name}"
        setting.journal.making(
            [
                Leftover("mounts", self._mounts, self.name),
                *(Leftover("suspension", each.origin.path, self.name) for each in self._snapshots),
                *(Leftover("snapshot", each.path, self.name) for each in self._snapshots),
            ]
        )

    def flush(self) -> None:
        """Write the filesystems' dirty pages: LVM's freeze would have to do it in the pause."""
        syncfs(each.mount.path for each in self._snapshots)

    def snapshot(self, deadline: Deadline) -> None:
        """Make all snapshots, the groups in parallel (within one, LVM lets no two commands work at once)."""
        for each in self._snapshots:
            if each.made:
                logicalvolumes.remove_snapshot(each.path)
                each.made = False
        deadline.check()
        groups: dict[str, list[_Snapshot]] = {}
        for each in self._snapshots:
            groups.setdefault(each.origin.group, []).append(each)
        with ThreadPoolExecutor(max(1, len(groups))) as pool:
            list(pool.map(lambda group: self._make(group, deadline), groups.values()))
        deadline.check()

    def failures(self) -> Mapping[SourceKey, SnapshotError]:
        """The sources that there is no view of."""
        return self._failures

    def view(self, source: Source) -> SourceView:
        """The source's tree in the mounted snapshot; the first call for a volume mounts it."""
        if source_key(source) in self._failures:
            raise self._failures[source_key(source)]
        snapshot = self._snapshot_of[source_key(source)]
        with snapshot.lock:
            place = snapshot.mounted or self._mount(snapshot)
        root = place / self._inner[source_key(source)]
        if os.path.realpath(root) != str(root):
            raise SnapshotError(
                f"In the snapshot, {source.path} is reached through a symbolic link that was not there a moment before.",
                untouched="Nothing was read through it.",
                next_step="Look at what made that link: an agent may be trying to reach outside of its volume.",
            )
        return DirectoryView(root)

    def problems(self, source: Source) -> Sequence[tuple[bytes, str]]:
        """Other filesystems that are mounted inside the source."""
        root = self._roots[source_key(source)]
        return [
            (os.fsencode(mount.path.relative_to(root)), f"another filesystem ({mount.filesystem}) is mounted here")
            for mount in nested_mounts(root)
        ]

    def check(self, source: Source) -> None:
        """Raise SnapshotError if the snapshot has overflowed or failed: what was read from it does not count then."""
        snapshot = self._snapshot_of[source_key(source)]
        if not snapshot.device or not logicalvolumes.snapshot_state(snapshot.device).broken:
            return
        origin = snapshot.origin
        if snapshot.thick_bytes is None:
            raise SnapshotError(
                f"The snapshot of {origin.full_name} failed while it was read: its thin pool {origin.group}/{origin.pool} is "
                "out of space or damaged.",
                untouched="Nothing of what was read is used.",
                next_step=f"`lvs {origin.group}` and the kernel log show the state of the pool; extend it, then run again.",
            )
        written = logicalvolumes.written_bytes(origin.number) - snapshot.written_before
        needed = max(written, snapshot.thick_bytes)
        raise SnapshotError(
            f"The snapshot of {origin.full_name} overflowed while it was read: it had room for {_size(snapshot.thick_bytes)}, "
            f"and {_size(written)} had been written to the volume when that was noticed. It would have needed {_size(needed)} up "
            "to there, and more for what was still to be read.",
            untouched="Nothing of what was read is used.",
            next_step=(
                f"Raise `snapshot: lvm: size` ({_size(needed * 2)} is a start; {origin.group} had {_size(origin.group_free)} "
                "free), run when less is written, or use a thin pool, whose snapshots cannot overflow."
            ),
        )

    def keepable(self) -> Sequence[Kept]:
        """The snapshots in thin pools, each with the volume's UUID by which it is known again."""
        if not self._thin or self._setting is None:
            return ()
        found = []
        uuids = {volume.path: volume.uuid for volume in logicalvolumes.read_volumes()}
        for each in self._snapshots:
            trees = tuple(
                KeptTree(source.kind, source.name, str(self._inner[source_key(source)]))
                for source in self.sources
                if self._snapshot_of.get(source_key(source)) is each
            )
            if each.path in uuids:
                where = each.path.with_name(lasting_name(each.name))
                found.append(
                    Kept(
                        self.name,
                        self._setting.run_id,
                        str(where),
                        str(each.path),
                        uuids[each.path],
                        trees,
                        each.mount.filesystem,
                    )
                )
        return found

    def keep(self) -> None:
        """Unmount them, and rename them while they are inactive: then nothing is suspended for it."""
        if self._setting is None or self._mounts is None:
            return
        keepable = {kept.made: kept for kept in self.keepable()}
        remove_mounts(self._mounts)
        for each in list(self._snapshots):
            kept = keepable.get(str(each.path))
            if kept is not None:
                settle(kept)
                step("half-kept")
                self._setting.journal.removed(each.path)
                self._setting.journal.removed(each.origin.path)
                self._snapshots.remove(each)

    def release(self) -> None:
        """Unmount and remove the snapshots that are not kept; the journal hears of each."""
        if self._setting is None or self._mounts is None:
            return
        journal = self._setting.journal
        step("before-release")
        failed: list[str] = []
        try:
            remove_mounts(self._mounts)
            journal.removed(self._mounts)
            for each in self._snapshots:
                each.mounted = None
            step("unmounted")
        except SnapshotError as error:
            failed.append(str(error))
        for each in list(self._snapshots):
            try:
                logicalvolumes.remove_snapshot(each.path)
            except SnapshotError as error:
                failed.append(error.message)
                continue
            journal.removed(each.path)
            journal.removed(each.origin.path)
            self._snapshots.remove(each)
            step("half-released")
        if failed:
            raise SnapshotError(" ".join(failed))
        self._setting = None

    def _volume(self, source: Source, device: int, volumes: Sequence[LogicalVolume]) -> LogicalVolume:
        origin = logicalvolumes.volume_of(device, volumes)
        if origin is None or not (origin.is_thin if self._thin else origin.is_thick):
            raise SnapshotError(
                f"{source.path} is on no logical volume that the provider “{self.name}” can snapshot.",
                untouched="No container was paused.",
            )
        return origin

    def _room_for(self, origin: LogicalVolume) -> int | None:
        if self._thin:
            return None
        extents = -(-self._settings.thick_bytes(origin.bytes) // origin.extent)
        return max(extents, 1) * origin.extent

    def _require_room(self, snapshots: Sequence[_Snapshot], volumes: Sequence[LogicalVolume]) -> None:
        if self._thin:
            used = {(each.origin.group, each.origin.pool) for each in snapshots}
            for pool in volumes:
                if (pool.group, pool.name) in used:
                    require_pool(pool, self._settings.pool_limit_percent)
            return
        needed: dict[str, int] = {}
        free: Mapping[str, int] = {each.origin.group: each.origin.group_free for each in snapshots}
        for each in snapshots:
            needed[each.origin.group] = needed.get(each.origin.group, 0) + (each.thick_bytes or 0)
        for group, wanted in needed.items():
            if wanted > free[group]:
                names = ", ".join(each.origin.name for each in snapshots if each.origin.group == group)
                raise SnapshotError(
                    f"The volume group {group} has {_size(free[group])} free, and snapshots of {names} need {_size(wanted)}.",
                    untouched="No snapshot was made and no container was paused.",
                    next_step=(
                        "Add a disk to the group (`vgextend`), lower `snapshot: lvm: size`, or set `snapshot: provider: precopy`."
                    ),
                )

    def _make(self, snapshots: Sequence[_Snapshot], deadline: Deadline) -> None:
        for each in snapshots:
            deadline.check()
            each.written_before = logicalvolumes.written_bytes(each.origin.number)
            each.made = True
            logicalvolumes.create_snapshot(each.origin, each.name, each.thick_bytes)
            step("first-snapshot")

    def _mount(self, snapshot: _Snapshot) -> Path:
        assert self._mounts is not None
        step("before-mount")
        if self._thin:
            logicalvolumes.activate(snapshot.full_name)
        found = logicalvolumes.read_volumes(snapshot.full_name)
        if not found:
            raise SnapshotError(f"The snapshot {snapshot.full_name} is not there any more: somebody else removed it.")
        snapshot.device = found[0].device
        place = self._mounts / str(snapshot.number)
        kind = snapshot.mount.filesystem
        try:
            mount_snapshot(snapshot.device, place, kind, FILESYSTEMS[kind])
        except SnapshotError:
            for source in self.sources:
                if self._snapshot_of.get(source_key(source)) is snapshot:
                    self.check(source)
                    break
            raise
        snapshot.mounted = place
        step("mounted")
        return place


def require_pool(pool: LogicalVolume, limit_percent: int) -> None:
    """Raise SnapshotError if a thin pool's data or metadata is fuller than that."""
    for what, percent, size in (
        ("data", pool.percent, pool.bytes),
        ("metadata", pool.metadata_percent, pool.metadata_bytes),
    ):
        if percent is not None and percent > limit_percent:
            raise SnapshotError(
                f"The thin pool {pool.full_name} is nearly full: {percent:g} % of its {_size(size)} of {what} is used, and the "
                f"limit is {limit_percent} % (data {pool.percent or 0:g} %, metadata {pool.metadata_percent or 0:g} %).",
                untouched="No snapshot was made and no container was paused.",
                next_step=(
                    f"Extend it (`lvextend {'--poolmetadatasize' if what == 'metadata' else '--size'} …`) or free space in it; "
                    "`snapshot: lvm: pool_limit_percent` is the limit."
                ),
            )


def remove_leftover(leftover: Leftover, run_id: str) -> bool:
    """Undo one thing that a dead run noted; whether there was anything to undo. Raise SnapshotError."""
    where = leftover.where
    wait_for_changes()
    if leftover.kind == "suspension":
        return logicalvolumes.lvm_is_in_use() and not logicalvolumes.missing_tools() and logicalvolumes.wake(where)
    if leftover.kind == "mounts" and where.name.startswith(run_id):
        return remove_mounts(where)
    if leftover.kind == "snapshot" and where.name.startswith(f"{logicalvolumes.PREFIX}{run_id}-"):
        logicalvolumes.require_tools()
        return logicalvolumes.remove_snapshot(where)
    raise SnapshotError(f"{where} is not named after run {run_id}, and is left alone.")


def _as_ours(source: Source, error: SnapshotError | OSError) -> SnapshotError:
    if isinstance(error, SnapshotError):
        return error
    return SnapshotError(
        f"{source.path} cannot be looked at: {error.strerror}.", untouched="Other sources are not affected."
    )


def remove_stray(path: Path) -> None:
    """Unmount and remove a snapshot that no journal notes, if all of it is as a run makes it. Raise SnapshotError."""
    match = _PASSING.fullmatch(path.name)
    found = logicalvolumes.read_volumes(f"{path.parent.name}/{path.name}")
    if match is None or not all(each.is_ours and "snapshot" in each.role for each in found):
        raise SnapshotError(f"{path} is not as a run of this program makes its snapshots, and is left alone.")
    devices = {each.device for each in found}
    for mount in read_mounts():
        # Only where a run mounts: `mnt/<run id>-<provider>/<number>` of some state directory.
        if mount.device in devices and mount.path.parent.name.startswith(match["run"]):
            remove_mounts(mount.path.parent)
    logicalvolumes.remove_snapshot(path)


def _size(size: int) -> str:
    for unit, shift in (("GiB", 30), ("MiB", 20)):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.1f} {unit}"
    return f"{size >> 10} KiB"
