"""What LVM has on this host, and the few commands that change it.

A snapshot of ours is known by its name, `trinity-snap-<run id>-<number>`, and by its tag, `trinity-snap`. Nothing that
lacks either is ever changed. All answers come as JSON (`lvmreport(7)`) or in the kernel's own documented form (`dmsetup
status`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trinity_snap.errors import SnapshotError
from trinity_snap.snapshot.commands import ask, change

TAG = "trinity-snap"
PREFIX = "trinity-snap-"
_TOOLS = ("lvs", "lvcreate", "lvchange", "lvremove", "lvrename", "dmsetup")
_FIELDS = (
    "vg_name", "lv_name", "lv_uuid", "lv_size", "lv_layout", "lv_role", "lv_tags", "pool_lv", "lv_dm_path", "lv_kernel_major",
    "lv_kernel_minor", "lv_suspended", "data_percent", "lv_metadata_size", "metadata_percent", "vg_free", "vg_extent_size",
)  # fmt: skip
# What LVM can make a thick snapshot of.
_THICK = frozenset({"linear", "striped", "raid1", "raid4", "raid5", "raid6", "raid10"})


@dataclass(frozen=True)
class LogicalVolume:
    """One logical volume as `lvs` reports it. `percent` and `metadata_percent` are None where they mean nothing."""

    group: str
    name: str
    uuid: str
    bytes: int
    layout: frozenset[str]
    role: frozenset[str]
    tags: frozenset[str]
    pool: str
    device: str
    number: tuple[int, int]
    suspended: bool
    percent: float | None
    metadata_bytes: int
    metadata_percent: float | None
    group_free: int
    extent: int

    @property
    def full_name(self) -> str:
        """The name as LVM's commands take it."""
        return f"{self.group}/{self.name}"

    @property
    def path(self) -> Path:
        """Where its device is when it is active; in journals this stands for the volume."""
        return Path("/dev") / self.group / self.name

    @property
    def is_thin(self) -> bool:
        """Whether it is a volume (not the pool itself) in a thin pool."""
        return "thin" in self.layout and "pool" not in self.layout

    @property
    def is_thick(self) -> bool:
        """Whether LVM makes thick snapshots of it."""
        return bool(self.layout & _THICK) and not self.role & {"private", "thicksnapshot"}

    @property
    def is_ours(self) -> bool:
        """Whether this program made it: by name and by tag."""
        return self.name.startswith(PREFIX) and TAG in self.tags


def lvm_is_in_use() -> bool:
    """Whether any logical volume is active on this host; the kernel knows, without any tool."""
    return any(_dm_uuid(entry).startswith("LVM-") for entry in Path("/sys/block").glob("dm-*"))


