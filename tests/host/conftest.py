"""Real Docker daemons on real filesystems, one of each for the whole session."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.daemon import Daemon, docker_daemon, environment
from tests.lab.disks import filesystem

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def btrfs_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with (
        filesystem("btrfs", tmp_path_factory.mktemp("disk")) as place,
        docker_daemon(place / "docker") as daemon,
    ):
        yield daemon


@pytest.fixture(scope="session")
def ext4_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with (
        filesystem("ext4", tmp_path_factory.mktemp("disk")) as place,
        docker_daemon(place / "docker") as daemon,
    ):
        yield daemon


@pytest.fixture
def btrfs_daemon(btrfs_session: Daemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """An empty Docker daemon whose data root is on btrfs; `DOCKER_HOST` names it."""
    monkeypatch.setenv("DOCKER_HOST", btrfs_session.host)
    yield btrfs_session
    btrfs_session.clean()
    _sweep(btrfs_session.data_root)


def _sweep(data_root: Path) -> None:
    """Remove the snapshots that a test has left, so that the next one finds none."""
    for top in (data_root.parent, data_root, data_root / "volumes"):
        for left in (top / ".trinity-snap").glob("*"):
            subprocess.run(["btrfs", "subvolume", "delete", left], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def ext4_daemon(ext4_session: Daemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """An empty Docker daemon whose data root is on ext4; `DOCKER_HOST` names it."""
    monkeypatch.setenv("DOCKER_HOST", ext4_session.host)
    yield ext4_session
    ext4_session.clean()


@pytest.fixture(params=["btrfs", "ext4"])
def daemon(request: pytest.FixtureRequest) -> Daemon:
    """An empty Docker daemon, on each filesystem in turn."""
    found = request.getfixturevalue(f"{request.param}_daemon")
    assert isinstance(found, Daemon)
    return found


@pytest.fixture
def start_run(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start the driver of `tests.lab.critical_driver`: `start_run(daemon, *arguments, **environment)`."""
    started: list[subprocess.Popen[bytes]] = []

    def start(daemon: Daemon, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.lab.critical_driver", str(tmp_path / "state"), *arguments],
            cwd=REPOSITORY,
            env=environment(daemon, **more),
            stdout=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
