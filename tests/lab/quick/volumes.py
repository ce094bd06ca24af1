"""Real volume groups on the quick lab's disks."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.disks import unmount_all_below

_MKFS = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}


def run(*command: object) -> str:
    """Run a command, fail with what it said, and return its output."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@dataclass
class Group:
    """A volume group whose volumes are mounted below `place`."""

    name: str
    place: Path
    filesystems: dict[str, str] = field(default_factory=dict)

    def thick(self, name: str, filesystem: str = "ext4", size: str = "160M") -> Path:
        """A thick volume with a filesystem; its mount point."""
        run("lvcreate", "-y", "-q", "-Wy", "-L", size, "-n", name, self.name)
        return self._mount(name, filesystem)

    def pool(self, name: str = "pool", size: str = "400M") -> None:
        """A thin pool."""
        run("lvcreate", "-y", "-q", "-L", size, "--thinpool", name, self.name)

    def thin(self, name: str, filesystem: str = "ext4", size: str = "320M", pool: str = "pool") -> Path:
        """A thin volume with a filesystem; its mount point."""
        run("lvcreate", "-y", "-q", "-V", size, "-T", f"{self.name}/{pool}", "-n", name)
        return self._mount(name, filesystem)

    def volumes(self) -> list[str]:
        """The names of all volumes in it."""
        return sorted(run("lvs", "--noheadings", "-o", "lv_name", self.name).split())

    def _mount(self, name: str, filesystem: str) -> Path:
        device, place = f"/dev/{self.name}/{name}", self.place / name
        run(*_MKFS[filesystem], device)
        place.mkdir()
        run("mount", device, place)
        self.filesystems[name] = filesystem
        return place


@contextmanager
def volume_group(name: str, disk: str, place: Path) -> Iterator[Group]:
    """A volume group on one of the lab's disks; nothing of it is left in the end."""
    place.mkdir(parents=True)
    run("pvcreate", "-q", "-ff", "-y", disk)
    run("vgcreate", "-q", name, disk)
    try:
        yield Group(name, place)
    finally:
        unmount_all_below(place)
        run("vgremove", "-q", "-ff", "-y", name)
        run("pvremove", "-q", "-ff", "-y", disk)
