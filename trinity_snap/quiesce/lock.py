"""One run at a time on a host."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from trinity_snap.durable import make_directory_durably
from trinity_snap.errors import DockerUnavailable, HostBusy, TrinitySnapError

if TYPE_CHECKING:
    from docker import DockerClient

_RUNTIME = Path("/run/trinity-snap")
_RUNS = _RUNTIME / "runs.lock"
_BACKUP = "backup"
_SWEEP_SECONDS = 120.0
_AGAIN_SECONDS = 0.2


class HostLock:
    """The host, held for one run: `with HostLock(state_dir, run_id) as lock: …; lock.hold_daemon(client)`.

    The kernel gives the locks back when the process ends, however it ends. Entering raises HostBusy if another
    run holds the state directory, naming it, and TrinitySnapError if the directory cannot be used. A lock that
    somebody else has is waited for up to `wait_seconds`; not if a backup has it, which undoes what dead runs
    left before anything else.
    """

    def __init__(self, state_dir: Path, run_id: str, what: str = _BACKUP, wait_seconds: float = 0.0) -> None:
        self._path = Path(state_dir) / "lock"
        self._wait_seconds = wait_seconds
        self._runs = -1
        self._holder = {
            "pid": os.getpid(),
            "run_id": run_id,
            "what": what,
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self._descriptors: list[int] = []

    def __enter__(self) -> HostLock:
        self._hold(self._path, "Run as root, and see that `state: directory:` in the policy names a directory.")
        try:
            self._runs = _open(_RUNS, _NO_RUNTIME)
            self._be_counted()
        except BaseException:
            self._release()
            raise
        return self

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether no other run of any policy is alive on this host; if so, none begins until the end of the block.

        For who has made no snapshot yet.
        """
        try:
            fcntl.flock(self._runs, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except BlockingIOError:
            alone = False
        try:
            yield alone
        finally:
            self._be_counted()  # a lock that could not be had takes the weaker one with it: flock(2)

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
        self._hold(_RUNTIME / f"{daemon}.lock", _NO_RUNTIME)

    def _hold(self, path: Path, next_step: str) -> None:
        descriptor = _open(path, next_step)
        until = time.monotonic() + self._wait_seconds
        while not _is_locked(descriptor, fcntl.LOCK_EX):
            holder = _read_holder(descriptor)
            # One of another policy, met at Docker's lock, undoes what its own dead runs left, and not ours.
            undoes_first = path == self._path and holder.get("what") == _BACKUP
            if undoes_first or time.monotonic() >= until:
                os.close(descriptor)
                raise HostBusy(
                    f"Another run holds this host: {_described(holder)}.",
                    untouched="Nothing was changed.",
                    next_step="Wait until it has ended. `trinity-snap status` shows it.",
                    undoes_first=undoes_first,
                )
            time.sleep(_AGAIN_SECONDS)
        self._descriptors.append(descriptor)
        with suppress(
            OSError
        ):  # a full disk: the lock holds without its holder's name, and what makes room needs the lock
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(self._holder).encode() + b"\n", 0)

    def _be_counted(self) -> None:
        """Share the lock of all runs; wait while somebody removes what nobody noted."""
        until = time.monotonic() + _SWEEP_SECONDS
        while not _is_locked(self._runs, fcntl.LOCK_SH):
            if time.monotonic() >= until:
                raise HostBusy(
                    "Another process on this host has been removing snapshots that no run noted for minutes.",
                    untouched="Nothing was changed.",
                    next_step="`fuser /run/trinity-snap/runs.lock` shows it.",
                )
            time.sleep(_AGAIN_SECONDS)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release()

    def _release(self) -> None:
        if self._runs >= 0:
            os.close(self._runs)
            self._runs = -1
        while self._descriptors:
            descriptor = self._descriptors.pop()
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
            os.close(descriptor)


_NO_RUNTIME = "Run as root, and see that /run can be written."


def _open(path: Path, next_step: str) -> int:
    try:
        make_directory_durably(path.parent)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise TrinitySnapError(
            f"The directory {path.parent} cannot be used: {error.strerror}.",
            untouched="Nothing was changed.",
            next_step=next_step,
        ) from error


def _is_locked(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_holder(descriptor: int) -> dict[str, Any]:  # JSON as it was written
    """What the holder says of itself; nothing if it has not yet, and the text is still that of one that died."""
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return holder if Path(f"/proc/{holder['pid']}").exists() else {}
    except (ValueError, KeyError, TypeError):
        return {}


def _described(holder: dict[str, Any]) -> str:
    try:
        return f"{holder['what']} run {holder['run_id']}, process {holder['pid']}, since {holder['since']}"
    except KeyError:
        return "it has not said which"
