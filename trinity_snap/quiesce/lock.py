"""One run at a time on a host."""

from __future__ import annotations

import fcntl
import json
import os
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from trinity_snap.durable import make_directory_durably
from trinity_snap.errors import DockerUnavailable, HostBusy, TrinitySnapError

if TYPE_CHECKING:
    from docker import DockerClient

_RUNTIME = Path("/run/trinity-snap")


class HostLock:
    """The host, held for one run: `with HostLock(state_dir, run_id) as lock: …; lock.hold_daemon(client)`.

    The kernel gives the locks back when the process ends, however it ends. Entering raises HostBusy if another
    run holds the state directory, naming it, and TrinitySnapError if the directory cannot be used.
    """

    def __init__(self, state_dir: Path, run_id: str, what: str = "backup") -> None:
        self._path = Path(state_dir) / "lock"
        self._holder = {
            "pid": os.getpid(),
            "run_id": run_id,
            "what": what,
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._descriptors: list[int] = []

    def __enter__(self) -> HostLock:
        self._hold(self._path, "Run as root, and see that `state: directory:` in the policy names a directory.")
        return self

    def hold_daemon(self, client: DockerClient) -> None:
        """Hold the Docker daemon, too, whose containers the run may pause or stop.

        Two policies with state directories of their own must not do that at once. Raise HostBusy, naming who
        holds it, DockerUnavailable, and TrinitySnapError if there is no place for the lock.
        """
        from docker.errors import DockerException

        try:
            told = client.info()
        except (DockerException, OSError) as error:
            raise DockerUnavailable(f"Docker does not say which one it is: {error}.") from error
        # Daemons of one machine may share an id (Docker before 23 keeps it in /etc/docker), but never a data root.
        daemon = sha256(f"{told.get('ID')} {told.get('DockerRootDir')}".encode()).hexdigest()[:32]
        self._hold(_RUNTIME / f"{daemon}.lock", "Run as root, and see that /run can be written.")

    def _hold(self, path: Path, next_step: str) -> None:
        try:
            make_directory_durably(path.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise TrinitySnapError(
                f"The directory {path.parent} cannot be used: {error.strerror}.",
                untouched="Nothing was changed.",
                next_step=next_step,
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read_holder(descriptor)
            os.close(descriptor)
            raise HostBusy(
                f"Another run holds this host: {holder}.",
                untouched="Nothing was changed.",
                next_step="Wait until it has ended. `trinity-snap status` shows it.",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(self._holder).encode() + b"\n", 0)
        self._descriptors.append(descriptor)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while self._descriptors:
            descriptor = self._descriptors.pop()
            os.ftruncate(descriptor, 0)
            os.close(descriptor)


def _read_holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"{holder['what']} run {holder['run_id']}, process {holder['pid']}, since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "it has not said which"
