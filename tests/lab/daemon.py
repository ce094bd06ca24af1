"""A throw-away Docker daemon with its own data root."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker

from tests.lab.disks import unmount_all_below
from tests.lab.images import BUSYBOX, PYTHON, busybox_rootfs, python_rootfs


@dataclass
class Daemon:
    """A running daemon: its client, its address for `DOCKER_HOST`, and its process."""

    host: str
    data_root: Path
    process: subprocess.Popen[bytes]
    client: docker.DockerClient
    _images: set[str] = field(default_factory=set)

    def image(self, name: str = BUSYBOX) -> str:
        """Make sure that an image is there, and return its name."""
        if name not in self._images:
            with tempfile.TemporaryFile() as file:
                {BUSYBOX: busybox_rootfs, PYTHON: python_rootfs}[name](file)
                file.seek(0)
                pieces = iter(lambda: file.read(1 << 20), b"")
                self.client.api.import_image_from_stream(pieces, repository=name, tag="latest")
            self._images.add(name)
        return name

    def run(self, name: str, command: list[str] | None = None, **options: Any) -> Any:
        """Create and start a container; `volumes=["name:/path"]`, and whatever else docker-py takes."""
        container = self.create(name, command, **options)
        container.start()
        return container

    def create(self, name: str, command: list[str] | None = None, **options: Any) -> Any:
        """Create a container and do not start it."""
        image = self.image(options.pop("image", BUSYBOX))
        options.setdefault("network_mode", "none")
        options.setdefault("stop_signal", "SIGKILL")
        return self.client.containers.create(image, command or ["sleep", "1000000"], name=name, **options)

    def clean(self) -> None:
        """Remove every container and volume."""
        for container in self.client.api.containers(all=True):
            try:
                if container["State"] == "paused":
                    self.client.api.unpause(container["Id"])
                self.client.api.remove_container(container["Id"], force=True, v=True)
            except docker.errors.NotFound:
                pass
        for volume in self.client.volumes.list():
            volume.remove(force=True)

    def paused(self) -> list[str]:
        """The names of all paused containers."""
        found = self.client.api.containers(all=True, filters={"status": "paused"})
        return sorted(each["Names"][0].lstrip("/") for each in found)


@contextmanager
def docker_daemon(data_root: Path, *more: str) -> Iterator[Daemon]:
    """Start dockerd on a data root; stop it and all its containers in the end, and remove what it left."""
    runtime = Path(tempfile.mkdtemp(prefix="snap-lab-", dir="/run"))  # sockets need a short path
    host = f"unix://{runtime}/sock"
    log = open(runtime / "log", "wb")  # noqa: SIM115
    process = subprocess.Popen(
        ["dockerd", "--data-root", str(data_root), "--exec-root", str(runtime / "exec"), "-H", host,
         "-p", str(runtime / "pid"), "--bridge=none", "--iptables=false", "--ip6tables=false", *more],
        stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    daemon: Daemon | None = None
    try:
        daemon = Daemon(host, data_root, process, _connect_when_ready(host, process, runtime / "log"))
        yield daemon
        daemon.clean()
    finally:
        if daemon is not None:
            daemon.client.close()
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()
        unmount_all_below(runtime)
        shutil.rmtree(runtime, ignore_errors=True)


def _connect_when_ready(host: str, process: subprocess.Popen[bytes], log: Path) -> docker.DockerClient:
    until = time.monotonic() + 60
    while True:
        try:
            return docker.DockerClient(base_url=host, max_pool_size=32, timeout=60)
        except docker.errors.DockerException as error:
            if process.poll() is not None or time.monotonic() > until:
                text = log.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"dockerd did not start:\n{text}") from error
            time.sleep(0.05)


def environment(daemon: Daemon, **more: str) -> dict[str, str]:
    """The environment for a command that should talk to this daemon."""
    return {**os.environ, "DOCKER_HOST": daemon.host, **more}
