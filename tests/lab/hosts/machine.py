"""One host of a lab: a process of User Mode Linux with its disks, reached over SSH."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.lab.kernel import KERNEL, environment
from trinity_snap.quiesce.processes import ProcessIdentity, identify

_BOOT_SECONDS = 300.0
_COMMAND_SECONDS = 300.0
_OFF_SECONDS = 90.0
_NETWORK = """[Match]
Name=vec0

[Network]
Address={address}/24
LinkLocalAddressing=no
IPv6AcceptRA=no
"""

_started: dict[int, subprocess.Popen[bytes]] = {}
_watchers: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True)
class Finished:
    """A command that has ended on a host."""

    code: int
    output: str
    errors: str


class CommandFailed(Exception):
    """A command on a host did not end with 0."""


@dataclass(frozen=True)
class Host:
    """A host. `directory` has everything of it; `disks` are the sizes in bytes of /dev/ubdb, /dev/ubdc, …."""

    directory: Path
    name: str
    address: str
    tap: str
    key: Path
    image: Path
    memory_megabytes: int = 1024
    disks: tuple[int, ...] = ()
    dies_with_parent: bool = False

    # -- on and off -------------------------------------------------------------------------------------------------

    def make(self) -> None:
        """Make the disks, and what the host takes over at each start."""
        seed = self.directory / "seed"
        files = {
            "etc/hostname": f"{self.name}\n",
            "etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n",
            "etc/systemd/network/10-lab.network": _NETWORK.format(address=self.address),
            "root/.ssh/authorized_keys": self.key.with_suffix(".pub").read_text(),
        }
        for name, content in files.items():
            path = seed / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            path.chmod(0o644)
            for above in path.parents:
                above.chmod(0o755)
                if above == seed:
                    break
        for private in (seed / "root", seed / "root/.ssh"):
            private.chmod(0o700)
        for number, size in enumerate(self.disks, 1):
            with open(self._disk(number), "wb") as disk:
                disk.truncate(size)

    def start(self) -> None:
        """Switch it on, and do not wait."""
        if self.is_on:
            return
        command = [
            KERNEL, f"mem={self.memory_megabytes}M",
            f"ubd0={self.directory / 'root.cow'},{self.image}",
            *(f"ubd{number}={self._disk(number)}" for number in range(1, len(self.disks) + 1)),
            "root=/dev/ubda", "rw", f"vec0:transport=tap,ifname={self.tap},depth=64,gro=1",
            "con=null", "con0=null,fd:1", "ssl=null", f"umid={self.name}", f"uml_dir={self.directory}/",
            f"systemd.machine_id={self._machine_id()}", f"lab.seed={self.directory / 'seed'}", "random.trust_cpu=on",
        ]  # fmt: skip
        with open(self.directory / "console", "ab") as console:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
                env=environment(self.directory),
            )  # fmt: skip
        _started[process.pid] = process
        if self.dies_with_parent:
            # It reads the end of a pipe that closes when this process is gone, however it went.
            watch = f"read -r _; kill -KILL -{process.pid}"
            _watchers[process.pid] = subprocess.Popen(
                ["sh", "-c", watch], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
            )
        self._process_file.write_text(json.dumps(asdict(identify(process.pid))))

    def wait_until_up(self, seconds: float = _BOOT_SECONDS) -> None:
        """Wait until systemd says that it runs, all units included. Raise RuntimeError with the console's end if it does not."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.is_on:
            asked = self.run("systemctl is-system-running --wait", check=False, seconds=until - time.monotonic())
            if asked.output.strip() in ("running", "degraded"):
                return
            time.sleep(0.2)
        console = (self.directory / "console").read_text(errors="replace")[-3000:]
        raise RuntimeError(f"{self.name} did not come up:\n{console}")

    def boot(self) -> None:
        """Switch it on, and wait until it is up; nothing happens if it is on."""
        if not self.is_on:
            self.start()
            self.wait_until_up()

    def power_cut(self) -> None:
        """End the machine as if its plug had been pulled."""
        process = self._process()
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        self._wait_until_off(process)

    def power_off(self) -> None:
        """Shut it down in order; pull the plug if that takes too long."""
        process = self._process()
        if process is None:
            return
        self.run("systemctl poweroff", check=False, seconds=30)
        try:
            self._wait_until_off(process)
        except TimeoutError:
            self.power_cut()

    @property
    def is_on(self) -> bool:
        """Whether it is switched on."""
        return self._process() is not None

    # -- what one does on it ----------------------------------------------------------------------------------------

    def run(
        self, command: str, *, check: bool = True, seconds: float = _COMMAND_SECONDS, given: bytes | None = None
    ) -> Finished:
        """Run a shell command as root, with `given` as its input. Raise CommandFailed unless it ends with 0 (`check`)."""
        try:
            done = subprocess.run(
                [*self.ssh(), command], input=given or b"", capture_output=True, timeout=max(seconds, 1), check=False
            )
            finished = Finished(done.returncode, _text(done.stdout), _text(done.stderr))
        except subprocess.TimeoutExpired:
            finished = Finished(-1, "", f"It had not ended after {seconds:.0f} s.")
        if check and finished.code != 0:
            raise CommandFailed(f"{self.name}: {command}: {finished.code}\n{finished.output}{finished.errors}")
        return finished

    def put(self, source: Path, destination: str) -> None:
        """Copy a file, or what is in a directory, into a directory of the host."""
        directory, name = (source, ".") if source.is_dir() else (source.parent, source.name)
        packed = subprocess.run(["tar", "-C", str(directory), "-c", name], check=True, capture_output=True).stdout
        place = shlex.quote(destination)
        self.run(f"mkdir -p {place} && tar -x --no-same-owner -C {place}", given=packed)

    def ssh(self) -> list[str]:
        """The command that a command for the host is appended to."""
        return ["ssh", *self.ssh_options(), f"root@{self.address}"]

    def ssh_options(self) -> list[str]:
        """What ssh needs for this host, and Ansible too."""
        options = (
            "BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR",
            "ConnectTimeout=10", "ServerAliveInterval=10", "ServerAliveCountMax=6", "IdentitiesOnly=yes",
        )  # fmt: skip
        return ["-F", "none", "-i", str(self.key), *(word for option in options for word in ("-o", option))]

    # -- inside -----------------------------------------------------------------------------------------------------

    def _disk(self, number: int) -> Path:
        return self.directory / f"disk{number}.img"

    def _machine_id(self) -> str:
        path = self.directory / "machine-id"
        if not path.exists():
            path.write_text(os.urandom(16).hex())
        return path.read_text()

    @property
    def _process_file(self) -> Path:
        return self.directory / "process.json"

    def _process(self) -> ProcessIdentity | None:
        try:
            process = ProcessIdentity(**json.loads(self._process_file.read_text()))
        except (OSError, ValueError):
            return None
        return process if process.is_alive() else None

    def _wait_until_off(self, process: ProcessIdentity) -> None:
        until = time.monotonic() + _OFF_SECONDS
        while process.is_alive():
            if time.monotonic() > until:
                raise TimeoutError(f"{self.name} is still on.")
            time.sleep(0.02)
        if child := _started.pop(process.pid, None):
            child.wait()
        if watcher := _watchers.pop(process.pid, None):
            watcher.kill()
            watcher.communicate()
        self._process_file.unlink(missing_ok=True)
        shutil.rmtree(self.directory / self.name, ignore_errors=True)  # the kernel's own notes about its process


def _text(output: bytes) -> str:
    return output.decode(errors="replace")
