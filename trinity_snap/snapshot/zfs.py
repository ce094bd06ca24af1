"""The provider `zfs`: snapshots of the datasets whose filesystems hold the sources.

Each dataset gets a snapshot `<dataset>@trinity-snap-<run id>`, those of one pool all in one command, which ZFS does atomically.
After the pause, a read-only clone of it, `<pool>/trinity-snap-<run id>-<number>`, is mounted. Both carry the run's id in
the property `trinity-snap:run`, too; nothing that lacks it is ever destroyed, and nothing is ever destroyed recursively.

Experimental: tested with zfs-fuse only, which is much older than OpenZFS.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.errors import SnapshotError
from trinity_snap.quiesce.journal import Leftover
from trinity_snap.quiesce.steps import step
from trinity_snap.snapshot.commands import ask, change, wait_for_changes
from trinity_snap.snapshot.mounting import STORE, make_private, remove_mounts
from trinity_snap.snapshot.mounts import (
    MountPoint,
    find_mount,
    nested_mounts,
    path_in_filesystem,
    read_mounts,
    real_path,
)
from trinity_snap.snapshot.protocol import Deadline, Kept, Prepare, SourceKey
from trinity_snap.snapshot.syncfs import syncfs
from trinity_snap.snapshot.view import DirectoryView, SourceView

if TYPE_CHECKING:
    from trinity_snap.agents.model import Source

NAME = "zfs"
FILESYSTEMS = ("zfs", "fuse.zfs")
PREFIX = "trinity-snap-"
_PROPERTY = "trinity-snap:run"
_RUN = re.compile(r"[0-9a-f]{32}")
_OURS = re.compile(rf"[^@]+@{PREFIX}(?P<snapshot>[^@/]+)|[^@/]+/{PREFIX}(?P<clone>[^@/]+)-\d+")
_BUSY_SECONDS = 5.0


@dataclass
class _Snapshot:
    dataset: str
    name: str
    clone: str
    number: int
    mounted: Path | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class ZfsProvider:
    """Makes views of sources on ZFS. See `trinity_snap.snapshot.protocol.Provider`."""

    name = NAME
    atomic = True
    doubt = ""

    def __init__(self, sources: Sequence[Source], state_dir: Path) -> None:
        self.sources = tuple(sources)
        self._state = Path(state_dir)
        self._setting: Prepare | None = None
        self._mounts: Path | None = None
        self._snapshots: dict[str, _Snapshot] = {}
        self._roots: dict[SourceKey, Path] = {}
        self._place: dict[SourceKey, tuple[str, Path]] = {}
        self._failures: dict[SourceKey, SnapshotError] = {}
        self._made = False

    def prepare(self, setting: Prepare) -> None:
        """Find the datasets, and note the snapshots and clones to come in the journal."""
        require_tools()
        for source in self.sources:
            try:
                real = real_path(source.path)
                mount = find_mount(real)
                place = path_in_filesystem(real, mount)
            except SnapshotError as error:
                self._failures[source.kind, source.name] = error
                continue
            dataset = mount.device
            if dataset not in self._snapshots:
                number = len(self._snapshots) + 1
                clone = f"{dataset.partition('/')[0]}/{PREFIX}{setting.run_id}-{number}"
                self._snapshots[dataset] = _Snapshot(dataset, f"{dataset}@{PREFIX}{setting.run_id}", clone, number)
            self._roots[source.kind, source.name] = real
            self._place[source.kind, source.name] = dataset, place
        self._setting = setting
        self._mounts = self._state / STORE / f"{setting.run_id}-{NAME}"
        setting.journal.making(
            [
                Leftover("mounts", self._mounts, NAME),
                *(Leftover("clone", Path(each.clone), NAME) for each in self._snapshots.values()),
                *(Leftover("snapshot", Path(each.name), NAME) for each in self._snapshots.values()),
            ]
        )

    def flush(self) -> None:
        """Write what is dirty, so that the snapshot has little to wait for."""
        syncfs(root for root in self._roots.values() if root.exists())

    def snapshot(self, deadline: Deadline) -> None:
        """Make all snapshots, those of a pool at once."""
        if self._made:
            for each in self._snapshots.values():
                destroy(each.name)
        deadline.check()
        pools: dict[str, list[str]] = {}
        for each in self._snapshots.values():
            pools.setdefault(each.dataset.partition("/")[0], []).append(each.name)
        self._made = True
        for names in pools.values():
            deadline.check()
            self._make(names)
            step("first-snapshot")
        deadline.check()

    def failures(self) -> Mapping[SourceKey, SnapshotError]:
        """The sources that were gone already; else what goes wrong concerns all, whose snapshots are made by one command."""
        return self._failures

    def view(self, source: Source) -> SourceView:
        """The source's tree in a clone of the snapshot; the first call for a dataset mounts it."""
        if (failure := self._failures.get((source.kind, source.name))) is not None:
            raise failure
        dataset, inner = self._place[source.kind, source.name]
        snapshot = self._snapshots[dataset]
        with snapshot.lock:
            place = snapshot.mounted or self._mount(snapshot)
        root = place / inner
        if os.path.realpath(root) != str(root):
            raise SnapshotError(
                f"In the snapshot, {source.path} is reached through a symbolic link that was not there a moment before.",
                untouched="Nothing was read through it.",
                next_step="Look at what made that link: an agent may be trying to reach outside of its volume.",
            )
        return DirectoryView(root)

    def problems(self, source: Source) -> Sequence[tuple[bytes, str]]:
        """Other filesystems that are mounted inside the source, such as datasets below its own."""
        root = self._roots[source.kind, source.name]
        return [
            (os.fsencode(mount.path.relative_to(root)), f"another filesystem ({mount.filesystem}) is mounted here")
            for mount in nested_mounts(root)
        ]

    def keepable(self) -> Sequence[Kept]:
        """Nothing yet: a dataset's snapshots are not kept."""
        return ()

    def keep(self) -> None:
        """Keep nothing."""

    def check(self, source: Source) -> None:
        """A snapshot of ZFS is there as long as the pool is, and ZFS compares what it reads with checksums."""

    def release(self) -> None:
        """Unmount and destroy the clones, then destroy the snapshots; the journal hears of each."""
        if self._setting is None or self._mounts is None:
            return
        journal = self._setting.journal
        step("before-release")
        try:
            remove_mounts(self._mounts)
            journal.removed(self._mounts)
            step("unmounted")
            for each in self._snapshots.values():
                each.mounted = None
                destroy(each.clone)
                journal.removed(Path(each.clone))
                destroy(each.name)
                journal.removed(Path(each.name))
                step("half-released")
        except SnapshotError as error:
            raise SnapshotError(
                error.message, next_step=error.next_step or "`trinity-snap recover` tries again."
            ) from error
        self._setting = None

    def _make(self, names: Sequence[str]) -> None:
        assert self._setting is not None
        command = ["zfs", "snapshot", "-o", f"{_PROPERTY}={self._setting.run_id}"]
        failure = f"The snapshot {names[0]} could not be made"
        if len(names) > 1 and takes_several():
            change([*command, *names], failure)
            return
        for name in names:
            change([*command, name], failure)

    def _mount(self, snapshot: _Snapshot) -> Path:
        assert self._setting is not None
        assert self._mounts is not None
        step("before-mount")
        place = self._mounts / str(snapshot.number)
        make_private(self._mounts)
        place.mkdir(mode=0o700, exist_ok=True)
        options = {
            _PROPERTY: self._setting.run_id, "mountpoint": str(place), "canmount": "noauto", "readonly": "on",
            "atime": "off", "devices": "off", "exec": "off", "setuid": "off",
        }  # fmt: skip
        wanted = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        change(["zfs", "clone", *wanted, snapshot.name, snapshot.clone], f"{snapshot.name} could not be cloned")
        if (
            ask(["zfs", "list", "-H", "-o", "mounted", snapshot.clone], "The clone could not be looked at")[1].strip()
            != "yes"
        ):
            change(["zfs", "mount", snapshot.clone], f"The clone of {snapshot.name} could not be mounted")
        snapshot.mounted = place
        step("mounted")
        return place


