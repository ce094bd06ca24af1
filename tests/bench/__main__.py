"""Measure trinity-snap beside restic and borg.

    python -m tests.bench [--data A,B] [--rounds 3] [--scale 1.0] [--directory DIR] [--json FILE]

In each round every tool makes a new repository and does a full backup, then one with nothing changed; then 61
files of the tree are changed and every tool backs up again, then restores. The order of the tools turns from
round to round. Before each full backup the whole tree is read once, so that all find it in the page cache. Shown
are medians; the ratio is to the better peer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

from tests.bench import datasets, measure, report
from tests.bench.tools import TOOLS, Tool, stored_bytes

Samples = dict[str, dict[str, list[dict[str, float]]]]


def bench(
    data_set: datasets.DataSet, tools: list[Tool], work: Path, rounds: int, log: IO[bytes], restore: bool
) -> Samples:
    """Do the rounds on one data set, and return case -> tool -> samples."""
    tree = work / f"tree-{data_set.name}"
    _say(f"{data_set.title}: making the data")
    datasets.make(data_set, tree)
    samples: Samples = {case: {tool.name: [] for tool in tools} for case in _CASES}

    # ext4 passes over inodes that were freed a short while ago, which would make the next tool's new files slow.
    trash = work / f"discarded-{data_set.name}"
    trash.mkdir(exist_ok=True)

    def discard(path: Path) -> None:
        if path.exists():
            path.rename(trash / os.urandom(8).hex())

    def step(case: str, tool: Tool) -> dict[str, float]:
        if case == "restore":
            destination = tool.home / "restored"
            destination.mkdir()
            cost = measure.run(tool.restore(tree, destination), log)
            root = tool.restored_root(tree, destination)
            if datasets.measure_tree(root) != expected:
                raise RuntimeError(f"{tool.name} did not restore what was backed up")
            discard(destination)
        else:
            cost = measure.run(tool.backup(tree), log)
        sample: dict[str, float] = {
            "wall": cost.wall_seconds,
            "cpu": cost.cpu_seconds,
            "peak": cost.peak_bytes,
        }
        if case in ("full", "few changes"):
            sample["stored"] = stored_bytes(tool)
        samples[case][tool.name].append(sample)
        _say(f"  {case:17}{tool.name:14}{cost.wall_seconds:8.2f} s {cost.cpu_seconds:8.2f} s CPU")
        return sample

    for number in range(rounds):
        order = tools[number % len(tools) :] + tools[: number % len(tools)]
        _say(f"{data_set.title}: round {number + 1} of {rounds}")
        for tool in order:
            discard(tool.home)
            tool.home.mkdir(parents=True)
            measure.run(tool.init(), log)
            datasets.measure_tree(tree)  # a kernel may take unused page cache back between two tools
            before = stored_bytes(tool)
            step("full", tool)["stored"] -= before
            step("nothing changed", tool)
        datasets.change_few(tree, seed=number)
        for tool in order:
            before = stored_bytes(tool)
            step("few changes", tool)["stored"] -= before
        expected = datasets.measure_tree(tree)
        for tool in order:
            if restore:
                step("restore", tool)
            discard(tool.home)
        _hollow(trash)
    shutil.rmtree(trash, ignore_errors=True)
    # The next run of the benchmark starts from unchanged data.
    shutil.rmtree(tree)
    return samples


def _hollow(trash: Path) -> None:
    """Give back what the files below take, and keep their inodes."""
    for directory, _, names in os.walk(trash):
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                os.truncate(path, 0)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


_CASES = ("full", "nothing changed", "few changes", "restore")


def main() -> int:
    """Run the benchmark. Return 1 if a target was missed."""
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="A,B", help="which data sets, by letter (default A,B)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-restore", action="store_true", help="measure backups only")
    parser.add_argument("--scale", type=float, default=1.0, help="how many times the files")
    parser.add_argument("--tools", default=",".join(tool.name for tool in TOOLS))
    parser.add_argument("--directory", type=Path, help="where to work; needs some GB (default: a temporary one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples and medians there as well")
    options = parser.parse_args()
    work = options.directory or Path(tempfile.mkdtemp(prefix="trinity-snap-bench-"))
    work.mkdir(parents=True, exist_ok=True)
    wanted = options.tools.split(",")
    results: dict[str, object] = {}
    missed = False
    with open(work / "bench.log", "w+b") as log:
        versions = {}
        for kind in TOOLS:
            if kind.name in wanted and kind(work).available:
                done = subprocess.run(kind(work).version(), capture_output=True, text=True, check=False)
                versions[kind.name] = done.stdout.strip()
        for letter in options.data.split(","):
            data_set = datasets.DATA_SETS[letter].scaled(options.scale)
            tools = [kind(work / f"{kind.name}-{letter}") for kind in TOOLS if kind.name in versions]
            samples = bench(data_set, tools, work, options.rounds, log, not options.no_restore)
            summary = report.rows(samples)
            missed = missed or any(row.met is False for row in summary)
            title = f"{data_set.title}, {options.rounds} rounds"
            sys.stdout.write(report.table(title, summary, list(versions)) + "\n")
            sys.stdout.flush()
            results[letter] = {
                "title": data_set.title,
                "samples": samples,
                "medians": [
                    {
                        "case": row.case,
                        "measure": row.measure,
                        **row.medians,
                        "ratio": row.ratio,
                        "met": row.met,
                    }
                    for row in summary
                ],
            }
    if options.json:
        machine = {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
        document = {"machine": machine, "versions": versions, "rounds": options.rounds, "data": results}
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    if not options.directory:
        shutil.rmtree(work)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