def is_logical_volume(device: int) -> bool:
    """Whether a filesystem's device number (`st_dev`) is a logical volume's."""
    return _dm_uuid(Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")).startswith("LVM-")


def missing_tools() -> list[str]:
    """Those of LVM's commands that are not installed."""
    return [tool for tool in _TOOLS if shutil.which(tool) is None]


def require_tools() -> None:
    """Raise SnapshotError if a command is missing."""
    if missing := missing_tools():
        raise SnapshotError(
            f"Snapshots by LVM need the command `{missing[0]}`, which is not installed.",
            untouched="No container was paused.",
            next_step="Install the package lvm2, or set `snapshot: provider: precopy` in the policy.",
        )


def read_volumes(*names: str) -> tuple[LogicalVolume, ...]:
    """All logical volumes, or those of the given names (`group/volume`; fewer if some are not there). Raise SnapshotError."""
    failure = "The logical volumes could not be listed"
    _, said = ask(
        ["lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "--binary", "-o", ",".join(_FIELDS), *names],
        failure,
    )
    # A volume that is not there, or a group with a missing disk, makes an exit code, not an empty answer.
    return parse_volumes(said, failure)


def parse_volumes(text: str, failure: str = "The report of `lvs` makes no sense") -> tuple[LogicalVolume, ...]:
    """The volumes in a JSON report with our fields. Raise SnapshotError if it is none."""
    try:
        rows = [row for report in json.loads(text)["report"] for row in report.get("lv", [])]
        return tuple(_volume(row) for row in rows)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said = " ".join(text.split())[:300] or "it said nothing"
        raise SnapshotError(f"{failure}: {said}.", next_step="See what `lvs` says on this host.") from error


def volume_of(device: int, volumes: Sequence[LogicalVolume]) -> LogicalVolume | None:
    """The volume with a filesystem's device number (`st_dev`)."""
    number = os.major(device), os.minor(device)
    return next((volume for volume in volumes if volume.number == number), None)


def create_snapshot(origin: LogicalVolume, name: str, thick_bytes: int | None) -> None:
    """Snapshot `origin` as `name` in its group, with that room if it is thick. Raise SnapshotError.

    LVM freezes the filesystem for that by itself. A thin snapshot is left inactive, and is skipped when a machine
    activates its volumes, so that one that was left behind is not even looked at after a reboot.
    """
    how = ["--setactivationskip", "y"] if thick_bytes is None else ["--size", f"{thick_bytes}b"]
    change(
        ["lvcreate", "--yes", "--quiet", "--snapshot", *how, "--name", name, "--addtag", TAG, origin.full_name],
        f"The snapshot of {origin.full_name} could not be made",
    )


def activate(full_name: str) -> None:
    """Activate a thin snapshot, although it is marked to be skipped. Raise SnapshotError."""
    change(
        ["lvchange", "--yes", "--quiet", "--activate", "y", "--ignoreactivationskip", full_name],
        f"The snapshot {full_name} could not be activated",
    )


def deactivate(full_name: str) -> None:
    """Take a snapshot's device away; it stays. Raise SnapshotError."""
    change(
        ["lvchange", "--yes", "--quiet", "--activate", "n", full_name],
        f"The snapshot {full_name} could not be deactivated",
    )


def rename(group: str, name: str, new_name: str) -> None:
    """Rename an inactive snapshot. Raise SnapshotError."""
    change(["lvrename", "--yes", "--quiet", group, name, new_name], f"The snapshot {group}/{name} could not be renamed")


def remove_snapshot(path: Path) -> bool:
    """Remove the snapshot that `path` (`/dev/group/name`) stands for; whether it was there.

    Raise SnapshotError if it stays, and if it is not one that this program made.
    """
    found = read_volumes(f"{path.parent.name}/{path.name}")
    if not found:
        return False
    (volume,) = found
    if not volume.is_ours:
        raise SnapshotError(f"{volume.full_name} was not made by this program (it lacks the tag), and is left alone.")
    change(
        ["lvremove", "--yes", "--quiet", "--select", f"lv_uuid={volume.uuid}", volume.group],
        f"The snapshot {volume.full_name} could not be removed",
        "If it is in use, `dmsetup info` and `fuser` show by whom; `trinity-snap recover` tries again.",
    )
    if read_volumes(volume.full_name):
        raise SnapshotError(f"The snapshot {volume.full_name} is still there after `lvremove`.")
    return True


def our_snapshots() -> tuple[Path, ...]:
    """Every snapshot that this program made, of whatever run, by name and tag."""
    if not lvm_is_in_use() or missing_tools():
        return ()
    return tuple(sorted(volume.path for volume in read_volumes() if volume.is_ours))


def wake(path: Path) -> bool:
    """Resume a volume that a killed `lvcreate` left suspended; whether it was. Raise SnapshotError if it cannot be done.

    LVM's commands hold the group's lock while a volume is suspended, and `lvs` waits for it: what `lvs` reports as suspended has
    been abandoned.
    """
    found = read_volumes(f"{path.parent.name}/{path.name}")
    if not found or not found[0].suspended:
        return False
    change(["lvchange", "--refresh", found[0].full_name], f"{found[0].full_name} is suspended and could not be resumed")
    return True


@dataclass(frozen=True)
class SnapshotState:
    """How a snapshot is: `broken` (nothing that is read from it counts), and the bytes that it uses if that is known."""

    broken: bool
    used_bytes: int = 0


def snapshot_state(device: str) -> SnapshotState:
    """Ask the kernel about the device of a snapshot (admin-guide/device-mapper/snapshot.rst, thin-provisioning.rst)."""
    code, said = ask(["dmsetup", "status", device], f"The state of {device} could not be read")
    return SnapshotState(True) if code else parse_state(said)


def parse_state(line: str) -> SnapshotState:
    """What one line of `dmsetup status` says of a snapshot, thick or thin."""
    match line.split():
        case [_, _, "snapshot", usage, *_] if "/" in usage:
            return SnapshotState(False, int(usage.partition("/")[0]) * 512)
        case [_, _, "thin", mapped, *_] if mapped.isdigit():
            return SnapshotState(False, int(mapped) * 512)
        case _:
            return SnapshotState(True)  # Invalid, Overflow, Merge failed, Fail


def written_bytes(number: tuple[int, int]) -> int:
    """How much has been written to a device since it was activated; 0 if the kernel does not say."""
    try:
        return int(Path(f"/sys/dev/block/{number[0]}:{number[1]}/stat").read_text().split()[6]) * 512
    except (OSError, ValueError, IndexError):
        return 0


def _volume(row: dict[str, Any]) -> LogicalVolume:  # JSON as it came
    return LogicalVolume(
        group=row["vg_name"],
        name=row["lv_name"],
        uuid=row["lv_uuid"],
        bytes=int(row["lv_size"]),
        layout=frozenset(row["lv_layout"].split(",")),
        role=frozenset(row["lv_role"].split(",")),
        tags=frozenset(filter(None, row["lv_tags"].split(","))),
        pool=row["pool_lv"],
        device=row["lv_dm_path"],
        number=(int(row["lv_kernel_major"]), int(row["lv_kernel_minor"])),
        suspended=row["lv_suspended"] == "1",
        percent=float(row["data_percent"]) if row["data_percent"] else None,
        metadata_bytes=int(row["lv_metadata_size"] or 0),
        metadata_percent=float(row["metadata_percent"]) if row["metadata_percent"] else None,
        group_free=int(row["vg_free"]),
        extent=int(row["vg_extent_size"]),
    )


def _dm_uuid(block: Path) -> str:
    try:
        return (block / "dm" / "uuid").read_text().strip()
    except OSError:
        return ""
