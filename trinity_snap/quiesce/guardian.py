"""The guardian: a process of its own that lets containers go on when the run that held them cannot.

It is started, and has said that it is ready, before anything is held. It reads lines from the run through
a pipe:

- `hold <seconds>`: the next part begins (hooks, stopping, pausing, letting go); it must be over in that many seconds;
- `goodbye`: everything is undone; the guardian ends.

If the pipe ends without a goodbye, the run is dead; if the time is over, it hangs. Either way the guardian
reads in the run's journal which containers the run paused, and resumes exactly those, all at once; starts
those that the run stopped; and runs the after-hooks that are due. Because a request to pause or to stop may
still be on its way inside Docker when the run dies, it looks again for as long as that can take. It says
`fired` to a run that hangs, and keeps its containers going until that run has ended or said goodbye.

It runs in a session of its own and ignores the signals that end a whole process group.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.quiesce.containers import PauseFailed, resume
from trinity_snap.quiesce.hooks import run_after_hook
from trinity_snap.quiesce.journal import Journal, JournalState, StoppedContainer, read_journal
from trinity_snap.quiesce.undo import give_back

if TYPE_CHECKING:
    from docker import DockerClient

_AGAIN_SECONDS = 0.1
_AFTERMATH_SECONDS = 3.0
_STUBBORN_SECONDS = 300.0
_THREADS = 32


def main(journal_path: str) -> None:
    """Be the guardian of the run whose journal this is; `python -c` in `trinity_snap.quiesce.watch` calls it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("-1000")
    from trinity_snap.agents.client import connect

    client = connect(timeout_seconds=20)
    path = Path(journal_path)
    journal = Journal.reopen(path)
    _say(b"ready\n")
    ending = _wait(None)
    if ending == "goodbye":
        return
    _say(b"fired\n")
    _resume_until_over(client, path, journal, worker_gone=ending == "gone")


def _wait(deadline: float | None) -> str:
    """Read what the run says until it says goodbye, is gone, or the time it named is over."""
    pending = b""
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([0], [], [], left)[0]:
            return "late"
        received = os.read(0, 4096)
        if not received:
            return "gone"
        *lines, pending = (pending + received).split(b"\n")
        for line in lines:
            if line == b"goodbye":
                return "goodbye"
            word, _, seconds = line.partition(b" ")
            if word == b"hold":
                deadline = time.monotonic() + float(seconds)


def _resume_until_over(client: DockerClient, path: Path, journal: Journal, *, worker_gone: bool) -> None:
    """Resume what the run holds, and again what it manages to hold meanwhile, until the run is gone and all is quiet."""
    state = read_journal(path)
    ours = list(state.held)
    stubborn_until = time.monotonic() + _STUBBORN_SECONDS
    quiet_until = time.monotonic() + _AFTERMATH_SECONDS
    noted: set[str] = set()
    with ThreadPoolExecutor(_THREADS) as pool, _AfterHooks(client, journal) as hooks:
        while True:
            failed = False
            for container, answer in zip(ours, pool.map(lambda each: _try_resume(client, each), ours), strict=True):
                if answer == "failed":
                    failed = True
                elif container not in noted:
                    noted.add(container)
                    journal.resumed(container, "guardian")
            answers = list(pool.map(lambda each: _try_give_back(client, journal, each), state.stopped))
            hooks.begin(state)
            if worker_gone and read_journal(path).ended:
                return  # somebody has recovered the run, and the next one may pause the same containers
            now = time.monotonic()
            is_quiet = now > quiet_until and "waiting" not in answers and hooks.are_over()
            if now > stubborn_until or (worker_gone and not failed and "failed" not in answers and is_quiet):
                return
            if worker_gone:
                time.sleep(_AGAIN_SECONDS)
            elif (ending := _wait(now + _AGAIN_SECONDS)) == "goodbye":
                return
            elif ending == "gone":
                worker_gone, quiet_until = True, time.monotonic() + _AFTERMATH_SECONDS
                ours = sorted({*ours, *read_journal(path).held})
            state = read_journal(path)


class _AfterHooks:
    """The after-hooks that a run left to do, in threads, so that a slow one does not keep containers from being resumed."""

    def __init__(self, client: DockerClient, journal: Journal) -> None:
        self._client = client
        self._journal = journal
        self._pool = ThreadPoolExecutor(_THREADS)
        self._begun: dict[str, Future[str | None]] = {}

    def __enter__(self) -> _AfterHooks:
        return self

    def __exit__(self, *ignored: object) -> None:
        self._pool.shutdown()

    def begin(self, state: JournalState) -> None:
        """Run what is open; again if the container did not run when its turn came."""
        for hook in state.hooks:
            begun = self._begun.get(hook.container)
            if begun is None or (begun.done() and begun.exception() is None and begun.result() is None):
                self._begun[hook.container] = self._pool.submit(
                    run_after_hook, self._client, self._journal, hook, "aborted", "guardian"
                )

    def are_over(self) -> bool:
        """Whether none runs."""
        return all(begun.done() for begun in self._begun.values())


def _try_give_back(client: DockerClient, journal: Journal, stopped: StoppedContainer) -> str:
    try:
        return give_back(client, journal, stopped, "guardian")
    except PauseFailed:
        return "failed"


def _try_resume(client: DockerClient, container: str) -> str:
    try:
        return resume(client, container)
    except PauseFailed:
        return "failed"


def _say(words: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        os.write(1, words)


if __name__ == "__main__":
    main(sys.argv[1])
