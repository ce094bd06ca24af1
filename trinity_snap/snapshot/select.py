"""Which provider makes the views of which source, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from trinity_snap.errors import SnapshotError
from trinity_snap.snapshot import btrfs, precopy
from trinity_snap.snapshot.mounts import MountPoint, find_mount, read_mounts

if TYPE_CHECKING:
    from trinity_snap.agents.model import Source
    from trinity_snap.snapshot.protocol import Provider

AUTO = "auto"


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
        """Where copies made during the pause go; None: into the state directory."""


class SnapshotSection(Protocol):
    """`snapshot` of a policy."""

    @property
    def provider(self) -> str:
        """`auto`, or the name of the one provider to use."""

    @property
    def precopy(self) -> PrecopySection:
        """The settings of the provider `precopy`."""


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


def explain(source: Source, provider: str = AUTO, mounts: Sequence[MountPoint] | None = None) -> Choice:
    """Choose the provider for one source. Raise SnapshotError if the one that the policy forces cannot work there."""
    mount = find_mount(source.path, mounts)
    here = f"{source.path} is on {mount.filesystem} (mounted at {mount.path})"
    if provider == btrfs.NAME:
        if mount.filesystem != btrfs.NAME:
            raise SnapshotError(
                f"The policy wants the provider “btrfs” for “{source.name}”, but {here}, not on btrfs.",
                untouched="No container was paused.",
                next_step="Set `snapshot: provider: auto`, or move Docker's data root to btrfs.",
            )
        btrfs.require_btrfs_progs()
        return Choice(btrfs.NAME, f"{here}; the policy asks for it")
    if provider == precopy.NAME:
        better = "`provider: auto` would use btrfs snapshots here" if mount.filesystem == btrfs.NAME else ""
        return Choice(precopy.NAME, f"{here}; the policy asks for it", better)
    if provider != AUTO:
        raise SnapshotError(
            f"There is no snapshot provider “{provider}”.",
            untouched="No container was paused.",
            next_step="The providers are auto, btrfs and precopy.",
        )
    if mount.filesystem != btrfs.NAME:
        better = "Docker's data root on btrfs: the pause would not depend on how much is being written"
        return Choice(precopy.NAME, f"{here}, which has no snapshots that this version uses", better)
    try:
        btrfs.require_btrfs_progs()
    except SnapshotError:
        return Choice(precopy.NAME, f"{here}, but the command `btrfs` is missing", "install btrfs-progs")
    return Choice(btrfs.NAME, here)


def select_providers(sources: Sequence[Source], policy: SnapshotPolicy, state_dir: Path) -> list[Provider]:
    """Give every source to a provider; each provider gets all of its sources at once.

    Raise SnapshotError for a source that does not exist or for which the forced provider cannot work.
    """
    mounts = read_mounts()
    chosen: dict[str, list[Source]] = {}
    for source in sources:
        chosen.setdefault(explain(source, policy.snapshot.provider, mounts).provider, []).append(source)
    providers: list[Provider] = []
    if btrfs.NAME in chosen:
        providers.append(btrfs.BtrfsProvider(chosen[btrfs.NAME]))
    if precopy.NAME in chosen:
        section = policy.snapshot.precopy
        staging = Path(section.staging) if section.staging else Path(state_dir) / "staging"
        settings = precopy.Settings(staging=staging, max_passes=section.max_passes, settle_bytes=section.settle_bytes)
        providers.append(precopy.PrecopyProvider(chosen[precopy.NAME], settings))
    return providers
