"""Makes the golden repository of the current format version: once for each version, and never again."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from trinity_snap.backup.engine import backup_tree
from trinity_snap.repository.forget import forget
from trinity_snap.repository.identity import save_host_key, save_identity
from trinity_snap.repository.keys import generate_host_secret, generate_identity
from trinity_snap.repository.lease import LEASE
from trinity_snap.repository.prune import prune
from trinity_snap.repository.reader import PointReader
from trinity_snap.repository.repack import repack
from trinity_snap.repository.repack_plan import RepackWish
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.retention import RetentionRules
from trinity_snap.targets import open_target

HERE = Path(__file__).parent


def make_tree(root: Path) -> None:
    source = random.Random(1)
    (root / "data" / "empty directory").mkdir(parents=True)
    (root / "data" / "large").write_bytes(source.randbytes(700_000) + b"compressible " * 30_000)
    for number in range(40):
        (root / "data" / f"small-{number:02}").write_bytes(b"%d " % number * number)
    (root / os.fsdecode(b"not \xff UTF-8")).write_bytes(b"odd name")
    os.link(root / "data" / "small-07", root / "zz-linked")
    os.symlink("data/small-07", root / "symlink")
    os.mkfifo(root / "fifo")
    with (root / "sparse").open("wb") as file:
        file.truncate(1 << 30)
        file.seek(500_000_000)
        file.write(b"in the middle")
    os.setxattr(root / "data", b"user.note", b"\x00\xff")
    os.chmod(root / "data" / "small-01", 0o4711)
    for path in sorted([root, *root.rglob("*")], reverse=True):
        os.utime(path, ns=(0, 1_600_000_000_123_456_789), follow_symlinks=False)
    os.utime(root / "zz-linked", ns=(0, -5_000_000_001))


def listing(reader: PointReader) -> list[dict[str, Any]]:
    """What a point holds, in a form that JSON can hold."""
    found = []
    for volume in reader.point.volumes:
        for entry in reader.entries(volume):
            digest = hashlib.sha256()
            for _, data in reader.chunks(entry.chunk_ids()):
                digest.update(data)
            found.append(
                {
                    "volume": volume.name,
                    "path": entry.path.hex(),
                    "type": entry.type,
                    "mode": entry.mode,
                    "uid": entry.uid,
                    "gid": entry.gid,
                    "mtime_ns": entry.mtime_ns,
                    "size": entry.size,
                    "target": entry.target.hex(),
                    "device": list(entry.device),
                    "xattrs": {name.hex(): value.hex() for name, value in entry.xattrs.items()},
                    "extents": [list(extent) for extent in entry.extents],
                    "data_sha256": digest.hexdigest(),
                }
            )
    return found


def repacked(repository: Repository, directory: Path, first: str) -> list[str]:
    """Forget the first point, repack, and delete what was repacked. Return the ids of the points that there are then."""

    def pass_time() -> None:
        for path in directory.rglob("*"):
            if path.is_file():
                older = path.stat().st_mtime_ns - 2 * LEASE.wait_ns
                os.utime(path, ns=(older, older))

    pass_time()
    forget(repository, lambda agent: RetentionRules(last=1), [first])
    report = repack(repository, wish=RepackWish(unused=0.0))
    assert report.moved_points
    for _ in range(2):
        prune(repository)
        pass_time()
    assert prune(repository).deleted_packs == 0
    return list(report.moved_points.values())


def main(version: str) -> None:
    golden = HERE / version
    if golden.exists():
        sys.exit(f"{golden} is there already: a golden repository is never made anew")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "tree"
        make_tree(root)
        identity, recovery, host = generate_identity("operator"), generate_identity("recovery"), generate_host_secret()
        target = open_target(str(golden / "repository"), create=True)
        repository = Repository.create(target, host, [identity.recipient, recovery.recipient])
        first = backup_tree(repository, Path(scratch) / "cache", root, agent="golden")
        (root / "data" / "small-03").unlink()
        (root / "data" / "new").write_bytes(b"second run")
        for path in (root / "data" / "new", root / "data"):
            os.utime(path, ns=(0, 1_600_000_001_000_000_000))
        second = backup_tree(repository, Path(scratch) / "cache", root, agent="golden")
        points = [first.id, second.id]
        if version.endswith("repacked"):
            points = repacked(Repository.open(target, identity=identity), golden / "repository", first.id)
        save_identity(golden / "identity", identity, "operator")
        save_host_key(golden / "host.key", host)
        opened = Repository.open(target, identity=identity)
        expected = {point_id: listing(opened.reader(opened.read_point(point_id))) for point_id in points}
        (golden / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
        shutil.rmtree(golden / "repository" / ".tmp", ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
