"""A host with agents on it, whose volumes are on several filesystems, and with trinity-snap installed by its role."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab.hosts.lab import Lab
from tests.lab.hosts.machine import Host
from tests.lab.images import BUSYBOX

takes_minutes = pytest.mark.skipif(
    "TRINITY_SNAP_LONG_TESTS" not in os.environ, reason="takes minutes; TRINITY_SNAP_LONG_TESTS=1 runs it"
)
CHECKOUT = Path(__file__).resolve().parents[3]
ANSIBLE = Path(sys.executable).with_name("ansible-playbook")
DISKS = (1 << 30, 1 << 30, 2 << 30)
PROVIDERS = {
    "one": "btrfs",
    "two": "precopy",
    "three": "lvm-thin",
    "four": "lvm",
    "paused": "btrfs",
    "stopped": "btrfs",
}
RUNNING = ("agent-one", "agent-two", "agent-three", "agent-four")
SLOW = ("three", "four")
DONE = (0, 12)
"""The exit codes of a run that made a point of every agent; on a busy machine the pause may take longer than its budget."""

# Docker's volumes are on btrfs, but agent-two's on ext4, agent-three's on xfs on a thin LV, agent-four's on ext4 on a thick LV.
_STORAGE = """
set -e
systemctl stop docker.socket docker
vgcreate -q lab /dev/ubdd
lvcreate -q --type thin-pool --size 600M --name pool lab
lvcreate -q --thin --virtualsize 400M --name thin lab/pool
lvcreate -q --size 200M --name thick lab
mkfs.btrfs -q /dev/ubdb
mkfs.ext4 -q /dev/ubdc
mkfs.xfs -q /dev/lab/thin
mkfs.ext4 -q /dev/lab/thick
volumes=/var/lib/docker/volumes
cat >/etc/fstab <<END
/dev/ubdb $volumes btrfs defaults 0 0
/dev/ubdc $volumes/agent-two-workspace ext4 defaults 0 0
/dev/lab/thin $volumes/agent-three-workspace xfs defaults 0 0
/dev/lab/thick $volumes/agent-four-workspace ext4 defaults 0 0
END
systemctl daemon-reload
mount $volumes
for name in two three four; do
  mkdir $volumes/agent-$name-workspace
  mount $volumes/agent-$name-workspace
  mkdir $volumes/agent-$name-workspace/_data
done
systemctl start docker
"""
_WRITE = """
cd /home/developer
[ -e data ] || dd if=/dev/urandom of=data bs=1M count=3
while :; do i=$((i+1)); echo $i >count; echo $i >>log; sleep 0.5; done
"""


@dataclass(frozen=True)
class Played:
    """A playbook that has ended: its exit code, its output, and how many tasks changed something."""

    code: int
    output: str
    changed: int


@dataclass(frozen=True)
class Aftermath:
    """What `on_host` found: what runs left, containers and their states, ids of points, and of a killed run how it ended."""

    left: list[str]
    states: dict[str, str]
    points: frozenset[str]
    held: float = 0.0
    result: str = ""

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Aftermath:
        """From its JSON."""
        return cls(**{**answer, "points": frozenset(answer["points"])})


@dataclass(frozen=True)
class AgentHost:
    """The host, and what one does with it."""

    lab: Lab
    host: Host

    def furnish(self) -> None:
        """Make the filesystems and the agents: one that runs on each, one that is paused, one that is stopped."""
        self.host.run(_STORAGE)
        commands = ["set -e"]
        for name in (*RUNNING, "agent-paused", "agent-stopped"):
            commands.append(
                f"docker run --detach --name {name} --network none --restart unless-stopped --stop-signal KILL"
                f" --volume {name}-workspace:/home/developer {BUSYBOX} sh -c '{_WRITE}'"
            )
        commands += ["docker pause agent-paused", "docker stop --time 1 agent-stopped"]
        self.host.run("\n".join(commands))
        self.host.put(Path(__file__).with_name("on_host.py"), "/usr/local/lib")

    def play(self, name: str, *options: str, **variables: object) -> Played:
        """Run a playbook of the checkout against the host, over SSH."""
        scratch = self.lab.directory
        inventory = scratch / "inventory.json"
        inventory.write_text(json.dumps(self.lab.inventory()))
        place = scratch / "ansible_collections/trinity"
        place.mkdir(parents=True, exist_ok=True)
        if not (place / "snap").is_symlink():
            (place / "snap").symlink_to(CHECKOUT)
        given = {"trinity_snap_recovery_words_directory": str(scratch / "words"), **variables}
        done = subprocess.run(
            [str(ANSIBLE), f"playbooks/{name}.yml", "-i", str(inventory), *options, "-e", json.dumps(given)],
            cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=600,
            env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(scratch), "ANSIBLE_NOCOLOR": "1"},
        )  # fmt: skip
        output = done.stdout + done.stderr
        recap = next((line for line in output.splitlines() if line.startswith(f"{self.host.name} ")), "changed=-1")
        return Played(done.returncode, output, int(recap.partition("changed=")[2].split()[0]))

    def snap(self, *arguments: str, code: int | None = 0) -> dict[str, Any]:
        """Run the installed command. Return what it printed; require that exit code (None: any)."""
        done = self.host.run(f"trinity-snap {' '.join(arguments)} --json", check=False)
        assert code is None or done.code == code, (done.code, done.output, done.errors)
        answer = json.loads(done.output)
        assert isinstance(answer, dict)
        return answer

    def ask(self, *words: str) -> Any:
        """Have `on_host` do something."""
        return json.loads(self.host.run(f"python3 /usr/local/lib/on_host.py {' '.join(words)}").output)

    def boot_after_power_cut(self) -> None:
        """Switch the host on again. What an operator had paused runs then, so it is paused anew."""
        self.host.boot()
        self.host.run("docker pause agent-paused")

    def choose(self, *left_out: str, **modes: str) -> None:
        """Write a policy that leaves these agents out, and holds some in other modes than `pause`.

        LVM's commands take long here, so most tests do without.
        """
        policy = {
            "target": "/var/backups/trinity-snap",
            "quiesce": {"budget_seconds": 15},
            "agents": {"exclude": list(left_out)},
            "overrides": {agent: {"quiesce": {"mode": mode}} for agent, mode in modes.items()},
        }
        self.host.run("cat >/etc/trinity-snap/policy.yml", given=json.dumps(policy).encode())

    def back_up(self) -> int:
        """A run by way of the unit. Return its exit code."""
        asked = "systemctl show --property ExecMainStatus --value trinity-snap-backup"
        return int(self.host.run(f"systemctl start trinity-snap-backup; {asked}").output)

    def aftermath(self) -> Aftermath:
        """How the host is now."""
        return Aftermath.of(self.ask("aftermath"))

    def kill(self, step: str, victim: str) -> Aftermath:
        """Start a run, kill it at a step as `on_host` can, and wait until systemd is done with it."""
        return Aftermath.of(self.ask("kill", step, victim))

    def journal(self, unit: str = "trinity-snap-backup") -> str:
        """The end of what a unit said."""
        return self.host.run(f"journalctl --no-pager -n 40 -u {unit}", check=False).output
