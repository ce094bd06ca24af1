"""Starting and ending the quick lab's kernel."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.lab.kernel import KERNEL, environment

CHECKOUT = Path(__file__).resolve().parents[3]
GUEST = "TRINITY_SNAP_QUICK_LAB"
DISKS = 6
_DISK_BYTES = 2 << 30
_PREFIX = "snap-quick-"
_INIT = Path(__file__).with_name("init.sh")


class Guest:
    """A kernel that runs one command. `directory` is seen by both sides, in there as `inside`.

    It is in a process namespace of its own: its many processes end with it, and it ends with the process that started it.
    """

    inside = Path("/run/quick")

    def __init__(self) -> None:
        for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):  # of tests that were killed
            if not Path(f"/proc/{left.name.split('-')[2]}").exists():
                shutil.rmtree(left, ignore_errors=True)
        self.directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str], memory: str = "1G") -> None:
        """Boot and run the command, from the checkout; what it prints goes to the file `output`."""
        disks = [self.directory / f"disk{number}" for number in range(DISKS)]
        for disk in disks:
            with open(disk, "wb") as file:
                file.truncate(_DISK_BYTES)
        self.directory.joinpath("command").write_bytes(b"".join(os.fsencode(word) + b"\0" for word in command))
        with open(self.directory / "console", "wb") as console:
            self._process = subprocess.Popen(
                ["unshare", "--pid", "--fork", "--kill-child", KERNEL, f"mem={memory}",
                 "rootfstype=hostfs", "rootflags=/", "ro", f"init={_INIT}", f"quick_directory={self.directory}",
                 f"quick_checkout={CHECKOUT}", f"uml_dir={self.directory}/", "umid=quick", "con=null", "con0=null,fd:1",
                 "ssl=null", "panic=1", *(f"ubd{number}={disk}" for number, disk in enumerate(disks))],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
                env=environment(self.directory), preexec_fn=_die_with_parent,
            )  # fmt: skip

    @property
    def running(self) -> bool:
        """Whether the kernel is there."""
        return self._process is not None and self._process.poll() is None

    def wait(self, seconds: float) -> int | None:
        """The command's exit code, or None if the kernel went down without one, or did not go down in time."""
        assert self._process is not None
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        status = self.directory / "status"
        return int(status.read_text()) if status.exists() and status.read_text().strip() else None

    def tail(self) -> str:
        """The last of what was printed in there: by the kernel, and by the command."""
        parts = []
        for name in ("console", "output"):
            path = self.directory / name
            if path.exists():
                parts.append(f"--- {name}\n{path.read_text(errors='replace')[-6000:]}")
        return "\n".join(parts)

    def close(self) -> None:
        """End the kernel, whatever it does, and remove everything of it."""
        if self._process is not None:
            if self.running:
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: whatever ends the tests ends the kernel
