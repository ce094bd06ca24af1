"""Measure how long the command line takes to start, by the clock on the wall.

    python -m tests.bench.startup [--rounds 21] [--json FILE]

`import trinity_snap.cli` and `trinity-snap --help` are to take at most 150 ms. `tests/unit/test_cli.py` holds the quickest of
some starts to that; here are the median and the least after one start that fills the page cache, beside those of a Python
that does nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

TARGET_SECONDS = 0.15
COMMANDS: dict[str, tuple[str, ...]] = {
    "python -c pass": ("-c", "pass"),
    "import trinity_snap.cli": ("-c", "import trinity_snap.cli"),
    "trinity-snap --help": ("-m", "trinity_snap", "--help"),
    "trinity-snap backup --help": ("-m", "trinity_snap", "backup", "--help"),
    "trinity-snap version": ("-m", "trinity_snap", "version"),
}
_HELD = ("import trinity_snap.cli", "trinity-snap --help")


def measure(arguments: tuple[str, ...], rounds: int) -> list[float]:
    """Seconds from starting the interpreter to its end, once for each round."""
    found = []
    for number in range(rounds + 1):
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if number:
            found.append(time.perf_counter() - began)
    return found


def main() -> int:
    """Measure. Return 1 if a median is above the target."""
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m tests.bench.startup", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    answer = {}
    for name, arguments in COMMANDS.items():
        seconds = measure(arguments, options.rounds)
        answer[name] = {"median_seconds": statistics.median(seconds), "least_seconds": min(seconds)}
        sys.stdout.write(
            f"{name:28}{1000 * statistics.median(seconds):7.0f} ms, at least {1000 * min(seconds):.0f} ms\n"
        )
    if options.json is not None:
        options.json.write_text(json.dumps(answer, indent=1) + "\n")
    late = [name for name in _HELD if answer[name]["median_seconds"] > TARGET_SECONDS]
    for name in late:
        sys.stdout.write(f"{name} took longer than {1000 * TARGET_SECONDS:.0f} ms.\n")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
