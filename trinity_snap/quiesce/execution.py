"""Running one command in a container, with a time limit that holds, and with bounded output."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from trinity_snap.quiesce.processes import session_of

if TYPE_CHECKING:
    from socket import SocketIO

    from docker import DockerClient

_OUTPUT_BYTES = 2000
_LOOK_SECONDS = 0.2
_END_SECONDS = 5.0
_HEADER = 8


class ExecutionFailed(Exception):
    """Docker did not run the command: the container does not run, or does not have what it takes."""


@dataclass(frozen=True)
class Executed:
    """What came of a command: its exit code (None if it had to be killed) and the end of its output."""

    exit_code: int | None
    output: str

    @property
    def timed_out(self) -> bool:
        """Whether it was killed."""
        return self.exit_code is None


def execute(
    client: DockerClient,
    container: str,
    command: Sequence[str],
    *,
    seconds: float,
    environment: Mapping[str, str] | None = None,
    before_start: Callable[[str], None] | None = None,
    called_off: Callable[[], bool] | None = None,
) -> Executed:
    """Run a command in a container (full id) as the container's own user. Raise ExecutionFailed.

    `before_start` gets the id of Docker's exec before anything runs. After `seconds`, or when it is `called_off`, it is
    killed with everything that it started, except what has made a session of its own, as daemons do.
    """
    from docker.errors import DockerException

    try:
        created = client.api.exec_create(container, list(command), environment=dict(environment or {}), stdin=False)
        identity = str(created["Id"])
        if before_start is not None:
            before_start(identity)
        # Over a local socket it is one of Python's own, whatever the stubs say of other roads.
        stream = cast("SocketIO", client.api.exec_start(identity, socket=True))
        try:
            ending = _follow(client, identity, stream.fileno(), time.monotonic() + seconds, called_off)
            if ending.timed_out:
                end_execution(client, container, identity)
            return ending
        finally:
            stream.close()
    except (DockerException, OSError) as error:
        raise ExecutionFailed(str(error)) from error


def end_execution(client: DockerClient, container: str, identity: str) -> None:
    """Kill the processes of an exec, if it still runs. Docker has no request for that. Raise ExecutionFailed."""
    from docker.errors import DockerException, NotFound

    try:
        if _kill(client, container, identity):
            until = time.monotonic() + _END_SECONDS
            while _exit_code(client, identity) is None and time.monotonic() < until:
                time.sleep(0.02)
    except NotFound:
        return  # its container is gone, or was started anew
    except (DockerException, OSError) as error:
        raise ExecutionFailed(str(error)) from error


def _follow(
    client: DockerClient, identity: str, descriptor: int, until: float, called_off: Callable[[], bool] | None
) -> Executed:
    """Listen to a command until it ends, or until it is to be killed."""
    output = _Output()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    is_open = True
    while (left := until - time.monotonic()) > 0 and not (called_off and called_off()):
        if is_open and poll.poll(1000 * min(left, _LOOK_SECONDS)):
            received = os.read(descriptor, 65536)
            output.feed(received)
            is_open = bool(received)
            if is_open:
                continue
        elif not is_open:
            time.sleep(0.02)
        code = _exit_code(client, identity)
        if code is not None:
            return Executed(code, output.text())
    return Executed(None, output.text())


def _exit_code(client: DockerClient, identity: str) -> int | None:
    state = client.api.exec_inspect(identity)
    return None if state["Running"] else state["ExitCode"]


def _kill(client: DockerClient, container: str, identity: str) -> bool:
    """Kill exactly the exec's own process: the number is checked again once it cannot be given to another."""
    pid = int(client.api.exec_inspect(identity).get("Pid") or 0)
    if pid <= 0 or _exit_code(client, identity) is not None:
        return False
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        with suppress(OSError):
            if _is_of(container, pid) and _exit_code(client, identity) is None:
                signal.pidfd_send_signal(process, signal.SIGKILL)
                _kill_session(container, pid)
                return True
        return False
    finally:
        os.close(process)


def _kill_session(container: str, session: int) -> None:
    """Kill what a process that led a session of its own has left in it. The number is not given away while one is left."""
    for name in os.listdir("/proc"):
        with suppress(OSError, ValueError):
            if session_of(int(name)) != session:
                continue
            process = os.pidfd_open(int(name))
            try:
                if session_of(int(name)) == session and _is_of(container, int(name)):
                    signal.pidfd_send_signal(process, signal.SIGKILL)
            finally:
                os.close(process)


def _is_of(container: str, pid: int) -> bool:
    return container in Path(f"/proc/{pid}/cgroup").read_text()


class _Output:
    """The end of what both output streams said, without the headers that Docker puts between."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._header = bytearray()
        self._left = 0

    def feed(self, data: bytes) -> None:
        while data:
            if self._left:
                self._kept += data[: self._left]
                taken = min(self._left, len(data))
                self._left -= taken
            else:
                taken = _HEADER - len(self._header)
                self._header += data[:taken]
                if len(self._header) == _HEADER:
                    self._left = int.from_bytes(self._header[4:], "big")
                    self._header.clear()
            data = data[taken:]
        del self._kept[:-_OUTPUT_BYTES]

    def text(self) -> str:
        words = self._kept.decode(errors="replace").strip()
        return "".join(each if each.isprintable() or each == "\n" else "�" for each in words)
