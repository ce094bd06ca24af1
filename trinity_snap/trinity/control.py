"""Driving the host's `trinity-snap` from Trinity's backend: one command, its JSON, and jobs that take longer than a request.

The backend runs in a container and the command on the host as root: `TRINITY_SNAP_COMMAND` says how to get there, such as
`ssh backup@host.docker.internal sudo trinity-snap`. Arguments come from requests: they are never seen by a local shell, and
quoted for the remote one of `ssh`.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

__all__ = ["CommandFailed", "Control", "Job", "control_of_environment"]

_ASK_SECONDS = 120.0
_JOBS_KEPT = 100
_JOBS_WAITING = 10


class CommandFailed(Exception):
    """The command ended with `exit_code` (-1: it gave no answer at all); `message` is what it said, for people."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.message = message


@dataclass
class Job:
    """A command that goes on by itself. `state`: `waiting`, `running`, `done` or `failed`; `answer` is its JSON."""

    id: str
    kind: str
    arguments: tuple[str, ...]
    asked: str
    state: str = "waiting"
    exit_code: int | None = None
    answer: dict[str, Any] | None = None  # the command's JSON
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As the routes show it."""
        return {
            "id": self.id,
            "kind": self.kind,
            "asked": self.asked,
            "state": self.state,
            "exit_code": self.exit_code,
            "answer": self.answer,
            "error": self.error,
        }


@dataclass
class Control:
    """Runs the command that `prefix` begins. Jobs are done one after the other, as the host does one at a time anyway."""

    prefix: Sequence[str] = ("trinity-snap",)
    _jobs: OrderedDict[str, Job] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="trinity-snap"))

    def ask(self, arguments: Sequence[str], good: Sequence[int] = (0,)) -> dict[str, Any]:
        """The JSON that the command answers with. Raise CommandFailed for other exit codes than the good ones."""
        code, answer = self._run(arguments, _ASK_SECONDS)
        if code not in good:
            raise CommandFailed(code, _sentences(answer))
        return answer

    def start(self, kind: str, arguments: Sequence[str]) -> Job:
        """Begin a job. Raise CommandFailed if too many wait already."""
        job = Job(os.urandom(16).hex(), kind, tuple(arguments), datetime.now(UTC).isoformat())
        with self._lock:
            if sum(each.state in ("waiting", "running") for each in self._jobs.values()) >= _JOBS_WAITING:
                raise CommandFailed(3, "Too many runs and restores are waiting already. Nothing was begun.")
            self._jobs[job.id] = job
            while len(self._jobs) > _JOBS_KEPT:
                self._jobs.popitem(last=False)
        self._pool.submit(self._carry_out, job)
        return job

    def jobs(self, kind: str) -> list[Job]:
        """The jobs of that kind, the newest first; those of an earlier life of the backend are not known."""
        with self._lock:
            return [job for job in reversed(self._jobs.values()) if job.kind == kind]

    def _carry_out(self, job: Job) -> None:
        job.state = "running"
        try:
            job.exit_code, job.answer = self._run(job.arguments, None)
        except CommandFailed as error:
            job.error, job.state = error.message, "failed"
            return
        if job.exit_code != 0:
            job.error = _sentences(job.answer)
        job.state = "done" if job.exit_code in (0, 10, 12) else "failed"

    def _run(self, arguments: Sequence[str], seconds: float | None) -> tuple[int, dict[str, Any]]:
        command = [*self.prefix, *self._quoted([arguments[0], "--json", "--quiet", *arguments[1:]])]
        if arguments[0] == "policy":
            command = [*self.prefix, *self._quoted([*arguments[:2], "--json", "--quiet", *arguments[2:]])]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False, text=True
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CommandFailed(-1, f"The host's trinity-snap could not be run: {error}.") from error
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1][:300]
            raise CommandFailed(
                -1, f"The host's trinity-snap gave no answer (exit code {done.returncode}); it said: {said}"
            )
        return done.returncode, answer

    def _quoted(self, arguments: Sequence[str]) -> list[str]:
        remote = PurePath(self.prefix[0]).name == "ssh"
        return [shlex.quote(each) for each in arguments] if remote else list(arguments)


def control_of_environment() -> Control:
    """By `TRINITY_SNAP_COMMAND`, else `trinity-snap` as it is found."""
    return Control(tuple(shlex.split(os.environ.get("TRINITY_SNAP_COMMAND", "trinity-snap"))))


def _sentences(answer: dict[str, Any] | None) -> str:
    if not answer:
        return "It failed."
    error = answer.get("error") if isinstance(answer.get("error"), dict) else answer
    assert isinstance(error, dict)
    parts = [str(error.get(key) or "") for key in ("message", "untouched", "next_step")]
    return " ".join(part for part in parts if part) or "It failed; its answer says more."
