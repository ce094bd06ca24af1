"""Which provider makes the views of which source, and why."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from trinity_snap.errors import SnapshotError
from trinity_snap.snapshot import btrfs, logicalvolumes, lvm, precopy, zfs
from trinity_snap.snapshot.logicalvolumes import LogicalVolume
from trinity_snap.snapshot.mounts import MountPoint, find_mount, read_mounts, real_path

if TYPE_CHECKING:
    from trinity_snap.agents.model import Source
    from trinity_snap.snapshot.protocol import Provider

AUTO = "auto"
PROVIDERS = (btrfs.NAME, lvm.THIN, lvm.THICK, zfs.NAME, precopy.NAME)


class PrecopySection(Protocol):
    """`snapshot.precopy` of a policy."""

    @property
    def max_passes(self) -> int:
        """How many passes over the live tree there may be before the pause."""

    @property
    def settle_bytes(self) -> int:
        """Stop making passes when less than this has changed since the last."""

    @property
    def staging(self) -> Path | str | None:
        """Where copies made during the pause go; None: where it is best."""


class LvmSection(Protocol):
    """`snapshot.lvm` of a policy."""

    @property
    def pool_limit_percent(self) -> int:
        """How full a thin pool's data and metadata may be."""

    def thick_bytes(self, origin_bytes: int) -> int:
        """The room for a thick snapshot of a volume of that size."""


class SnapshotSection(Protocol):
    """`snapshot` of a policy."""

    @property
    def provider(self) -> str:
        """`auto`, or the name of the one provider to use."""

    @property
    def precopy(self) -> PrecopySection:
        """The settings of the provider `precopy`."""

    @property
    def lvm(self) -> LvmSection:
        """The settings of the providers `lvm` and `lvm-thin`."""


class SnapshotPolicy(Protocol):
    """What the choice wants to know of a policy."""

    @property
    def snapshot(self) -> SnapshotSection:
        """The section."""


@dataclass(frozen=True)
class Choice:
    """A provider for a source, why it is the one, and what would be better (empty if nothing would)."""

    provider: str
    why: str
    better: str = ""


@dataclass(frozen=True)
class Storage:
    """What this host has mounted, and its logical volumes; read once for the choices of many sources."""

    mounts: Sequence[MountPoint] = field(default_factory=read_mounts)

    @cached_property
    def volumes(self) -> tuple[LogicalVolume, ...]:
        """All logical volumes. Raise SnapshotError."""
        return logicalvolumes.read_volumes()


@dataclass(frozen=True)
class _Fit:
    """Whether a provider can work for a source: `why` it can or cannot, and what would make it (`remedy`)."""

    works: bool
    why: str
    remedy: str = ""


def explain(
    source: Source, provider: str = AUTO, storage: Storage | None = None, lvm_section: LvmSection | None = None
) -> Choice:
    """Choose the provider for one source. Raise SnapshotError if the one that the policy forces cannot work there."""
    storage = storage or Storage()
    mount = find_mount(source.path, storage.mounts)
    here = f"{source.path} is on {mount.filesystem} (mounted at {mount.path})"
    if provider == precopy.NAME:
        better = next(
            (name for name in PROVIDERS if name != precopy.NAME and _fit(name, source, mount, storage, None).works), ""
        )
        return Choice(
            precopy.NAME, f"{here}; the policy asks for it", better and f"`provider: auto` would use {better} here"
        )
    if provider == AUTO:
        return _choose(source, mount, storage, lvm_section, here)
    if provider not in PROVIDERS:
        raise SnapshotError(
            f"There is no snapshot provider “{provider}”.",
            untouched="No container was paused.",
            next_step=f"The providers are auto, {', '.join(PROVIDERS[:-1])} and {PROVIDERS[-1]}.",
        )
    fit = _fit(provider, source, mount, storage, lvm_section)
    if not fit.works:
        raise SnapshotError(
            f"The policy wants the provider “{provider}” for “{source.name}”, but {here}, {fit.why}.",
            untouched="No container was paused.",
            next_step=f"Set `snapshot: provider: auto`, or {fit.remedy}.",
        )
    return Choice(provider, f"{here}{fit.why and ', '}{fit.why}; the policy asks for it")


