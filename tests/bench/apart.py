"""Measuring the memory of one piece of work in a process of its own, which has nothing of what building its data left."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

Measured = dict[str, float]


def peak_bytes() -> int:
    """The peak of this program's memory; what `getrusage` says may be that of who started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def measure_apart(module: str, directory: Path) -> Measured:
    """What `main` of a module measures in a directory that was built."""
    command = [sys.executable, "-m", module, "--measure", str(directory)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2])
    found: Measured = json.loads(done.stdout)
    return found


def main(
    module: str,
    about: str,
    build: Callable[[Path, int, int], object],
    measure: Callable[[Path], Measured],
    *,
    points: int,
    limit_bytes: int,
) -> int:
    """Build with so many chunks and points, measure apart, and tell. Return 1 if the peak is above the limit."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about.partition("\n")[0])
    parser.add_argument("--chunks", type=int, default=10_000_000)
    parser.add_argument("--points", type=int, default=points)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        sys.stdout.write(json.dumps(measure(options.measure)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        build(Path(name), options.chunks, options.points)
        found = measure_apart(module, Path(name))
    sys.stdout.write("".join(f"{key}: {value:,}\n" for key, value in found.items()))
    if options.json is not None:
        options.json.write_text(json.dumps(found))
    return int(found["peak_bytes"] > limit_bytes)