def is_zfs(mount: MountPoint) -> bool:
    """Whether a mount is of a ZFS dataset."""
    return mount.filesystem in FILESYSTEMS


def require_tools() -> None:
    """Raise SnapshotError if the command `zfs` is missing."""
    if shutil.which("zfs") is None:
        raise SnapshotError(
            "The provider “zfs” needs the command `zfs`, which is not installed.",
            untouched="No container was paused.",
            next_step="Install zfsutils-linux, or set `snapshot: provider: precopy` in the policy.",
        )


def takes_several() -> bool:
    """Whether `zfs snapshot` takes several names: OpenZFS does, and tells its version; zfs-fuse does neither."""
    return ask(["zfs", "version"], "The version of ZFS could not be read")[0] == 0


def runs_of_ours() -> dict[str, str]:
    """Every snapshot and clone that this program made: name → run id; by name and by property."""
    code, said = ask(
        ["zfs", "list", "-H", "-o", f"name,{_PROPERTY}", "-t", "filesystem,snapshot"],
        "The datasets could not be listed",
    )
    if code:
        raise SnapshotError(f"The datasets could not be listed: {' '.join(said.split())}.")
    return parse_list(said)


def parse_list(text: str) -> dict[str, str]:
    """What of a listing of names and our property is ours: name → run id. Inherited properties do not count."""
    found = {}
    for line in text.splitlines():
        name, _, run = line.partition("\t")
        match = _OURS.fullmatch(name)
        if match is not None and run in (match["snapshot"], match["clone"]):
            found[name] = run
    return found


