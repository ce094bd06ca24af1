"""Around a run: what came of it goes to the journal of events, and whoever should know is told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from trinity_snap.cli.output import safe
from trinity_snap.errors import HostBusy, TrinitySnapError

if TYPE_CHECKING:
    from trinity_snap.events import Recording
    from trinity_snap.policy.schema import Policy

__all__ = ["recorded"]


@contextmanager
def recorded(policy: Policy, what: str, *, quiet: bool = False, dry_run: bool = False) -> Iterator[Recording]:
    """Do a run of the kind `what`, and say in the block how it ended; an error says so itself.

    A wrong call, a busy host and a `dry_run` are no runs, and a block that does not say how it ended is none, either. What goes
    wrong with the journal or with telling is a note on the standard error, and never changes what becomes of the run.
    """
    from trinity_snap.events import Recording

    run = Recording(what, policy.host_name)
    if dry_run:
        yield run
        return
    with suppress(Exception):  # it goes wrong again when the run has ended, and is told then
        from trinity_snap.events.history import take_over

        take_over(policy.state.directory)
    try:
        yield run
    except HostBusy:
        raise
    except KeyboardInterrupt:
        run.interrupted()
        _keep(policy, run, quiet=quiet, tell=False)  # whoever interrupts wants it to end now
        raise
    except Exception as error:
        if not isinstance(error, TrinitySnapError) or error.exit_code != 2:
            run.failed(error)
            _keep(policy, run, quiet=quiet)
        raise
    _keep(policy, run, quiet=quiet)


def _keep(policy: Policy, run: Recording, *, quiet: bool, tell: bool = True) -> None:
    if run.event is None:
        return
    problems: list[str] = []
    try:
        from trinity_snap.events import EventJournal

        EventJournal(policy.state.directory).append(run.event)
    except Exception as error:  # whatever it is, the run has ended as it has ended
        problems.append(f"The {run.what} is not in the journal of events: {_reason(error)}.")
    if tell:
        try:
            from trinity_snap.monitor import observe

            problems += observe(policy).problems
        except Exception as error:
            problems.append(f"Nobody was told about alarms: {_reason(error)}.")
    if not quiet:
        sys.stderr.writelines(f"trinity-snap: {safe(problem)}\n" for problem in problems)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f' ({error.filename})' if error.filename else ''}"
    return str(error).rstrip(".") or type(error).__name__
