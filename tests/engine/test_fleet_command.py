"""`trinity-snap fleet` with real Ansible and real sshd; the hosts' own command is a script that does as each test needs.

With real agents: tests/fleet/test_fleet_agents.py.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.sshd import Sshd, needs_sshd, sshd
from trinity_snap.fleet.private import PREFIX

pytest.importorskip("ansible_runner")
if not Path(sys.executable).with_name("ansible-playbook").exists() and not shutil.which("ansible-playbook"):
    pytest.skip("needs ansible-core", allow_module_level=True)

SECRET = "hush-4711"
DEADLINE_SECONDS = 120
RUNTIME = Path(f"/dev/shm/snap-fleet-test-{os.getpid()}")

COMMAND = """\
#!{python}
# A host's command. `plan` in its directory says what a backup does; calls are noted; `go` lets one end that waits.
import json, os, sys, time
here = os.path.dirname(os.path.realpath(__file__))
path = lambda name: os.path.join(here, name)
with open(path("calls"), "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
plan = open(path("plan")).read()
run_id = sys.argv[sys.argv.index("--run-id") + 1] if "--run-id" in sys.argv else None
agent = {{"agent": "web", "outcome": "done", "point": "4be1", "files": 3, "bytes_stored": 9, "error": None}}
code = 0
if sys.argv[1] == "backup":
    open(path("pid"), "w").write(str(os.getpid()))
    open(path("began.new"), "w").write(run_id)
    os.rename(path("began.new"), path("began"))
    while plan in ("wait", "die") and not os.path.exists(path("go")):
        time.sleep(0.02)
    if plan == "held":
        agent.update(outcome="failed", point=None, error="agent-web is still paused")
        code = 11
    if plan == "fail":
        agent.update(outcome="failed", point=None, error="its volume is gone")
        code = 10
    last = {{"run_id": run_id, "started": "now", "outcome": agent["outcome"], "error": agent["error"]}}
    open(path("last.new"), "w").write(json.dumps(last))
    os.rename(path("last.new"), path("last"))
    answer = {{"run_id": run_id, "outcome": "done", "agents": [agent], "replicas": []}}
elif sys.argv[1] == "recover":
    alive = os.path.exists(path("began")) and not os.path.exists(path("last")) and plan == "wait"
    dead = plan in ("die", "held")
    answer = {{"runs": ["11"] * dead, "resumed": ["agent-web"] * dead, "started": [], "hooks": [], "removed": []}}
    answer.update(restores=[], problems=[], left_to="Another run holds this host." if alive else None)
else:
    last = json.load(open(path("last"))) if os.path.exists(path("last")) else None
    running = {{"run_id": open(path("began")).read()}} if plan == "wait" and last is None else None
    answer = {{"agents": [{{"agent": "web", "created": None, "last_run": last}}], "stale": [], "running": running}}
print(json.dumps(answer))
sys.exit(code)
"""


@dataclass
class Pretended:
    """A host of the inventory: its directory with its command, and how Ansible gets there."""

    directory: Path
    variables: dict[str, object]

    def calls(self) -> list[str]:
        path = self.directory / "calls"
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []

    def began(self) -> bool:
        return (self.directory / "began").exists()

    def go(self) -> None:
        (self.directory / "go").touch()


@dataclass
class Fleet:
    """An inventory of pretended hosts."""

    directory: Path
    hosts: dict[str, Pretended]

    def add(self, name: str, plan: str, **variables: object) -> Pretended:
        place = self.directory / name
        place.mkdir()
        (place / "plan").write_text(plan)
        command = place / "trinity-snap"
        command.write_text(COMMAND.format(python=sys.executable))
        command.chmod(0o755)
        reached = {"ansible_connection": "local"} if "ansible_port" not in variables else {}
        self.hosts[name] = Pretended(place, {"trinity_snap_link": str(command), **reached, **variables})
        return self.hosts[name]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        common = {"ansible_python_interpreter": "/usr/bin/python3", "ansible_become": False}
        document = {"all": {"hosts": {name: host.variables for name, host in self.hosts.items()}, "vars": common}}
        place = self.directory / "inventory.yml"
        place.write_text(json.dumps(document))
        command = [sys.executable, "-m", "trinity_snap", "fleet", arguments[0], "-i", str(place), *arguments[1:]]
        environment = {**os.environ, "SOME_SECRET": SECRET, "ANSIBLE_HOST_KEY_CHECKING": "False"}
        environment["XDG_RUNTIME_DIR"] = str(RUNTIME)
        return subprocess.Popen(
            command, env=environment, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, *arguments: str) -> Ended:
        return ended(self.start(*arguments))


@dataclass(frozen=True)
class Ended:
    code: int
    answer: dict[str, Any]
    lines: list[dict[str, Any]]

    def host(self, name: str) -> dict[str, Any]:
        (found,) = (one for one in self.answer["hosts"] if one["host"] == name)
        return dict(found)

    @property
    def outcomes(self) -> dict[str, str]:
        return {one["host"]: one["outcome"] for one in self.answer["hosts"]}


def ended(process: subprocess.Popen[str]) -> Ended:
    out, err = process.communicate(timeout=DEADLINE_SECONDS)
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert out.startswith("{"), out + err
    return Ended(process.returncode, json.loads(out), lines)


def wait_until(what: Callable[[], object], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + DEADLINE_SECONDS
    while not what():
        assert process.poll() is None and time.monotonic() < until, process.communicate() if process.poll() else "late"
        time.sleep(0.02)


@pytest.fixture(scope="module", autouse=True)
def runtime() -> Iterator[None]:
    """Other tests play, too, at the same time: what is in memory for those of this file is in a place of their own."""
    RUNTIME.mkdir(mode=0o700)
    yield
    shutil.rmtree(RUNTIME, ignore_errors=True)


def private_directories() -> set[Path]:
    return set(RUNTIME.glob(f"{PREFIX}*"))


def descendants(process: int) -> list[int]:
    found, waiting = [], [process]
    while waiting:
        with suppress(OSError):
            children = Path(f"/proc/{(number := waiting.pop())}/task/{number}/children").read_text().split()
            found += [int(one) for one in children]
            waiting += [int(one) for one in children]
    return found


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path, {})


def over(server: Sshd, name: str, port: int | None = None, known: bool = True) -> dict[str, object]:
    hosts = str(server.known_hosts) if known else "/dev/null"
    return {
        "ansible_host": "127.0.0.1", "ansible_port": port or server.port, "ansible_user": "root",
        "ansible_ssh_private_key_file": str(server.key),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={hosts} -o GlobalKnownHostsFile=/dev/null -F /dev/null",
        "ansible_control_path": f"{server.home}/{name}",
    }  # fmt: skip


@dataclass
class Mixed:
    """One fleet run with a host of every fate, and what was seen while it was under way."""

    fleet: Fleet
    ended: Ended
    leaked: list[str]
    modes: set[int]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixed]:
    directory = tmp_path_factory.mktemp("mixed")
    short = Path("/tmp") / f"snap-fleet-{os.getpid()}"  # sockets need a short path
    short.mkdir(mode=0o700)
    try:
        with sshd(short / "a") as steady, sshd(short / "b") as shaky, socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            fleet = Fleet(directory, {})
            fleet.add("good", "done", **over(steady, "good"))
            fleet.add("bad", "fail", **over(steady, "bad"))
            fleet.add("down", "done", **over(steady, "down", port=nobody.getsockname()[1]))
            fleet.add("stranger", "done", **over(steady, "stranger", known=False))
            lost = fleet.add("lost", "wait", **over(shaky, "lost"))
            dead = fleet.add("dead", "die", **over(shaky, "dead"))
            before = private_directories()
            process = fleet.start("backup", "--json")
            try:
                wait_until(lambda: lost.began() and dead.began() and "backup" in fleet.hosts["bad"].calls(), process)
                leaked, modes = look_for_secrets(process.pid, private_directories() - before)
                os.kill(int((dead.directory / "pid").read_text()), signal.SIGSTOP)  # so that it does not answer first
                for number in shaky.connections():
                    if "sshd" in Path(f"/proc/{number}/comm").read_text():  # what it runs goes on, as on a far host
                        os.kill(number, signal.SIGKILL)
                with suppress(ProcessLookupError):
                    os.kill(int((dead.directory / "pid").read_text()), signal.SIGKILL)
                wait_until(lambda: "recover" in lost.calls(), process)
                lost.go()
                finished = ended(process)
            finally:
                process.kill()
                lost.go()
                dead.go()
            assert private_directories() <= before
            yield Mixed(fleet, finished, leaked, modes)
    finally:
        shutil.rmtree(short, ignore_errors=True)


def look_for_secrets(process: int, directories: set[Path]) -> tuple[list[str], set[int]]:
    """Where the secret of the environment is, beside the command itself; and the modes of the private directories."""
    assert len(directories) == 1
    files = [path for directory in directories for path in directory.rglob("*") if path.is_file()]
    files = [path for path in files if "collections" not in path.parts]
    for number in descendants(process):
        files += [Path(f"/proc/{number}/cmdline"), Path(f"/proc/{number}/environ")]
    leaked = []
    for path in files:
        with suppress(OSError):
            if SECRET.encode() in path.read_bytes():
                leaked.append(str(path))
    assert len(files) > 10, "something was looked at"
    return leaked, {directory.stat().st_mode & 0o777 for directory in directories}


@needs_sshd
def test_every_host_has_its_outcome_and_the_exit_code_says_some_failed(mixed: Mixed) -> None:
    assert mixed.ended.outcomes == {
        "good": "done", "bad": "failed", "down": "unreachable", "stranger": "unreachable", "lost": "done", "dead": "unknown",
    }  # fmt: skip
    assert (mixed.ended.code, mixed.ended.answer["outcome"]) == (10, "some-failed")
    assert mixed.ended.answer["counts"] == {"done": 2, "failed": 1, "unreachable": 2, "unknown": 1, "not-started": 0}
    assert "its volume is gone" in mixed.ended.host("bad")["message"] and mixed.ended.host("bad")["exit_code"] == 10
    assert "Connection refused" in mixed.ended.host("down")["message"]


@needs_sshd
def test_a_host_key_that_is_not_known_is_not_taken_on_whatever_the_environment_says(mixed: Mixed) -> None:
    assert "Host key verification failed" in mixed.ended.host("stranger")["message"]
    assert mixed.fleet.hosts["stranger"].calls() == []


@needs_sshd
def test_a_host_that_was_lost_in_the_middle_is_recovered_and_asked_how_its_run_ended(mixed: Mixed) -> None:
    calls = mixed.fleet.hosts["lost"].calls()
    assert calls[:3] == ["backup", "recover", "status"] and calls.count("backup") == 1
    lost = mixed.ended.host("lost")
    assert "connection was lost" in lost["message"] and "Another run holds this host" in lost["recovery"]
    assert lost["answer"]["agents"][0]["last_run"]["run_id"] == mixed.ended.answer["run_id"]


@needs_sshd
def test_a_host_whose_run_died_is_recovered_and_stays_unknown(mixed: Mixed) -> None:
    dead = mixed.ended.host("dead")
    assert dead["recovery"] == "Undone: agent-web."
    assert "remembers no run of this id" in dead["message"]
    assert mixed.fleet.hosts["good"].calls() == ["backup"], "only hosts that were lost are recovered"


@needs_sshd
def test_nothing_of_the_operators_environment_is_written_down_or_shown(mixed: Mixed) -> None:
    assert mixed.leaked == []
    assert mixed.modes == {0o700}


@needs_sshd
def test_elsewhere_than_on_a_terminal_progress_is_json_lines_per_host_and_agent(mixed: Mixed) -> None:
    lines = mixed.ended.lines
    assert lines[0]["event"] == "begin" and lines[0]["hosts"] == 6
    assert {line["host"] for line in lines if line["event"] == "host-started"} >= {"good", "bad", "lost", "dead"}
    agents = [
        (line["host"], line["agent"], line["outcome"])
        for line in lines
        if line["event"] == "agent" and "outcome" in line
    ]
    assert ("good", "web", "done") in agents and ("bad", "web", "failed") in agents
    last = {line["host"]: line["outcome"] for line in lines if line["event"] == "host-ended"}
    assert last == mixed.ended.outcomes


def test_too_many_failures_stop_a_roll_out_before_the_next_batch(fleet: Fleet) -> None:
    for number in range(4):
        fleet.add(f"host{number}", "held" if number == 1 else "done")
    result = fleet.run("backup", "--json", "--batch", "2", "--max-failures", "24%")
    assert list(result.outcomes.values()) == ["done", "failed", "not-started", "not-started"]
    assert (result.code, result.answer["outcome"]) == (10, "stopped")
    assert "1 host of 4 did not succeed, which is more than 24%" in result.answer["stopped"]
    assert fleet.hosts["host2"].calls() == []
    assert fleet.hosts["host1"].calls() == ["backup", "recover"], "what it left quiesced is not left"
    assert result.host("host1")["recovery"] == "Undone: agent-web."


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_whoever_interrupts_gets_hosts_at_work_recovered_and_no_other_begun(
    fleet: Fleet, number: int, code: int
) -> None:
    working, waiting = fleet.add("working", "die"), fleet.add("waiting", "done")
    before = private_directories()
    process = fleet.start("backup", "--json", "--batch", "1")
    try:
        wait_until(working.began, process)
        began = descendants(process.pid)
        process.send_signal(number)
        result = ended(process)
    finally:
        process.kill()
        working.go()
    assert (result.code, result.answer["outcome"]) == (code, "interrupted")
    assert result.outcomes == {"working": "unknown", "waiting": "not-started"}
    assert result.host("working")["recovery"] == "Undone: agent-web."
    assert working.calls()[:2] == ["backup", "recover"] and waiting.calls() == []
    assert private_directories() <= before
    assert not any("ansible" in command_of(one) for one in began)


def command_of(process: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def test_a_killed_controller_leaves_nothing_that_the_next_run_does_not_remove(fleet: Fleet) -> None:
    host = fleet.add("host", "wait")
    before = private_directories()
    process = fleet.start("backup", "--json")
    try:
        wait_until(host.began, process)
        (left,) = private_directories() - before
    finally:
        process.kill()
        process.wait()
        host.go()
    assert left.is_dir()
    result = fleet.run("recover", "--json")
    assert result.outcomes == {"host": "done"}
    assert not left.exists() and private_directories() <= before


def test_a_restore_asks_first_and_stops_at_the_first_host_that_is_not_done(fleet: Fleet) -> None:
    hosts = [fleet.add(f"host{number}", "done") for number in range(3)]
    hosts[1].variables["trinity_snap_link"] = "/nonexistent"
    refused = fleet.run("restore", "web", "--json")
    assert refused.code == 2 and "--yes" in refused.answer["next_step"]
    assert hosts[0].calls() == []
    result = fleet.run("restore", "platform", "web", "--yes", "--batch", "1", "--json")
    assert list(result.outcomes.values()) == ["done", "failed", "not-started"] and result.answer["outcome"] == "stopped"
    calls = (hosts[0].directory / "calls").read_text().splitlines()
    assert [line.split(" --")[0] for line in calls] == ["restore platform", "restore web"]
    assert all("--yes" in line for line in calls) and hosts[2].calls() == []
    assert len(result.host("host0")["answer"]["agents"]) == 2


def test_what_ansible_cannot_begin_is_one_sentence(fleet: Fleet) -> None:
    fleet.add("host", "done")
    assert (none := fleet.run("status", "--json", "--limit", "nobody")).code == 2
    assert "selects no host" in none.answer["message"] and "nobody" in none.answer["message"]
    assert fleet.hosts["host"].calls() == []