def destroy(name: str) -> bool:
    """Destroy exactly this snapshot or clone of ours; whether it was there. Raise SnapshotError if it stays."""
    if name not in runs_of_ours():
        if ask(["zfs", "list", "-H", "-o", "name", name], f"{name} could not be looked at")[0] == 0:
            raise SnapshotError(f"{name} was not made by this program (it lacks the property), and is left alone.")
        return False
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            change(["zfs", "destroy", name], f"{name} could not be destroyed")
            return True
        except SnapshotError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)  # a clone is busy for a moment after it was unmounted


def our_snapshots() -> tuple[Path, ...]:
    """Every snapshot and clone of ours, of whatever run."""
    if shutil.which("zfs") is None or not any(is_zfs(mount) for mount in read_mounts()):
        return ()
    return tuple(Path(name) for name in sorted(runs_of_ours()))


def remove_leftover(leftover: Leftover, run_id: str) -> bool:
    """Undo one thing that a dead run noted; whether there was anything to undo. Raise SnapshotError."""
    wait_for_changes()
    if leftover.kind == "mounts" and leftover.where.name.startswith(run_id):
        return remove_mounts(leftover.where)
    if leftover.kind in ("clone", "snapshot") and _names_run(str(leftover.where), run_id):
        require_tools()
        return destroy(str(leftover.where))
    raise SnapshotError(f"{leftover.where} is not named after run {run_id}, and is left alone.")


def remove_stray(path: Path) -> None:
    """Destroy a snapshot or clone that no journal notes, if all of it is as a run makes it. Raise SnapshotError."""
    run = runs_of_ours().get(str(path), "")
    if not _RUN.fullmatch(run):
        raise SnapshotError(f"{path} is not as a run of this program makes its snapshots, and is left alone.")
    destroy(str(path))


def _names_run(name: str, run_id: str) -> bool:
    match = _OURS.fullmatch(name)
    return match is not None and run_id in (match["snapshot"], match["clone"])
