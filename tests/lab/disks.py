"""Real filesystems on loop devices."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MKFS = {
    "btrfs": ["mkfs.btrfs", "-q"],
    "ext4": ["mkfs.ext4", "-q"],
    "xfs": ["mkfs.xfs", "-q"],
}


@contextmanager
def filesystem(kind: str, directory: Path, size_bytes: int = 3 << 30, options: str = "") -> Iterator[Path]:
    """A new filesystem in an image file below `directory`, mounted; unmounted and deleted in the end."""
    directory.mkdir(parents=True, exist_ok=True)
    image, place = directory / f"{kind}.img", directory / kind
    with open(image, "wb") as file:
        file.truncate(size_bytes)
    subprocess.run([*_MKFS[kind], str(image)], check=True, capture_output=True)
    place.mkdir()
    wanted = ",".join(filter(None, ["loop", options]))
    subprocess.run(["mount", "-t", kind, "-o", wanted, str(image), str(place)], check=True)
    try:
        yield place
    finally:
        unmount_all_below(place)
        image.unlink()
        place.rmdir()


def unmount_all_below(place: Path) -> None:
    """Unmount everything at and below a directory, the innermost first."""
    real = os.path.realpath(place)
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for name in reversed(mounted):
        if name == real or name.startswith(real + "/"):
            done = subprocess.run(["umount", name], check=False, capture_output=True)
            if done.returncode:
                subprocess.run(["umount", "--lazy", name], check=False)
