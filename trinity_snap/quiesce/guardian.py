"""The guardian: a process of its own that resumes containers when the run that paused them cannot.

It is started, and has said that it is ready, before anything is paused. It reads lines from the run through
a pipe:

- `hold <seconds>`: pausing begins; in that many seconds it must be over;
- `goodbye`: everything is resumed; the guardian ends.

If the pipe ends without a goodbye, the run is dead; if the time is over, it hangs. Either way the guardian
reads in the run's journal which containers the run paused, and resumes exactly those, all at once. Because
a request to pause may still be on its way inside Docker when the run dies, it looks again for a moment. It
says `fired` to a run that hangs, and keeps its containers going until that run has ended or said goodbye.

It runs in a session of its own and ignores the signals that end a whole process group.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.quiesce.containers import PauseFailed, resume
from trinity_snap.quiesce.journal import Journal, read_journal

if TYPE_CHECKING:
    from docker import DockerClient

_AGAIN_SECONDS = 0.1
_AFTERMATH_SECONDS = 3.0
_STUBBORN_SECONDS = 300.0


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
    """Resume what the run holds, and again what it manages to pause meanwhile, until the run is gone and all is quiet."""
    ours = list(read_journal(path).held)
    stubborn_until = time.monotonic() + _STUBBORN_SECONDS
    quiet_until = time.monotonic() + _AFTERMATH_SECONDS
    noted: set[str] = set()
    with ThreadPoolExecutor(max(1, min(32, len(ours)))) as pool:
        while True:
            failed = False
            for container, answer in zip(ours, pool.map(lambda each: _try_resume(client, each), ours), strict=True):
                if answer == "failed":
                    failed = True
                elif container not in noted:
                    noted.add(container)
                    journal.resumed(container, "guardian")
            if worker_gone and read_journal(path).ended:
                return  # somebody has recovered the run, and the next one may pause the same containers
            now = time.monotonic()
            if now > stubborn_until or (worker_gone and not failed and now > quiet_until):
                return
            if worker_gone:
                time.sleep(_AGAIN_SECONDS)
            elif (ending := _wait(now + _AGAIN_SECONDS)) == "goodbye":
                return
            elif ending == "gone":
                worker_gone, quiet_until = True, time.monotonic() + _AFTERMATH_SECONDS
                ours = sorted({*ours, *read_journal(path).held})


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
