"""`trinity-snap recover` while somebody else holds the host, as the units run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.host.test_main_job import wait_until
from tests.lab.product import CHECKOUT
from trinity_snap.quiesce import HostLock

pytestmark = pytest.mark.host


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    place = tmp_path / "etc" / "policy.yml"
    place.parent.mkdir()
    place.write_text(json.dumps({"target": str(tmp_path / "target"), "state": {"directory": str(tmp_path / "state")}}))
    return place


def start(policy: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trinity_snap", "recover", "--json", "--policy", str(policy), *arguments],
        cwd=CHECKOUT,
        env={**os.environ, "DOCKER_HOST": "unix:///run/there-is-no-docker"},
        stdout=subprocess.PIPE,
        text=True,
    )


def recover(policy: Path, *arguments: str) -> tuple[int, dict[str, object]]:
    process = start(policy, *arguments)
    output, _ = process.communicate(timeout=60)
    return process.returncode, json.loads(output)


def test_what_a_backup_has_undone_before_it_began_is_left_to_it(policy: Path, tmp_path: Path) -> None:
    with HostLock(tmp_path / "state", "a" * 32):
        code, answer = recover(policy, "--wait", "10m")
        assert (code, answer["runs"]) == (0, [])
        assert f"backup run {'a' * 32}" in str(answer["left_to"])
        assert recover(policy)[0] == 3
        assert recover(policy, "--wait", "10m", "--strays")[0] == 3
    assert recover(policy, "--wait", "10m")[1]["left_to"] is None


def test_anybody_else_is_waited_for_within_the_time(policy: Path, tmp_path: Path) -> None:
    with HostLock(tmp_path / "state", "b" * 16, "restore"):
        assert recover(policy, "--wait", "1s")[0] == 3
        process = start(policy, "--wait", "10m")
        open_files = Path(f"/proc/{process.pid}/fd")

        def has_lock_open() -> bool:
            with suppress(FileNotFoundError):  # one that was closed since it was listed
                return any(os.readlink(one).endswith("/state/lock") for one in open_files.iterdir())
            return False

        wait_until(has_lock_open)
        assert process.poll() is None
    assert process.communicate(timeout=60)[0]
    assert process.returncode == 0
