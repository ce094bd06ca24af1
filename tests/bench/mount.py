"""Measure how quickly a mounted recovery point is walked and read.

    python -m tests.bench.mount [--files 100000] [--megabytes 1024] [--rounds 3] [--directory DIR]

`find` over 100,000 files is to take less than 10 s, and a file of 1 GB is to be read with at least 100 MB/s. Nothing of the point
is in a cache when each round begins: it is mounted anew, and read to the end once. Needs root, FUSE and the extra `mount`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TARGET_FIND_SECONDS = 10.0
TARGET_READ = 100e6
_PIECE = 1 << 20
_IN_ONE = 500


class Place:
    """A repository with one point of the data, below a directory."""

    def __init__(self, home: Path) -> None:
        self.home, self.data, self.policy = home, home / "data", home / "policy.yml"
        self.data.mkdir()
        settings = {
            "target": str(home / "target"), "state": {"directory": str(home / "state")},
            "agents": {"discover": {"trinity": False}}, "platform": {"paths": [str(self.data)]},
        }  # fmt: skip
        self.policy.write_text(json.dumps(settings))
        self.policy.chmod(0o600)

    def fill(self, files: int, megabytes: int) -> None:
        """Small files, 500 in a directory, and a large one that does not compress."""
        for number in range(files):
            directory = self.data / f"{number // _IN_ONE:05d}"
            if number % _IN_ONE == 0:
                directory.mkdir()
            (directory / f"file-{number:07d}").write_bytes(number.to_bytes(8, "big") * 16)
        with (self.data / "large").open("wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(_PIECE))

    def run(self, *arguments: str) -> None:
        """Run a command, which has to end well."""
        subprocess.run(self._command(*arguments), check=True, stdout=subprocess.DEVNULL, env=self._environment)

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """The point at a directory."""
        place = self.home / "mounted"
        place.mkdir(exist_ok=True)
        process = subprocess.Popen(
            self._command("mount", "platform", str(place)), stdout=subprocess.DEVNULL, env=self._environment
        )
        try:
            until = time.monotonic() + 60
            while not os.path.ismount(place):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError("it was not mounted")
                time.sleep(0.02)
            yield place
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "trinity_snap", *arguments, "--quiet", "--policy", str(self.policy)]

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_HOST": "unix:///nonexistent"}


def find(place: Path) -> tuple[float, int]:
    """The seconds that `find` takes, and how many files it finds."""
    began = time.monotonic()
    done = subprocess.run(["find", place, "-type", "f", "-name", "file-*"], check=True, capture_output=True)
    return time.monotonic() - began, done.stdout.count(b"\n")


def read(place: Path) -> float:
    """The bytes in a second with which the large file is read."""
    (large,) = place.rglob("large")
    amount, began = 0, time.monotonic()
    with large.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            amount += len(piece)
    return amount / (time.monotonic() - began)


def main() -> int:
    """Measure. Return 1 if a target is missed."""
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m tests.bench.mount", description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        place = Place(Path(directory))
        place.fill(options.files, options.megabytes)
        place.run("init")
        place.run("backup")
        walks, reads = [], []
        for _ in range(options.rounds):
            with place.mounted() as top:
                seconds, found = find(top)
                assert found == options.files, found
                walks.append(seconds)
                reads.append(read(top))
    walked, bytes_per_second = statistics.median(walks), statistics.median(reads)
    sys.stdout.write(f"find over {options.files} files: {walked:.1f} s ({', '.join(f'{one:.1f}' for one in walks)})\n")
    shown = ", ".join(f"{one / 1e6:.0f}" for one in reads)
    sys.stdout.write(f"read {options.megabytes} MiB: {bytes_per_second / 1e6:.0f} MB/s ({shown})\n")
    return int(walked > TARGET_FIND_SECONDS or bytes_per_second < TARGET_READ)


if __name__ == "__main__":
    sys.exit(main())
