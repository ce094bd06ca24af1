"""Runs through the command line, and what is heard of them: the journal, metrics, pings and messages."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_cli_json import assert_same_shape, documented
from trinity_snap.events import EventJournal

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="backups read the files of every agent, as root")

Heard = list[tuple[str, str]]


@pytest.fixture
def listener() -> Iterator[tuple[str, Heard]]:
    """A server of ours: its address, and the (path, body) of every request that it has had."""
    heard: Heard = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            heard.append((self.path, body))
            self.send_response(503 if "/broken" in self.path else 200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", heard
    server.shutdown()
    server.server_close()
    thread.join()


class Machine:
    """A host without Docker, whose one agent is `platform`."""

    def __init__(self, home: Path) -> None:
        self.home, self.data, self.metrics = home, home / "data", home / "collector" / "trinity-snap.prom"
        self.policy = home / "etc" / "policy.yml"
        for directory in (self.data, self.policy.parent, self.metrics.parent):
            directory.mkdir(mode=0o700)
        (self.data / "file").write_bytes(b"x" * 100_000)
        self.write()

    def write(self, **monitor: object) -> None:
        settings = {
            "target": str(self.home / "target"), "state": {"directory": str(self.home / "state")},
            "agents": {"discover": {"trinity": False}}, "platform": {"paths": [str(self.data)]},
            "monitor": {"textfile": str(self.metrics), "free_percent": 1, **monitor},
        }  # fmt: skip
        self.policy.write_text(json.dumps(settings))

    def run(self, *arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "trinity_snap", *arguments, "--policy", str(self.policy)],
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=120,
            env={**os.environ, "DOCKER_HOST": "unix:///nonexistent", **environment},
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        answer = json.loads(self.run(*arguments, "--json", code=code).stdout)
        assert isinstance(answer, dict)
        return answer

    def events(self) -> list[str]:
        return [event["event"] for event in EventJournal(self.home / "state").read()]

    def metric(self, name: str) -> dict[str, float]:
        """The samples of a metric, by their labels."""
        found = {}
        for line in self.metrics.read_text().splitlines():
            if line.startswith((f"trinity_snap_{name} ", f"trinity_snap_{name}{{")):
                labels, value = line.rsplit(" ", 1)
                found[labels.removeprefix(f"trinity_snap_{name}")] = float(value)
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.run("init")
    return machine


def test_every_run_is_in_the_journal_with_its_outcome(machine: Machine, tmp_path: Path) -> None:
    machine.run("backup")
    machine.run("verify")
    machine.run("drill")
    machine.run("restore", "platform", "--to", str(tmp_path / "out"))
    machine.run("prune", "--dry-run")
    machine.run("prune")
    machine.run("recover")
    machine.run("restore", "nobody", "--to", str(tmp_path / "out2"), code=2)
    events = [event for event in EventJournal(tmp_path / "state").read() if event["event"] != "alarm"]
    assert [event["event"] for event in events] == ["backup", "verify", "drill", "restore", "prune", "recover"]
    assert {event["outcome"] for event in events} == {"done"}
    assert [event["seq"] for event in events] == list(range(1, 7))


def test_a_failed_run_alarms_once_and_is_over_once_and_never_moves_the_last_success(
    machine: Machine, listener: tuple[str, Heard]
) -> None:
    pytest.importorskip("apprise", reason="the extra `notify` is not installed")
    address, heard = listener
    notify = machine.policy.parent / "notify"
    notify.write_text(f"# whom to tell\n{address.replace('http', 'json', 1)}/alarms\n")
    notify.chmod(0o600)
    machine.write(notify_file="notify", ping=f"{address}/ping/uuid?create=1")
    assert_same_shape(machine.json("monitor", "--test"), documented("monitor", 1))
    assert [path for path, _ in heard] == ["/alarms"]
    heard.clear()
    machine.run("backup")
    assert [path for path, _ in heard] == ["/ping/uuid?create=1"]
    success = machine.metric("agent_last_success_timestamp_seconds")
    assert list(success) == ['{agent="platform"}']
    heard.clear()
    target = machine.home / "target"
    target.rename(machine.home / "away")
    machine.run("backup", code=1)
    machine.run("backup", code=1)
    answer = machine.json("monitor", code=1)
    assert_same_shape({**answer, "told": {"notify": 1, "trinity": 1, **answer["told"]}}, documented("monitor"))
    assert [one["kind"] for one in answer["alarms"]] == ["run"]
    assert [path for path, _ in heard] == ["/alarms", "/ping/uuid/fail?create=1", "/ping/uuid/fail?create=1"]
    assert "ALARM" in heard[0][1]
    assert machine.metric("agent_last_success_timestamp_seconds") == success
    assert machine.metric("run_last_good")['{run="backup"}'] == 0
    assert machine.metric("alarm") == {'{kind="run",severity="critical",subject="backup"}': 1.0}
    (machine.home / "away").rename(target)
    heard.clear()
    machine.run("backup")
    machine.run("backup")
    assert [path for path, _ in heard] == ["/alarms", "/ping/uuid?create=1", "/ping/uuid?create=1"]
    assert "well again" in heard[0][1]
    assert machine.json("monitor")["well"] is True
    assert machine.metric("alarm") == {}
    assert machine.metric("agent_last_success_timestamp_seconds")['{agent="platform"}'] > success['{agent="platform"}']


def test_metrics_are_good_prometheus(machine: Machine) -> None:
    promtool = shutil.which("promtool")
    machine.run("backup")
    machine.run("verify")
    machine.run("drill")
    assert machine.metrics.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in machine.metrics.parent.iterdir()] == [machine.metrics.name]
    for name in ("agent_bytes", "agent_pause_seconds", "agent_rpo_seconds", "agent_last_proved_timestamp_seconds"):
        assert list(machine.metric(name)) == ['{agent="platform"}'], name
    assert machine.metric("target_free_bytes")
    assert machine.metric("target_last_verified_timestamp_seconds")
    if promtool is None:
        pytest.skip("promtool is not installed; all but its own opinion was checked")
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=machine.metrics.read_bytes(), capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_nothing_that_goes_wrong_with_telling_fails_a_run(machine: Machine, listener: tuple[str, Heard]) -> None:
    shutil.rmtree(machine.metrics.parent)
    machine.write(notify_file="missing", ping=f"{listener[0]}/broken")
    done = machine.run("backup")
    for word in ("metrics could not be written", "missing cannot be read", "503"):
        assert (word in done.stderr) == ("missing" not in word), word
    (machine.home / "state" / "events").rename(machine.home / "events")
    (machine.home / "state" / "events").write_text("no directory")
    assert "journal of events" in machine.run("backup").stderr
    assert machine.json("list")["points"][1]["agent"] == "platform"


def test_a_ping_that_was_not_heard_is_sent_by_the_next_look(machine: Machine, listener: tuple[str, Heard]) -> None:
    address, heard = listener
    machine.write(ping=f"{address}/broken")
    assert "503" in machine.run("backup").stderr
    heard.clear()
    machine.write(ping=f"{address}/good")
    machine.run("monitor")
    machine.run("monitor")
    assert [path for path, _ in heard] == ["/good"]


def test_a_process_killed_before_it_tells_leaves_the_telling_to_the_next(
    machine: Machine, listener: tuple[str, Heard]
) -> None:
    pytest.importorskip("apprise", reason="the extra `notify` is not installed")
    address, heard = listener
    notify = machine.policy.parent / "notify"
    notify.write_text(f"{address.replace('http', 'json', 1)}/alarms\n")
    notify.chmod(0o600)
    machine.write(notify_file="notify")
    machine.run("backup")
    (machine.home / "target").rename(machine.home / "away")
    machine.run("backup", code=-signal.SIGKILL, TRINITY_SNAP_CRASH_AT="monitor.noted")
    assert heard == []
    machine.run("monitor", code=1)
    machine.run("monitor", code=1)
    assert len(heard) == 1


def test_a_run_that_is_killed_shows_when_the_next_look_finds_the_agent_late(machine: Machine) -> None:
    machine.write(rpo="1s")
    machine.run("backup")
    machine.run("backup", code=-signal.SIGKILL, TRINITY_SNAP_CRASH_AT="before-commit")
    time.sleep(1.2)  # until the first is older than that
    answer = machine.json("monitor", code=1)
    assert [(one["kind"], one["subject"]) for one in answer["alarms"]] == [("late", "platform")]
    machine.write()
    machine.run("backup")
    assert machine.json("monitor")["cleared"] == []


def test_a_look_without_telling_changes_nothing(machine: Machine) -> None:
    machine.run("backup")
    machine.write(rpo="1s")
    time.sleep(1.2)  # until the point is older than that
    before = {path: path.read_bytes() for path in (machine.home / "state").rglob("*") if path.is_file()}
    machine.run("monitor", "--dry-run", code=1)
    assert {path: path.read_bytes() for path in (machine.home / "state").rglob("*") if path.is_file()} == before


def test_addresses_that_others_may_read_are_refused(machine: Machine) -> None:
    pytest.importorskip("apprise", reason="the extra `notify` is not installed")
    notify = machine.policy.parent / "notify"
    notify.write_text("ntfys://secret@example.org/topic\n")
    notify.chmod(0o644)
    machine.write(notify_file="notify")
    answer = machine.json("monitor", "--test", code=10)
    assert "chmod 600" in answer["problems"][0]
    assert "secret" not in json.dumps(answer)


def test_an_agent_that_appears_is_known_before_its_first_run(machine: Machine) -> None:
    machine.run("monitor")
    assert machine.events() == ["agents", "checked"]
    machine.run("monitor")
    assert machine.events() == ["agents", "checked"]
    assert machine.metric("agent") == {'{agent="platform"}': 1.0}
    assert machine.metric("agent_last_success_timestamp_seconds") == {}
