"""Whole hosts with agents are lost, and one command brings all of them back on fresh ones.

TRINITY_SNAP_LONG_TESTS=1: one lost host and one fresh one. With TRINITY_SNAP_DISASTER_HOSTS=3 and
TRINITY_SNAP_DISASTER_AGENTS=5 it is three and three, with five agents each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.stores import rclone_server, write_credentials
from tests.lab.hosts.agents import CHECKOUT, PROVIDERS, AgentHost, takes_minutes
from tests.lab.hosts.lab import Lab
from tests.lab.hosts.machine import Host
from tests.lab.images import BUSYBOX
from trinity_snap.repository.identity import save_identity, save_recipient
from trinity_snap.repository.keys import generate_identity

pytestmark = [pytest.mark.lab, pytest.mark.fleet, takes_minutes]
HOSTS = int(os.environ.get("TRINITY_SNAP_DISASTER_HOSTS", "1"))
AGENTS = int(os.environ.get("TRINITY_SNAP_DISASTER_AGENTS", "2"))

# Each agent sees the shared folder of the one before; the last one never ran. `beat` goes on, everything else stays as it is.
_AGENT = """
docker volume create --label trinity.agent-name={name} --label trinity.platform=agent-shared agent-{name}-shared >/dev/null
docker create --name agent-{name} --network none --stop-signal KILL --label trinity.platform=agent --env WHO={name} \
  --volume agent-{name}-workspace:/home/developer --volume agent-{name}-shared:/home/developer/shared-out {more} {image} \
  sh -c 'while :; do date +%s%N >/home/developer/beat; sleep 0.5; done' >/dev/null
