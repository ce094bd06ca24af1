"""The warden: a process that gives autonomy back when the run that switched it off dies, as the guardian does with containers.

It reads the pipe from the run: `goodbye` means that everything is as it was. If the pipe ends without it, the run is dead or
could not give all back: what the journal says is still off is switched on, again and again for some minutes.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from trinity_snap.errors import KeyFileError, TrinityError
from trinity_snap.quiesce.journal import Journal, read_journal
from trinity_snap.trinity.autonomy import give_back

_STUBBORN_SECONDS = 300.0
_AGAIN_SECONDS = 1.0


def main(journal_path: str) -> None:
    """Be the warden of the run whose journal this is; `python -c` in `trinity_snap.trinity.autonomy` calls it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("-1000")
    os.write(1, b"ready\n")
    heard = b""
    while received := os.read(0, 4096):
        heard += received
    if b"goodbye\n" in heard:
        return
    path = Path(journal_path)
    until = time.monotonic() + _STUBBORN_SECONDS
    journal = Journal.reopen(path)
    while time.monotonic() < until:
        state = read_journal(path)
        if state.ended or not state.autonomy:
            return
        for held in state.autonomy:
            with suppress(TrinityError, KeyFileError):
                give_back(journal, held, "warden", may_be_late=True)
        if read_journal(path).autonomy:
            time.sleep(_AGAIN_SECONDS)
