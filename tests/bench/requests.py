"""Count the requests that trinity-snap and restic need for the same data on the same S3 server.

    python -m tests.bench.requests [--megabytes 1024] [--latency 0.03]

The server is rclone's, on this machine, behind the counting proxy of the tests; the data is 2000 small files and four
large ones that do not compress. Times are shown, and say little: the proxy shares the processor with all else.
The exit code is 1 if trinity-snap needs more requests for a backup or a restore than restic does, by more than a few: the
number of packs is not quite the same each time.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.engine.test_backup_s3 import Bucket
from tests.faults.proxy import Proxy, proxy_before
from tests.faults.stores import ACCESS, SECRET, rclone_server, settings_for, write_credentials
from trinity_snap.repository.keys import generate_identity
from trinity_snap.targets.s3 import S3Target

_A_FEW = 4


def make_data(root: Path, megabytes: int) -> None:
    """Files that neither compress nor repeat; the same ones each time."""
    source = random.Random(3)
    root.mkdir()
    for number in range(2000):
        (root / f"small-{number}").write_bytes(source.randbytes(source.randrange(20_000)))
    for number in range(4):
        with (root / f"large-{number}").open("wb") as file:
            for _ in range(megabytes // 4):
                file.write(source.randbytes(1 << 20))


def count(proxy: Proxy, what: str, operation: Callable[[], object]) -> int:
    """The number of requests of an operation, and a line about it."""
    proxy.forget()
    start = time.monotonic()
    operation()
    took = time.monotonic() - start
    kinds = Counter(f"{request.method}{' (list)' if request.is_list else ''}" for request in proxy.requests)
    shown = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
    at_once = max(proxy.most_at_once.values())
    sys.stdout.write(f"{what:24} {len(proxy.requests):5} requests: {shown}; {at_once} at once; {took:.0f} s\n")
    sys.stdout.flush()
    return len(proxy.requests)


def main() -> int:
    """Count, and say who needed less."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.requests")
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--latency", type=float, default=0.0)
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="trinity-snap-requests-"))
    try:
        for directory in ("bucket", "home"):
            (work / directory).mkdir()
        home, tree = work / "home", work / "tree"
        make_data(tree, arguments.megabytes)
        credentials = write_credentials(home)
        with rclone_server(work) as endpoint, proxy_before(endpoint) as proxy:
            proxy.latency = arguments.latency
            identities = generate_identity("operator"), generate_identity("recovery")
            bucket = Bucket(proxy, S3Target(settings_for(proxy.address, credentials)), home, identities)
            bucket.make()
            points: list[str] = []
            ours = [
                count(proxy, "trinity-snap backup", lambda: points.append(bucket.backup(tree).id)),
                count(proxy, "trinity-snap restore", lambda: bucket.restore(points[0], "restored")),
            ]
            shutil.rmtree(home / "restored")
            environment = {
                **os.environ,
                "AWS_ACCESS_KEY_ID": ACCESS,
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "RESTIC_CACHE_DIR": str(home / "restic"),
                "RESTIC_PASSWORD": "of a benchmark",
                "RESTIC_REPOSITORY": f"s3:{proxy.address}/bucket/restic",
            }

            def restic(*words: str) -> None:
                subprocess.run(["restic", "--quiet", *words], env=environment, check=True)

            restic("init", "--repository-version", "2")
            theirs = [count(proxy, "restic backup", lambda: restic("backup", str(tree)))]
            shutil.rmtree(home / "restic")  # trinity-snap has no cache either when it restores
            restored = ("restore", "latest", "--target", str(home / "restored"))
            theirs.append(count(proxy, "restic restore", lambda: restic(*restored)))
    finally:
        shutil.rmtree(work)
    return int(any(our > their + _A_FEW for our, their in zip(ours, theirs, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