def select_providers(sources: Sequence[Source], policy: SnapshotPolicy, state_dir: Path) -> list[Provider]:
    """Give every source to a provider; each provider gets all of its sources at once.

    Raise SnapshotError for a source that does not exist or for which the forced provider cannot work.
    """
    storage = Storage()
    section = policy.snapshot
    chosen: dict[str, list[Source]] = {}
    for source in sources:
        chosen.setdefault(explain(source, section.provider, storage, section.lvm).provider, []).append(source)
    providers: list[Provider] = []
    if btrfs.NAME in chosen:
        providers.append(btrfs.BtrfsProvider(chosen[btrfs.NAME]))
    for name in (lvm.THIN, lvm.THICK):
        if name in chosen:
            room = lvm.Settings(section.lvm.thick_bytes, section.lvm.pool_limit_percent)
            providers.append(lvm.LvmProvider(chosen[name], room, state_dir, thin=name == lvm.THIN))
    if zfs.NAME in chosen:
        providers.append(zfs.ZfsProvider(chosen[zfs.NAME], state_dir))
    if precopy.NAME in chosen:
        wanted = section.precopy
        settings = precopy.Settings(
            staging=Path(wanted.staging) if wanted.staging else Path(state_dir) / "staging",
            max_passes=wanted.max_passes,
            settle_bytes=wanted.settle_bytes,
            is_chosen=bool(wanted.staging),
            distrust=Path(state_dir) / "precopy.json",
        )
        providers.append(precopy.PrecopyProvider(chosen[precopy.NAME], settings))
    return providers


def _choose(source: Source, mount: MountPoint, storage: Storage, lvm_section: LvmSection | None, here: str) -> Choice:
    """The first provider that works there; else precopy, with the reason of the one that came nearest."""
    nearest = _Fit(False, "which has no snapshots that this version uses")
    for name in PROVIDERS[:-1]:
        fit = _fit(name, source, mount, storage, lvm_section)
        if fit.works:
            better = (
                "a thin pool: its snapshots need no room set aside, and cannot overflow" if name == lvm.THICK else ""
            )
            return Choice(name, f"{here}{fit.why and ', '}{fit.why}", better)
        if fit.remedy and fit.why.startswith("but "):
            nearest = fit
    better = (
        nearest.remedy
        or "Docker's data root on btrfs or in a thin pool: the pause would not depend on what is being written"
    )
    return Choice(precopy.NAME, f"{here}, {nearest.why}", better)


def _fit(name: str, source: Source, mount: MountPoint, storage: Storage, lvm_section: LvmSection | None) -> _Fit:
    """Whether a provider works for a source. A reason that begins with “but” means that little is missing."""
    if name == btrfs.NAME:
        return _fit_btrfs(mount)
    if name == zfs.NAME:
        return _fit_zfs(mount)
    return _fit_lvm(name, source, mount, storage, lvm_section)


def _fit_btrfs(mount: MountPoint) -> _Fit:
    if mount.filesystem != btrfs.NAME:
        return _Fit(False, "not on btrfs", "move Docker's data root to btrfs")
    try:
        btrfs.require_btrfs_progs()
    except SnapshotError:
        return _Fit(False, "but the command `btrfs` is missing", "install btrfs-progs")
    return _Fit(True, "")


def _fit_zfs(mount: MountPoint) -> _Fit:
    if not zfs.is_zfs(mount):
        return _Fit(False, "not on ZFS", "move Docker's data root to ZFS")
    try:
        zfs.require_tools()
    except SnapshotError:
        return _Fit(False, "but the command `zfs` is missing", "install zfsutils-linux")
    return _Fit(True, f"in the dataset {mount.device}")


def _fit_lvm(name: str, source: Source, mount: MountPoint, storage: Storage, lvm_section: LvmSection | None) -> _Fit:
    device = os.lstat(real_path(source.path)).st_dev
    elsewhere = "move Docker's data root to such a volume"
    if not logicalvolumes.is_logical_volume(device):
        return _Fit(False, "not on a logical volume", elsewhere)
    if mount.filesystem not in lvm.FILESYSTEMS:
        return _Fit(False, f"and snapshots of {mount.filesystem} by LVM are not known to be whole", elsewhere)
    if missing := logicalvolumes.missing_tools():
        return _Fit(False, f"but the command `{missing[0]}` is missing, and it is on LVM", "install lvm2")
    try:
        volume = logicalvolumes.volume_of(device, storage.volumes)
    except SnapshotError as error:
        return _Fit(False, f"but LVM does not answer: {error.message.removesuffix('.')}", "see what `lvs` says")
    if volume is None:
        return _Fit(False, "but `lvs` does not know its logical volume", "see what `lvs` says")
    if name == lvm.THIN:
        if not volume.is_thin:
            return _Fit(False, f"on {volume.full_name}, which is not in a thin pool", elsewhere)
        return _Fit(True, f"on {volume.full_name} in the thin pool {volume.group}/{volume.pool}")
    if not volume.is_thick:
        return _Fit(False, f"on {volume.full_name}, of which LVM makes no thick snapshots", elsewhere)
    needed = lvm_section.thick_bytes(volume.bytes) if lvm_section else volume.extent
    if volume.group_free < needed:
        return _Fit(
            False,
            f"but its volume group {volume.group} has {volume.group_free >> 20} MiB free, and a snapshot of {volume.name} needs "
            f"{needed >> 20} MiB",
            f"add room to {volume.group} (`vgextend`), or lower `snapshot: lvm: size`",
        )
    return _Fit(True, f"on {volume.full_name}")