cd $(docker volume inspect --format '{{{{.Mountpoint}}}}' agent-{name}-workspace)
mkdir -p data; dd if=/dev/urandom of=data/random bs=64K count=8 status=none; echo {name} >data/name; ln -s name data/link
ln data/name data/hard; truncate -s 1M data/sparse; chmod 600 data/random; chown -R 1000:1000 .
echo of {name} >$(docker volume inspect --format '{{{{.Mountpoint}}}}' agent-{name}-shared)/out
"""
_LOOK = """
import glob, hashlib, json, os, stat
found = {}
for top in sorted(glob.glob("/var/lib/docker/volumes/agent-lost*/_data")):
    for directory, directories, files in os.walk(top):
        for name in ["", *directories, *files]:
            path = os.path.join(directory, name)
            if name == "beat" or (name in directories):
                continue
            seen = os.lstat(path)
            content = ""
            if stat.S_ISLNK(seen.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(seen.st_mode):
                content = hashlib.sha256(open(path, "rb").read()).hexdigest()
            beating = not name and directory == top  # the directory that `beat` is written in
            time = 0 if beating else seen.st_mtime_ns
            links = 0 if stat.S_ISDIR(seen.st_mode) else seen.st_nlink  # of directories, filesystems count them in different ways
            found[path] = [oct(seen.st_mode), seen.st_uid, seen.st_gid, time, links, content]
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Disaster:
    """Hosts that will be lost, fresh ones, a store that both reach, and a control node's directory."""

    old: dict[str, Host]
    new: dict[str, Host]
    home: Path
    inventory: Path

    def fleet(self, action: str, *arguments: str) -> tuple[int, dict[str, Any]]:
        command = [sys.executable, "-m", "trinity_snap", "fleet", action, "-i", str(self.inventory), "--json", "-q"]
        done = subprocess.run(
            [*command, *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=900
        )
        assert done.stdout.startswith("{"), done.stdout + done.stderr
        return done.returncode, json.loads(done.stdout)


def look(host: Host) -> dict[str, Any]:
    """Everything in the volumes of the agents."""
    seen: dict[str, Any] = json.loads(host.run("python3 -", given=_LOOK.encode()).output)
    return seen


def states(host: Host) -> dict[str, str]:
    asked = host.run("docker ps --all --filter name=agent-lost --format '{{.Names}} {{.State}}'")
    return dict(line.split() for line in asked.output.splitlines())


def make_agents(old: str, host: Host) -> None:
    script = ["set -e"]
    names = [f"lost-{old}-{number}" for number in range(AGENTS)]
    for name, before in zip(names, ["", *names], strict=False):
        more = f"--volume agent-{before}-shared:/home/developer/shared-in/{before}" if before else ""
        script.append(_AGENT.format(name=name, more=more, image=BUSYBOX))
    script += [f"docker start agent-{name} >/dev/null" for name in names[:-1]]
    host.run("\n".join(script))


@pytest.fixture
def disaster(furnished: AgentHost, tmp_path: Path) -> Iterator[Disaster]:
    """The first lost host is that of the other tests, with a policy of its own for agents that only this test has."""
    furnished.host.boot()
    names = [f"new{number}" for number in range(1, HOSTS + 1)]
    more = [f"old{number}" for number in range(2, HOSTS + 1)]
    lab = Lab.up(tmp_path / "lab", [*names, *more], dies_with_parent=True)
    (tmp_path / "store/bucket").mkdir(parents=True)
    try:
        with rclone_server(tmp_path / "store", "0.0.0.0") as store:  # two bridges of the lab's
            yield prepare(furnished, lab, tmp_path, store.rpartition(":")[2])
    finally:
        lab.down()
        furnished.host.boot()
        left = furnished.host.run("ls -d /var/lib/docker/volumes/.trinity-snap*", check=False).output
        furnished.host.run(
            "docker rm --force $(docker ps --all --quiet --filter name=agent-lost) >/dev/null;"
            "docker volume rm $(docker volume ls --quiet --filter name=agent-lost) >/dev/null;"
            "rm -rf /etc/lost /var/lib/lost",
            check=False,
        )
        assert left == "", "the power failed after the run, and its snapshot is back"


def prepare(furnished: AgentHost, lab: Lab, home: Path, port: str) -> Disaster:
    old = {"old1": furnished.host} | {host.name: host for host in lab.hosts if host.name.startswith("old")}
    new = {host.name: host for host in lab.hosts if host.name.startswith("new")}
    recipients = []
    for label in ("operator", "paper"):
        identity = generate_identity(label)
        save_identity(home / f"{label}.key", identity, label)
        save_recipient(home / f"{label}.recipient", identity.recipient)
        recipients.append((home / f"{label}.recipient").read_text())
    credentials = write_credentials(home).read_text()
    hosts = furnished.lab.inventory()["all"]["hosts"] | lab.inventory()["all"]["hosts"]  # type: ignore[index]  # JSON
    hosts["old1"] = hosts.pop(furnished.host.name)
    for name in old:
        hosts[name]["trinity_snap_policy"] = "/etc/lost/policy.yml"
    common = {
        "trinity_snap_control_command": str(home / "control"), "trinity_snap_onto_command": str(home / "control"),
        "trinity_snap_onto_policy": f"{home}/hosts/{{host}}.yml",
        "trinity_snap_recovery_words_directory": str(home / "words"),
    }  # fmt: skip
    inventory = home / "inventory.yml"
    inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": common}}))
    (home / "control").write_text(f'#!/bin/sh\ncd {CHECKOUT}\nexec {sys.executable} -m trinity_snap "$@"\n')
    (home / "control").chmod(0o755)
    (home / "hosts").mkdir()
    disaster = Disaster(old, new, home, inventory)
    for name, host in old.items():
        network = furnished.lab.network if name == "old1" else lab.network
        target = {"url": f"s3://bucket/{name}", "region": "us-east-1", "credentials_file": "s3-credentials"}
        on_host = {
            "target": target | {"endpoint": f"http://{network.gateway}:{port}"},
            "keys": {"identity": None, "pins": "recipients.pins"},
            "state": {"directory": "/var/lib/lost"}, "agents": {"exclude": [*PROVIDERS]},
            "quiesce": {"budget_seconds": 15},
        }  # fmt: skip
        store = {"endpoint": f"http://{lab.network.gateway}:{port}", "credentials_file": str(home / "s3-credentials")}
        keys, state = {"identity": str(home / "operator.key")}, {"directory": str(home / "state")}
        here = {"target": target | store, "keys": keys, "state": state}
        (home / f"hosts/{name}.yml").write_text(json.dumps(here))
        host.run("install -d -m 700 /etc/lost && cat >/etc/lost/policy.yml", given=json.dumps(on_host).encode())
        host.run("umask 077; cat >/etc/lost/s3-credentials", given=credentials.encode())
        for number, recipient in enumerate(recipients):
            host.run(f"cat >/etc/lost/{number}.recipient", given=recipient.encode())
        make_agents(name, host)
    return disaster


_INIT = "trinity-snap init --policy /etc/lost/policy.yml --recipient /etc/lost/0.recipient --recipient /etc/lost/1.recipient"


@pytest.mark.timeout(300 + HOSTS * 300)
def test_all_hosts_are_lost_and_one_command_brings_everything_back_on_fresh_ones(
    disaster: Disaster, furnished: AgentHost
) -> None:
    if len(disaster.old) > 1:
        others = ",".join(name for name in disaster.old if name != "old1")
        installed = subprocess.run(
            [str(Path(sys.executable).with_name("ansible-playbook")), "playbooks/install.yml", "-i", str(disaster.inventory),
             "--limit", others, "-e", "trinity_snap_policy=/etc/trinity-snap/policy.yml"],
            cwd=CHECKOUT, capture_output=True, text=True, check=False,
            env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(furnished.lab.directory)},
        )  # fmt: skip
        assert installed.returncode == 0, installed.stdout + installed.stderr
    for host in disaster.old.values():
        host.run(_INIT)
    code, answer = disaster.fleet(
        "backup", "--limit", ",".join(disaster.old), "-e", "trinity_snap_accept_downgraded=true"
    )
    assert code == 0, answer
    before: dict[str, Any] = {}
    for host in disaster.old.values():
        before |= look(host)
    for host in disaster.old.values():
        host.power_cut()

    words = [word for number in range(1, HOSTS + 1) for word in ("--onto", f"old{number}=new{number}")]
    began = time.monotonic()
    code, restored = disaster.fleet("restore", *words, "--install", "--containers", "--yes", "--run", answer["run_id"])
    took = time.monotonic() - began
    assert code == 0, restored
    sys.stdout.write(f"{HOSTS * AGENTS} agents of {HOSTS} hosts in {took:.0f} s\n")

    after: dict[str, Any] = {}
    for host in disaster.new.values():
        after |= look(host)
    assert after == before and len(before) > HOSTS * AGENTS * 5
    for number, host in enumerate(disaster.new.values(), 1):
        last = AGENTS - 1
        expected = {f"agent-lost-old{number}-{one}": "created" if one == last else "running" for one in range(AGENTS)}
        assert states(host) == expected
        beat = f"cat /var/lib/docker/volumes/agent-lost-old{number}-0-workspace/_data/beat"
        first = host.run(beat).output
        until = time.monotonic() + 60
        while host.run(beat).output == first:
            assert time.monotonic() < until, "the agent does not go on"
        assert "identity" not in host.run("ls /etc/trinity-snap; find / -xdev -name operator.key").output.replace(
            "identity.key", ""
        )
    if HOSTS == 1:
        return  # on one machine tests/fleet/test_restore_fleet.py shows the rest, in less time
    code, again = disaster.fleet("restore", *words, "--containers", "--yes", "--run", answer["run_id"])
    assert code == 0 and {host["changed"] for host in again["hosts"]} == {False}, again
    code, backed = disaster.fleet(
        "backup", "--limit", ",".join(disaster.new), "-e", "trinity_snap_accept_downgraded=true"
    )
    assert code == 0 and all(len(host["answer"]["agents"]) == AGENTS for host in backed["hosts"]), backed
