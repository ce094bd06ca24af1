"""Running the tools of a storage system: with a time limit, in a fixed language, and never cut off where that does harm."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trinity_snap.errors import SnapshotError

QUERY_SECONDS = 60.0
CHANGE_SECONDS = 300.0
_LOCK = Path("/run/trinity-snap-storage.lock")
# LVM's commands close what they inherit, so a shell keeps the lock for as long as they live.
_HOLD = 'trap : TERM; "$@"; exit $?'


def ask(arguments: Sequence[str], failure: str) -> tuple[int, str]:
    """Run a command that changes nothing; its exit code and output. Raise SnapshotError if it takes too long."""
    try:
        done = subprocess.run(
            arguments, capture_output=True, text=True, check=False, errors="surrogateescape",
            stdin=subprocess.DEVNULL, env=_environment(), start_new_session=True, timeout=QUERY_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise SnapshotError(
            f"{failure}: `{arguments[0]}` gave no answer within {QUERY_SECONDS:g} s.",
            next_step="See whether another storage command hangs, and what the kernel log says.",
        ) from error
    return done.returncode, done.stdout if done.returncode == 0 else done.stdout or done.stderr


def change(arguments: Sequence[str], failure: str, next_step: str = "") -> None:
    """Run a command that changes something. Raise SnapshotError, with what it said, if it fails.

    It is never killed: ended between two steps it could leave a volume suspended, and everything on it hanging. One that
    takes too long is asked to stop, and then left alone.
    """
    with _shared_lock() as lock:
        process = subprocess.Popen(
            ["sh", "-c", _HOLD, "sh", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="surrogateescape", env=_environment(), start_new_session=True,
            pass_fds=[lock],
        )  # fmt: skip
    try:
        try:
            said, _ = process.communicate(timeout=CHANGE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGTERM)
            said, _ = process.communicate(timeout=10)
    except subprocess.TimeoutExpired as error:
        raise SnapshotError(
            f"{failure}: `{arguments[0]}` (process {process.pid}) has not ended after {CHANGE_SECONDS:g} s. It was left "
            "running, because ending it midway can leave a volume suspended.",
            next_step="See what it waits for, then run `trinity-snap recover`.",
        ) from error
    if process.returncode:
        reason = " ".join(said.split()) or f"exit code {process.returncode}"
        raise SnapshotError(f"{failure}: {reason.removesuffix('.')}.", next_step=next_step)


def wait_for_changes(seconds: float = QUERY_SECONDS) -> None:
    """Wait until no command that `change` started is under way, also one whose run was killed meanwhile.

    It could otherwise make a snapshot after its leftovers were looked for. Raise SnapshotError if one goes on for too long.
    """
    descriptor = _open_lock()
    until = time.monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    raise SnapshotError(
                        "A storage command of a run that died is still at work, so it is not known what it will leave.",
                        next_step=f"`fuser -v {_LOCK}` shows which; run `trinity-snap recover` when it has ended.",
                    ) from None
                time.sleep(0.05)
    finally:
        os.close(descriptor)


@contextmanager
def _shared_lock() -> Iterator[int]:
    """A lock for a child to inherit: it is held for as long as the child lives, whatever becomes of this process."""
    descriptor = _open_lock()
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield descriptor
    finally:
        os.close(descriptor)


def _open_lock() -> int:
    return os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", "LVM_SUPPRESS_FD_WARNINGS": "1"}
