"""Commands that change storage outlive the run that started them, and are waited for."""

import signal
import subprocess
import sys
import time

import pytest

from trinity_snap.errors import SnapshotError
from trinity_snap.snapshot import commands

RUN = """
import sys
from pathlib import Path
from trinity_snap.snapshot import commands
commands._LOCK = Path(sys.argv[1])
work = "import os, sys, time; os.closerange(3, 300); open(sys.argv[1] + '.begun', 'w'); time.sleep(1); open(sys.argv[1], 'w')"
commands.change([sys.executable, "-c", work, sys.argv[2]], "It failed")
"""


@pytest.fixture(autouse=True)
def _lock(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "_LOCK", tmp_path / "lock")


def test_a_command_of_a_killed_run_is_waited_for(tmp_path):
    made = tmp_path / "made"
    process = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path / "lock"), str(made)])
    until = time.monotonic() + 30
    while not made.with_suffix(".begun").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(SnapshotError, match="still at work"):
        commands.wait_for_changes(0)
    assert not made.exists()
    commands.wait_for_changes(30)
    assert made.exists()


def test_a_command_that_takes_too_long_is_asked_to_stop_and_never_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "CHANGE_SECONDS", 0.2)
    with pytest.raises(SnapshotError, match="stopped on request"):
        commands.change(
            ["sh", "-c", "trap 'echo stopped on request; exit 1' TERM; while :; do sleep 0.05; done"], "It failed"
        )


def test_a_command_that_fails_says_why(tmp_path):
    with pytest.raises(SnapshotError, match=r"It failed: no such volume\."):
        commands.change(["sh", "-c", "echo no such volume. >&2; exit 5"], "It failed")
    commands.wait_for_changes(0)
    assert commands.ask(["sh", "-c", 'echo "$LC_ALL"'], "It failed") == (0, "C\n")
