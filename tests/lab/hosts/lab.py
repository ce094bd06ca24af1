"""Several hosts on one network, kept in one directory: up with one call, down with one."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.hosts.image import image
from tests.lab.hosts.machine import Host
from tests.lab.hosts.network import Network, make_network
from tests.lab.images import BUSYBOX, busybox_rootfs

_FIRST = 11


@dataclass(frozen=True)
class Lab:
    """The hosts that were made in a directory."""

    directory: Path
    network: Network
    hosts: tuple[Host, ...]

    @classmethod
    def up(
        cls,
        directory: Path,
        names: Sequence[str] = ("host1",),
        *,
        memory_megabytes: int = 1024,
        disks: Sequence[int] = (),
        dies_with_parent: bool = False,
    ) -> Lab:
        """Make hosts of these names, each with empty disks of these sizes, and boot them.

        Return when all are up, with Docker running and the image `lab-busybox` in it. `dies_with_parent` pulls the
        plug of all when the calling process dies.
        """
        base = image()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = directory / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(key)], check=True)
        network = make_network()
        hosts = tuple(
            Host(directory / name, name, network.address(index), network.tap(index), key, base,
                 memory_megabytes, tuple(disks), dies_with_parent)
            for index, name in enumerate(names, _FIRST)
        )  # fmt: skip
        lab = cls(directory, network, hosts)
        try:
            lab._note()
            for index, host in enumerate(hosts, _FIRST):
                network.add_tap(index)
                host.directory.mkdir()
                host.make()
                host.start()
            for host in hosts:
                host.wait_until_up()
                import_busybox(host)
        except BaseException:
            lab.down()
            raise
        return lab

    @classmethod
    def load(cls, directory: Path) -> Lab:
        """The lab in a directory. Raise FileNotFoundError if there is none."""
        noted = json.loads((directory / "lab.json").read_text())
        hosts = tuple(
            Host(
                directory / each["name"], each["name"], each["address"], each["tap"], directory / "key",
                Path(noted["image"]), each["memory_megabytes"], tuple(each["disks"]),
            )
            for each in noted["hosts"]
        )  # fmt: skip
        return cls(directory, Network(noted["network"]), hosts)

    def host(self, name: str) -> Host:
        """The host of a name. Raise KeyError."""
        return {host.name: host for host in self.hosts}[name]

    def inventory(self) -> dict[str, object]:
        """An Ansible inventory of the hosts."""
        hosts = {
            host.name: {
                "ansible_host": host.address,
                "ansible_user": "root",
                "ansible_ssh_common_args": shlex.join(host.ssh_options()),
            }
            for host in self.hosts
        }
        return {"all": {"hosts": hosts}}

    def down(self) -> None:
        """Switch all hosts off, and remove everything that `up` made."""
        for host in self.hosts:
            host.power_cut()
        self.network.remove([host.tap for host in self.hosts])
        for host in self.hosts:
            shutil.rmtree(host.directory, ignore_errors=True)
        for name in ("key", "key.pub", "lab.json"):
            (self.directory / name).unlink(missing_ok=True)

    def _note(self) -> None:
        hosts = [
            {"name": host.name, "address": host.address, "tap": host.tap, "disks": list(host.disks),
             "memory_megabytes": host.memory_megabytes}
            for host in self.hosts
        ]  # fmt: skip
        noted = {"network": self.network.number, "image": str(self.hosts[0].image), "hosts": hosts}
        (self.directory / "lab.json").write_text(json.dumps(noted, indent=2))


def import_busybox(host: Host) -> None:
    """Give a host's Docker the image `lab-busybox`; there is no registry that it could get one from."""
    with tempfile.TemporaryFile() as file:
        busybox_rootfs(file)
        file.seek(0)
        host.run(
            f"docker image inspect {BUSYBOX} >/dev/null 2>&1 || docker import - {BUSYBOX}:latest", given=file.read()
        )
