"""One run at a time on a host."""

from __future__ import annotations

import fcntl
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from trinity_snap.durable import make_directory_durably
from trinity_snap.errors import HostBusy, TrinitySnapError


class HostLock:
    """The host, held for one run: `with HostLock(state_dir, run_id): …`.

    The kernel gives the lock back when the process ends, however it ends. Entering raises HostBusy if another
    run holds the host, naming it, and TrinitySnapError if the state directory cannot be used.
    """

    def __init__(self, state_dir: Path, run_id: str, what: str = "backup") -> None:
        self._path = Path(state_dir) / "lock"
        self._holder = {
            "pid": os.getpid(),
            "run_id": run_id,
            "what": what,
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._descriptor: int | None = None

    def __enter__(self) -> HostLock:
        try:
            make_directory_durably(self._path.parent)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise TrinitySnapError(
                f"The state directory {self._path.parent} cannot be used: {error.strerror}.",
                untouched="Nothing was changed.",
                next_step="Run as root, and see that `state: directory:` in the policy names a directory.",
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
        self._descriptor = descriptor
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def _read_holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"{holder['what']} run {holder['run_id']}, process {holder['pid']}, since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "it has not said which"
