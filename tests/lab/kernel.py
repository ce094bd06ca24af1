"""User Mode Linux as Debian packages it: whether it is here, and what it needs to start on this processor."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

KERNEL = "linux.uml"
MODULES = Path("/usr/lib/uml/modules")
_RUNS = b"as init process"
_TRIAL_SECONDS = 60.0
_SHIM = Path(__file__).with_name("wide_registers.c")


def missing() -> str:
    """Why this machine cannot start one; empty if it can."""
    if os.geteuid() != 0:
        return "the lab needs root"
    if shutil.which(KERNEL) is None or not MODULES.is_dir():
        return "there is no User Mode Linux here (Debian's package user-mode-linux; Ubuntu has none)"
    absent = [tool for tool in ("modprobe", "lvcreate", "thin_check") if _which(tool) is None]
    if absent:
        return f"the lab needs {', '.join(absent)} (kmod, lvm2, thin-provisioning-tools)"
    if _is_wide() and shutil.which("cc") is None:
        return "on a processor with AMX the lab needs a C compiler (gcc)"
    return _trial()


@cache
def _trial() -> str:
    """Why the kernel does not come up on this machine, by starting it once; empty if it does."""
    with tempfile.TemporaryDirectory(prefix="uml-") as home:
        directory = Path(home)
        console = directory / "console"
        with open(console, "wb") as output:
            process = subprocess.Popen(
                ["unshare", "--pid", "--fork", "--kill-child", KERNEL, "mem=64M", "rootfstype=hostfs", "rootflags=/", "ro",
                 "init=/bin/true", "panic=1", f"uml_dir={directory}/", "umid=trial", "con=null", "con0=null,fd:1", "ssl=null"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=environment(directory),
            )  # fmt: skip
            until = time.monotonic() + _TRIAL_SECONDS
            # The kernel goes down with its first program; that it got so far is all there is to know.
            while process.poll() is None and time.monotonic() < until and _RUNS not in console.read_bytes():
                time.sleep(0.05)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said = console.read_bytes()
    if _RUNS in said:
        return ""
    last = said.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    return f"User Mode Linux does not come up on this machine: {last[0]}"


def environment(directory: Path) -> dict[str, str]:
    """The environment in which the kernel is to be started. What must be built for it goes into `directory`.

    The kernel of the host takes a process's extended registers whole or not at all, and User Mode Linux 6.1 knows only 2,696
    bytes of them, which is short of what a processor with AMX has: a preloaded function fills the rest.
    """
    if not _is_wide():
        return dict(os.environ)
    library = directory / "wide_registers.so"
    if not library.exists():
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-nostdlib", "-o", str(library), str(_SHIM)], check=True)
    return {**os.environ, "LD_PRELOAD": str(library)}


def _which(tool: str) -> str | None:
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _is_wide() -> bool:
    return " amx_tile" in Path("/proc/cpuinfo").read_text()
