"""An OpenSSH server of the test's own, on 127.0.0.1, with keys and a known_hosts file of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.faults.ports import free_port, wait_for_port
from trinity_snap.targets import TargetSettings

SSHD = shutil.which("sshd", path=f"/usr/sbin:{os.environ.get('PATH', '')}")

needs_sshd = pytest.mark.skipif(SSHD is None or os.geteuid() != 0, reason="needs root and openssh-server")

_CONFIGURATION = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {home}/host_key
AuthorizedKeysFile {keys}/%u
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 100
Subsystem sftp internal-sftp
"""


@dataclass
class Sshd:
    """The server: where it is, its files (`key` is the private key of its user), and whether it runs."""

    home: Path
    keys: Path
    port: int
    extra: str = ""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @property
    def key(self) -> Path:
        return self.home / "user_key"

    @property
    def known_hosts(self) -> Path:
        return self.home / "known_hosts"

    @property
    def public_key(self) -> str:
        return self.key.with_suffix(".pub").read_text().strip()

    def let_in(self, user: str = "root", options: str = "") -> None:
        """Authorise the key for a user of this machine, with options of an authorized_keys line."""
        path = self.keys / user
        path.write_text(f"{options} {self.public_key}\n".lstrip())
        path.chmod(0o644)

    def settings(self, path: str, *, user: str = "root", port: int | None = None, **more: object) -> TargetSettings:
        return TargetSettings(
            f"sftp://{user}@127.0.0.1:{port or self.port}{path}",
            **({"ssh_key_file": self.key, "known_hosts_file": self.known_hosts} | more),  # type: ignore[arg-type]
        )

    def know(self, *ports: int) -> None:
        """Write down the host key for some ports."""
        key = self.home.joinpath("host_key.pub").read_text().split()[:2]
        self.known_hosts.write_text("".join(f"[127.0.0.1]:{port} {' '.join(key)}\n" for port in ports))

    def start(self, *, configured: bool = False) -> None:
        """Start it; with the configuration that is there, if that is said to be `configured`."""
        with self._lock:
            assert SSHD is not None and self._process is None
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
            if not configured:
                text = _CONFIGURATION.format(port=self.port, home=self.home, keys=self.keys) + self.extra
                (self.home / "sshd_config").write_text(text)
            with open(self.home / "log", "ab") as log:
                command = [SSHD, "-D", "-e", "-f", str(self.home / "sshd_config")]
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, start_new_session=True)
            process = self._process
            wait_for_port(self.port, lambda: process.poll() is None, (self.home / "log").read_text)

    def stop(self) -> None:
        """Kill the server and every connection that it serves."""
        with self._lock:
            if self._process is not None:
                for number in self.connections():
                    with suppress(ProcessLookupError):
                        os.kill(number, signal.SIGKILL)
                self._process.kill()
                self._process.wait()
                self._process = None

    def connections(self) -> list[int]:
        """The processes that serve its connections, the deepest first."""
        assert self._process is not None
        found, waiting = [], [self._process.pid]
        while waiting:
            children = _children(waiting.pop())
            found += children
            waiting += children
        return found[::-1]


def _children(process: int) -> list[int]:
    with suppress(OSError):
        return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return []


@contextmanager
def sshd(home: Path, extra: str = "") -> Iterator[Sshd]:
    """A server that lets root of this machine in with `key`. Further configuration goes last."""
    home.mkdir(exist_ok=True)
    home.chmod(0o755)
    for name in ("host_key", "user_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / name)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    port = free_port()
    with open_to_all() as keys:  # sshd reads them as the user that comes
        server = Sshd(home, keys, port, extra)
        server.let_in()
        server.know(port)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def open_to_all(beneath: str = "/var/tmp") -> Iterator[Path]:
    """A directory that every user may look into, unlike pytest's."""
    path = Path(tempfile.mkdtemp(prefix="trinity-snap-test-", dir=beneath))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)
