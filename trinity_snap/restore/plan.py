"""What a restore would do, worked out before anything is touched."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trinity_snap.repository.points import RecoveryPoint, Volume
from trinity_snap.restore.containers import action_for
from trinity_snap.restore.directories import shown
from trinity_snap.restore.journal import HeldState
from trinity_snap.restore.volumes import VolumeTarget

__all__ = ["How", "Mode", "RestorePlan", "Space", "VolumePlan", "human"]

Mode = Literal["swap", "in_place", "paths", "directory"]
How = Literal["swap", "contents", "in_place", "paths", "directory"]

_HOW = {
    "swap": "restored beside it, checked, and exchanged for it",
    "contents": "restored inside it, checked, and exchanged entry by entry, as it is a mount point",
    "in_place": "only what differs is written",
    "paths": "only the chosen paths are replaced",
    "directory": "restored into a directory",
}


@dataclass(frozen=True)
class VolumePlan:
    """What happens to one volume or path.

    `live` is where its data is or will be, None for a volume that Docker has yet to make. Counts are of paths (mode `paths`),
    of entries (in place), or of the volume itself (1 or 0).
    """

    volume: Volume
    name: str
    how: How
    live: Path | None
    exists: bool
    target: VolumeTarget | None
    paths: tuple[bytes, ...] = ()
    files: int = 0
    bytes: int = 0
    created: int = 0
    replaced: int = 0
    removed: int = 0
    kept: int = 0

    @property
    def kind(self) -> str:
        """`volume` or `path`."""
        return self.volume.kind

    def to_json(self) -> dict[str, Any]:
        """As `--json` shows it."""
        return {
            "volume": self.volume.name,
            "kind": self.volume.kind,
            "destination": self.name,
            "how": self.how,
            "path": None if self.live is None else str(self.live),
            "exists": self.exists,
            "paths": [shown(path) for path in self.paths],
            "files": self.files,
            "bytes": self.bytes,
            "created": self.created,
            "replaced": self.replaced,
            "removed": self.removed,
            "kept": self.kept,
        }

    def line(self) -> str:
        """As the plan shows it to an operator."""
        what = self.name if self.volume.kind == "path" else f"volume {self.name}"
        if self.how == "directory":
            what = f"{what} → {self.live}"
        amount = f"{self.files} files, {human(self.bytes)}"
        if self.how == "in_place":
            amount += (
                f"; {self.created} to create, {self.replaced} to replace, {self.removed} to remove, {self.kept} to keep"
            )
        elif self.how == "paths":
            amount += f"; {self.created} to create, {self.replaced} to replace"
        state = "" if self.exists or self.how == "directory" else " (missing here: it is made)"
        return f"{what}{state}: {amount}; {_HOW[self.how]}"


@dataclass(frozen=True)
class Space:
    """What one filesystem must have free, and has; in bytes and in inodes (0 free of 0: it has no limit)."""

    where: Path
    needed_bytes: int
    free_bytes: int
    needed_inodes: int
    free_inodes: int
    counts_inodes: bool

    @property
    def enough(self) -> bool:
        """Whether it has room."""
        return self.needed_bytes <= self.free_bytes and (
            not self.counts_inodes or self.needed_inodes <= self.free_inodes
        )

    def to_json(self) -> dict[str, Any]:
        """As `--json` shows it."""
        return {
            "where": str(self.where),
            "needed_bytes": self.needed_bytes,
            "free_bytes": self.free_bytes,
            "needed_inodes": self.needed_inodes,
            "free_inodes": self.free_inodes if self.counts_inodes else None,
            "enough": self.enough,
        }


@dataclass(frozen=True)
class RestorePlan:
    """A whole restore: what, from which point, to where, and what is stopped for it."""

    id: str
    agent: str
    point: RecoveryPoint
    mode: Mode
    state_dir: Path
    volumes: tuple[VolumePlan, ...]
    containers: tuple[HeldState, ...] = ()
    create_container: str = ""
    to: Path | None = None
    as_name: str | None = None
    space: tuple[Space, ...] = ()
    warnings: tuple[str, ...] = ()
    options: Mapping[str, bool] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """The recovery point's id."""
        return self.point.id

    @property
    def discards(self) -> bool:
        """Whether the previous data is removed at once: a restore keeps it."""
        return False

    @property
    def enough_space(self) -> bool:
        """Whether every filesystem has room."""
        return all(space.enough for space in self.space)

    def to_json(self) -> dict[str, Any]:
        """As `--json` shows it."""
        return {
            "restore_id": self.id,
            "agent": self.agent,
            "point": self.point.id,
            "created": self.point.created.isoformat(),
            "host": self.point.host,
            "consistency": self.point.consistency,
            "mode": self.mode,
            "to": None if self.to is None else str(self.to),
            "as": self.as_name,
            "volumes": [volume.to_json() for volume in self.volumes],
            "containers": [
                {"name": held.name, "state": held.state, "action": action_for(held)} for held in self.containers
            ],
            "create_container": self.create_container or None,
            "files": sum(volume.files for volume in self.volumes),
            "bytes": sum(volume.bytes for volume in self.volumes),
            "space": [space.to_json() for space in self.space],
            "enough_space": self.enough_space,
            "warnings": list(self.warnings),
        }

    def lines(self) -> list[str]:
        """The plan for an operator, line by line."""
        point = self.point
        head = f"Restore {self.agent} from recovery point {point.id[:8]} of {point.created:%Y-%m-%d %H:%M:%S} UTC"
        if self.as_name:
            head += f" as {self.as_name}"
        lines = [f"{head} ({point.consistency}, host {point.host})"]
        lines += [f"  {volume.line()}" for volume in self.volumes]
        for held in self.containers:
            action = action_for(held)
            if action:
                lines.append(f"  container {held.name} ({held.state}): {action}")
        if self.create_container:
            lines.append(f"  container {self.create_container} (missing here): made as it was, not started")
        if self.mode != "directory" and any(volume.exists for volume in self.volumes):
            lines.append("  what is there now is kept until `trinity-snap restore --release`")
        for space in self.space:
            word = "enough" if space.enough else "NOT ENOUGH"
            lines.append(
                f"  room at {space.where}: {human(space.needed_bytes)} needed, {human(space.free_bytes)} free: {word}"
            )
        lines += [f"  warning: {warning}" for warning in self.warnings]
        return lines


def human(amount: int) -> str:
    """An amount of bytes for people."""
    value = float(amount)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def existing_parent(path: Path) -> Path:
    """The nearest directory at or above `path` that exists."""
    step = Path(os.path.abspath(path))
    while not step.is_dir():
        step = step.parent
    return step


def measure_space(needs: Sequence[tuple[Path, int, int]]) -> tuple[Space, ...]:
    """Sum up (place, bytes, inodes) for each filesystem, and see what it has free for this user."""
    sums: dict[int, tuple[Path, int, int]] = {}
    for place, amount, inodes in needs:
        where = existing_parent(place)
        device = os.stat(where).st_dev
        first, bytes_before, inodes_before = sums.get(device, (where, 0, 0))
        sums[device] = (first, bytes_before + amount, inodes_before + inodes)
    result = []
    for where, amount, inodes in sums.values():
        status = os.statvfs(where)
        result.append(
            Space(where, amount, status.f_bavail * status.f_frsize, inodes, status.f_favail, status.f_files > 0)
        )
    return tuple(result)
