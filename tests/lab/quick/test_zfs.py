"""The provider `zfs` on zfs-fuse: an old ZFS, but a real one. It hangs easily, so this is little; tests/host has the rest."""

import os
import shutil
import signal
import subprocess
import time

import pytest

from tests.lab.quick.test_lvm import snapshot, source, tree
from tests.lab.quick.volumes import run
from trinity_snap.snapshot import explain
from trinity_snap.snapshot.zfs import runs_of_ours

pytestmark = pytest.mark.skipif(shutil.which("zfs-fuse") is None, reason="there is no zfs-fuse here (Debian's package)")


@pytest.fixture
def pool(tmp_path):
    """The mount point of a pool with two datasets."""
    place = tmp_path / "zfs"
    place.mkdir()
    run("mount", "-t", "tmpfs", "none", "/etc/zfs")
    with open(place / "log", "wb") as log:  # the daemon keeps it open
        subprocess.run(["zfs-fuse", "-p", place / "pid"], check=True, stdout=log, stderr=log)
    until = time.monotonic() + 30
    while subprocess.run(["zpool", "list"], check=False, capture_output=True).returncode:
        assert time.monotonic() < until, (place / "log").read_text()
        time.sleep(0.1)
    run("zpool", "create", "-f", "-m", place / "tank", "tank", "/dev/ubdc")
    for name in ("one", "two"):
        run("zfs", "create", f"tank/{name}")
    yield place / "tank"
    os.kill(int((place / "pid").read_text()), signal.SIGKILL)
    for name in ("one", "two", ""):
        subprocess.run(["umount", "--lazy", place / "tank" / name], check=False)
    run("umount", "--lazy", "/etc/zfs")


def test_views_of_two_datasets_show_the_instant(pool, tmp_path):
    sources = [source(pool / "one" / "volume", "one"), source(pool / "two" / "deep" / "volume", "two")]
    for each in sources:
        (each.path / "file").write_bytes(b"before")
    assert explain(sources[0]).provider == "zfs"
    assert "tank/one" in explain(sources[0]).why
    (provider,), journal = snapshot(tmp_path / "state", *sources)
    for each in sources:
        (each.path / "file").write_bytes(b"after")
    for each in sources:
        assert tree(provider.view(each)) == {b"": None, b"file": b"before"}
        provider.check(each)
    with pytest.raises(OSError, match="Read-only"):
        os.unlink(provider.view(sources[0]).root / "file")
    provider.release()
    provider.release()
    assert journal.end()
    assert runs_of_ours() == {}
    assert not list((tmp_path / "state").glob("mnt/*"))
