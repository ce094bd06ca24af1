"""`trinity-snap fleet` and agents that are really paused: whatever becomes of the control node, they go on."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.lab.daemon import Daemon, docker_daemon
from tests.lab.disks import filesystem
from tests.lab.product import CHECKOUT, Product, install, leftovers

pytestmark = [pytest.mark.host, pytest.mark.fleet]
pytest.importorskip("ansible_runner")
HELD_SECONDS = 10
DEADLINE_SECONDS = 120


class Site:
    """A host with two agents, reached by Ansible without ssh, whose runs hang at a step while the file `hang` says so."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self.hang = product.home / "hang"
        command = product.home / "trinity-snap"
        words = shlex.join([sys.executable, "-m", "trinity_snap"])
        command.write_text(
            f"#!/bin/sh\ncd {CHECKOUT}\n[ -e {self.hang} ] && [ $1 = backup ] && export TRINITY_SNAP_HANG_AT=all-paused\n"
            f'exec {words} "$@"\n'
        )
        command.chmod(0o755)
        variables = {
            "ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3",
            "trinity_snap_link": str(command), "trinity_snap_policy": str(product.policy_file),
            "trinity_snap_docker_host": product.daemon.host,
        }  # fmt: skip
        self.inventory = product.home / "inventory.yml"
        self.inventory.write_text(json.dumps({"all": {"hosts": {"host1": variables}}}))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "trinity_snap",
            "fleet",
            arguments[0],
            "-i",
            str(self.inventory),
            "--json",
            "-q",
        ]
        return subprocess.Popen(
            [*command, *arguments[1:]], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def run(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=DEADLINE_SECONDS)
        return process.returncode, json.loads(output)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("agents")
    with filesystem("btrfs", directory / "disk") as disk, docker_daemon(disk / "docker") as daemon:
        for name in ("web", "db"):
            labels = {"trinity.platform": "agent", "trinity.agent-name": name}
            daemon.run(f"agent-{name}", volumes=[f"agent-{name}-workspace:/home/developer"], labels=labels)
        yield Site(install(directory / "host", daemon))


def wait_until(what: Callable[[], object], seconds: float = DEADLINE_SECONDS) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def hung_runs() -> list[int]:
    """The runs of this test that stopped themselves."""
    found = []
    for directory in Path("/proc").iterdir():
        with suppress(OSError, IndexError):
            state = (directory / "stat").read_text().rpartition(")")[2].split()[0]
            if state == "T" and b"TRINITY_SNAP_HANG_AT=all-paused" in (directory / "environ").read_bytes():
                found.append(int(directory.name))
    return found


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_agents_go_on_whatever_becomes_of_the_control_node_and_the_next_run_is_clean(
    site: Site, number: int, code: int
) -> None:
    daemon: Daemon = site.product.daemon
    site.hang.touch()
    process = site.start("backup")
    try:
        wait_until(lambda: len(daemon.paused()) == 2)
        process.send_signal(number)
        wait_until(lambda: not daemon.paused(), HELD_SECONDS)
        output, _ = process.communicate(timeout=DEADLINE_SECONDS)
    finally:
        process.kill()
        site.hang.unlink()
        for run in hung_runs():
            os.kill(run, signal.SIGKILL)
    assert process.returncode == code
    if output:
        (host,) = json.loads(output)["hosts"]
        assert host["outcome"] == "unknown" and host["recovery"]
    ended, answer = site.run("recover")
    assert (ended, answer["outcome"]) == (0, "done")
    assert leftovers(site.product) == []
    ended, answer = site.run("backup")
    (host,) = answer["hosts"]
    assert ended == 0, answer
    assert {agent["agent"]: agent["outcome"] for agent in host["answer"]["agents"]} == {"web": "done", "db": "done"}
    assert {point["run_id"] for point in site.product.run("list")["points"][:2]} == {answer["run_id"]}


def test_a_fleet_is_looked_at_with_no_host_reachable(site: Site) -> None:
    """The host has another address here, where nobody is, and no connection of Ansible's own."""
    document = json.loads(site.inventory.read_text())
    variables = document["all"]["hosts"]["host1"]
    variables |= {"ansible_connection": "ssh", "ansible_host": "192.0.2.1", "ansible_ssh_timeout": 1}
    variables |= {
        "trinity_snap_control_command": variables["trinity_snap_link"],
        "trinity_snap_control_policy": variables["trinity_snap_policy"],
    }
    there = site.inventory.read_text()
    site.inventory.write_text(json.dumps(document))
    try:
        for action in ("status", "verify", "prune"):
            code, answer = site.run(
                action, "--on-control", *(["-e", "trinity_snap_prune_forget=false"] * (action == "prune"))
            )
            assert (code, answer["outcome"]) == (0, "done"), answer
        assert answer["hosts"][0]["answer"]["points"] >= 2
    finally:
        site.inventory.write_text(there)
