"""A host that was never touched, on this machine: a Docker daemon of its own, and directories of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab.daemon import Daemon, docker_daemon
from tests.lab.disks import filesystem

ROOT = Path(__file__).resolve().parents[2]
ANSIBLE = Path(sys.executable).with_name("ansible-playbook")


@dataclass(frozen=True)
class Played:
    """What a playbook did: exit code, output, and the statistics of localhost."""

    code: int
    output: str
    stats: dict[str, int]


@dataclass(frozen=True)
class Host:
    """Where everything of the pretended host is."""

    directory: Path
    daemon: Daemon
    collections: Path

    @property
    def command(self) -> Path:
        return self.directory / "bin/trinity-snap"

    @property
    def policy(self) -> Path:
        return self.directory / "etc/policy.yml"

    def variables(self, **more: object) -> dict[str, object]:
        return {
            "trinity_snap_prefix": str(self.directory / "opt"),
            "trinity_snap_link": str(self.command),
            "trinity_snap_policy": str(self.policy),
            "trinity_snap_docker_host": self.daemon.host,
            "trinity_snap_target": str(self.directory / "repository"),
            "trinity_snap_recovery_words_directory": str(self.directory / "words"),
            "trinity_snap_control_cache": str(self.collections.parent / "cache"),
            **more,
        }

    def play(self, name: str, *options: str, **variables: object) -> Played:
        """Run a playbook of the checkout on localhost."""
        environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(self.collections), "ANSIBLE_NOCOLOR": "1"}
        done = subprocess.run(
            [str(ANSIBLE), f"playbooks/{name}.yml", "-i", "localhost,", "-c", "local", *options,
             "-e", json.dumps(self.variables(**variables))],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
        output = done.stdout + done.stderr
        return Played(done.returncode, output, _statistics(output))

    def snap(self, *arguments: str) -> Any:
        """Run the installed command and give its JSON."""
        done = subprocess.run(
            [str(self.command), *arguments, "--json", "--policy", str(self.policy)],
            env={**os.environ, "DOCKER_HOST": self.daemon.host}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return json.loads(done.stdout)


def _statistics(output: str) -> dict[str, int]:
    line = next((line for line in output.splitlines() if line.startswith("localhost ")), "")
    pairs = (word.split("=") for word in line.split(":", 1)[-1].split())
    return {key: int(value) for key, value in pairs}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    if not ANSIBLE.exists() and not shutil.which("ansible-playbook"):
        pytest.skip("needs ansible-core")
    directory = tmp_path_factory.mktemp("fleet")
    place = directory / "collections/ansible_collections/trinity"
    place.mkdir(parents=True)
    (place / "snap").symlink_to(ROOT)
    with filesystem("btrfs", directory / "disk") as disk, docker_daemon(disk / "docker") as daemon:
        yield Host(directory / "host", daemon, directory / "collections")
