"""The run's side of the guardian: starting it, talking to it, noticing its death."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

from trinity_snap.errors import SnapshotError

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from trinity_snap.quiesce.guardian import main; main(sys.argv[1])"
)
_READY_SECONDS = 30.0
_GOODBYE_SECONDS = 5.0


class GuardianLost(Exception):
    """The guardian ended although nobody said goodbye to it."""


class Guardian:
    """A running guardian that has said that it is ready. `start` makes one."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._to = process.stdin
        self._from = process.stdout
        self._heard = b""
        self._is_over = False

    @classmethod
    def start(cls, journal_path: Path) -> Guardian:
        """Start the guardian for the run of this journal. Raise SnapshotError if it does not get ready."""
        # The same modules as here, and none that happen to lie in the working directory.
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, os.fspath(journal_path), json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
            cwd="/",
        )
        guardian = cls(process)
        until = time.monotonic() + _READY_SECONDS
        while b"ready\n" not in guardian._heard:
            if time.monotonic() > until or not guardian._listen(until - time.monotonic()):
                reason = guardian._why()
                guardian.abandon()
                raise SnapshotError(
                    f"The guardian process, which resumes agents in an emergency, did not start{reason}.",
                    untouched="No container was paused.",
                    next_step="Run again; if it happens again, look for what ends new processes on this host.",
                )
        return guardian

    @property
    def pid(self) -> int:
        """The number of the guardian's process."""
        return self._process.pid

    def hold(self, seconds: float) -> None:
        """Tell it that pausing begins, and when that must be over at the latest. Raise GuardianLost."""
        self.check()
        self._tell(f"hold {seconds}\n".encode())

    def check(self) -> bool:
        """Whether it has taken over because the time was over. Raise GuardianLost if it is dead."""
        while self._listen(0.0):
            pass
        if (self._is_over or self._process.poll() is not None) and b"fired" not in self._heard:
            raise GuardianLost(self._why())
        return b"fired" in self._heard

    def fileno(self) -> int:
        """For `select`: readable when `check` may have something to say."""
        return self._from.fileno()

    def goodbye(self) -> None:
        """Tell it that everything is resumed, and wait for its end."""
        with contextlib.suppress(GuardianLost):
            self._tell(b"goodbye\n")
        self._close()
        try:
            self._process.wait(_GOODBYE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def abandon(self) -> None:
        """Leave it without a goodbye: it resumes what the journal says is held, in its own time."""
        self._close()

    def _tell(self, words: bytes) -> None:
        try:
            self._to.write(words)
        except OSError as error:
            raise GuardianLost(self._why()) from error

    def _listen(self, seconds: float) -> bool:
        if not select.select([self._from], [], [], max(0.0, seconds))[0]:
            return False
        received = os.read(self._from.fileno(), 4096)
        self._heard += received
        self._is_over = not received
        return bool(received)

    def _why(self) -> str:
        """What it said on its way out, for an error message."""
        if self._is_over:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
        if self._process.poll() is None or self._process.stderr is None:
            return ""
        lines = self._process.stderr.read().decode(errors="replace").strip().splitlines()
        return f" ({lines[-1]})" if lines else f" (exit code {self._process.returncode})"

    def _close(self) -> None:
        for stream in (self._to, self._from, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
