"""Who holds the host, who waits for whom, and who is alone."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from pathlib import Path

import pytest

from trinity_snap.errors import HostBusy
from trinity_snap.quiesce import HostLock, lock

DEAD = 4_194_305  # no process ever has this number: it is beyond the kernel's limit


@pytest.fixture(autouse=True)
def own_runs(monkeypatch, tmp_path):
    """Runs of this machine that do not belong to the test do not count."""
    monkeypatch.setattr(lock, "_RUNS", tmp_path / "runs.lock")


def test_only_a_backup_that_is_alive_is_known_to_undo_what_was_left(tmp_path):
    for what, undoes_first in (("backup", True), ("restore", False)):
        with (
            HostLock(tmp_path, "one", what),
            pytest.raises(HostBusy, match=f"{what} run one, process {os.getpid()}") as caught,
            HostLock(tmp_path, "two"),
        ):
            pass
        assert caught.value.undoes_first is undoes_first
    descriptor = os.open(tmp_path / "lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.pwrite(descriptor, json.dumps({"what": "backup", "run_id": "x", "pid": DEAD, "since": "then"}).encode(), 0)
    with pytest.raises(HostBusy, match="not said which") as caught, HostLock(tmp_path, "two"):
        pass
    assert not caught.value.undoes_first
    os.close(descriptor)


def test_a_lock_is_waited_for_but_not_if_a_backup_has_it(tmp_path):
    held = HostLock(tmp_path, "one", "restore")
    held.__enter__()
    threading.Timer(0.5, held.__exit__, (None, None, None)).start()
    with (
        HostLock(tmp_path, "two", wait_seconds=60),
        pytest.raises(HostBusy),
        HostLock(tmp_path, "three", wait_seconds=600),
    ):
        pass


def test_nobody_is_alone_while_a_run_of_another_policy_is_alive_and_none_begins_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_SWEEP_SECONDS", 0.0)
    one, two = tmp_path / "one", tmp_path / "two"
    with HostLock(one, "one") as first:
        with HostLock(two, "two"), first.alone() as alone:
            assert not alone
        with first.alone() as alone:
            assert alone
            with pytest.raises(HostBusy), HostLock(two, "two"):
                pass
            assert not _is_locked(two / "lock")
        with HostLock(two, "two") as second, second.alone() as alone:
            assert not alone
    with HostLock(two, "two") as second, second.alone() as alone:
        assert alone


def _is_locked(path: Path) -> bool:
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
