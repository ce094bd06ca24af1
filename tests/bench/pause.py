"""How long agents are held, with many files of which few change: `python -m tests.bench.pause --files 300000`.

Each agent is a container with one volume; it goes on rewriting some of its files. The first backup ships everything, the ones
after it are measured: with what the kernel reports (`events`), and with everything looked at in the pause (`walk`).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
from pathlib import Path

from tests.lab.daemon import Daemon, docker_daemon
from tests.lab.disks import filesystem
from tests.lab.images import PYTHON
from tests.lab.product import install, volume
from trinity_snap.snapshot.mounts import find_mount

_WRITER = """
import os, time
while True:
    for number in range({changing}):
        descriptor = os.open(f"/data/hot-{{number}}", os.O_RDWR | os.O_CREAT)
        os.pwrite(descriptor, os.urandom(4096), 0)
        os.close(descriptor)
        time.sleep(0.002)
"""


def main() -> None:
    """Measure, and print one line for each way."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=20_000, help="of all agents together")
    parser.add_argument("--changing", type=int, default=50, help="of each agent")
    parser.add_argument("--agents", type=int, default=1)
    parser.add_argument("--filesystem", default="ext4", choices=["ext4", "xfs", "btrfs"])
    parser.add_argument("--provider", default="precopy", choices=["precopy", "btrfs"])
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="pause-") as home,
        filesystem(options.filesystem, Path(home) / "disk", 8 << 30) as disk,
        docker_daemon(disk / "docker") as daemon,
    ):
        for number in range(options.agents):
            _start(daemon, f"agent-a{number}", options.files // options.agents, options.changing)
        product = install(Path(home) / "home", daemon, snapshot={"provider": options.provider})
        product.run("backup", code=None)
        ways = ["events", "walk"] if options.provider == "precopy" else [options.provider]
        for way in ways:
            if way == "walk":
                mount = find_mount(disk)
                known = {f"{mount.filesystem} {mount.device}": "it is measured"}
                document = {"kernel": os.uname().release, "walk": known}
                (product.home / "state" / "precopy.json").write_text(json.dumps(document))
            pauses = []
            for _ in range(options.runs):
                result = product.run("backup", code=None)
                pauses += [max(agent["pause_seconds"] for agent in result["agents"])]
            shown = " ".join(f"{seconds:.3f}" for seconds in pauses)
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
            outcomes = {agent["outcome"] for agent in result["agents"]}
            sys.stdout.write(
                f"{options.filesystem}, {options.agents} agents, {options.files} files, {options.changing} changing, {way}: "
                f"median {statistics.median(pauses):.3f} s ({shown}), peak {peak} MiB, {'/'.join(outcomes)}\n"
            )
            sys.stdout.flush()


def _start(daemon: Daemon, name: str, files: int, changing: int) -> None:
    created = daemon.create(name, ["true"], image=PYTHON, volumes=[f"{name}-workspace:/data"])
    place = volume(daemon, f"{name}-workspace")
    created.remove()
    for directory in range(files // 100 + 1):
        (place / f"d{directory}").mkdir()
        for number in range(min(100, files - directory * 100)):
            descriptor = os.open(place / f"d{directory}" / f"f{number}", os.O_WRONLY | os.O_CREAT, 0o644)
            os.write(descriptor, b"%d of %d\n" % (number, directory) * 40)
            os.close(descriptor)
    daemon.run(
        name,
        ["python3", "-c", _WRITER.format(changing=changing)],
        image=PYTHON,
        volumes=[f"{name}-workspace:/data"],
        labels={"trinity.platform": "agent", "trinity.agent-name": name.removeprefix("agent-")},
    )


if __name__ == "__main__":
    main()
