"""`trinity-snap import` that is killed anywhere: the agent's data is all old or all new, and `recover` leaves nothing behind."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tests.engine.test_restore_paths import crash
from tests.lab.daemon import Daemon
from tests.lab.product import Product, install, volume
from trinity_snap import __main__ as entry

pytestmark = pytest.mark.host

BEFORE = (
    "restore.journal-started", "restore.before-holder", "import.file-written", "restore.staged", "restore.stop-noted",
    "restore.stopped",
)  # fmt: skip
AFTER = (
    "restore.swapping", "restore.first-operation", "restore.volume-swapped", "restore.swapped", "restore.previous-kept",
    "restore.started", "restore.closing",
)  # fmt: skip
OLD = {"state": b"old", "only-old": b"old", "sub/deep": b"old"}
NEW = {"state": b"new", "only-new": b"new", "sub/deep": b"new", "large": bytes(3 << 20)}
REST = {"code": b"never touched"}


def fill(top: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def look(top: Path) -> dict[str, bytes]:
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


@pytest.fixture
def product(btrfs_daemon: Daemon, tmp_path: Path) -> Product:
    product = install(tmp_path, btrfs_daemon)
    btrfs_daemon.run("agent-web", volumes=["agent-web-workspace:/home/developer"])
    fill(volume(btrfs_daemon, "agent-web-workspace"), REST)
    with tarfile.open(tmp_path / "data.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in NEW.items():
            info = tarfile.TarInfo(f"data/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return product


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("steps", [BEFORE, AFTER], ids=["before the exchange", "from then on"])
def test_an_import_killed_anywhere_leaves_all_old_or_all_new(
    product: Product, tmp_path: Path, steps: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = volume(product.daemon, "agent-web-workspace")
    container = product.daemon.client.containers.get("agent-web")
    words = ["import", "web", str(tmp_path / "data.tar"), "--yes", "--policy", str(product.policy_file)]
    for at in steps:
        container.stop(timeout=0)
        for path in sorted((home / "data").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        fill(home / "data", OLD)
        container.start()
        assert crash(at, lambda: entry.run(words)), at
        held = look(home / "data")
        assert held in (OLD, NEW), f"half of it is live after {at}"
        assert held == (OLD if at in BEFORE else held), at

        assert entry.run(["recover", "--policy", str(product.policy_file)]) == 0
        assert look(home / "data") == (OLD if at in BEFORE else NEW), at
        assert {name: content for name, content in look(home).items() if not name.startswith("data/")} == REST
        container.reload()
        assert container.status == "running", at
        left = list(home.parent.glob(".trinity-snap*"))
        assert len(left) == (0 if at in BEFORE else 1), (at, left)
        if left:
            (kept,) = (path for path in left[0].rglob("data") if path.is_dir() and (path / "state").exists())
            assert look(kept) == OLD, "the previous data is whole, too"
            assert entry.run(["restore", "web", "--release", "--policy", str(product.policy_file)]) == 0
            assert list(home.parent.glob(".trinity-snap*")) == []
    assert product.run("recover")["removed"] == []
