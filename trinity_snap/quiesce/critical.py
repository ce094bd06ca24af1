"""The critical section: quiesce all, snapshot, resume all, within a budget, and never leave anything held.

All agents share one instant. Whatever goes wrong in here (an error, a missed budget, a signal, the death of
this process or of its guardian), every container that was running runs again; `recover` undoes what even
that leaves behind.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trinity_snap.agents.discover import quiesce_set
from trinity_snap.agents.inventory import take_inventory
from trinity_snap.agents.model import Agent, HeldContainer
from trinity_snap.errors import GuaranteeNotMet, LeftQuiesced, SnapshotError
from trinity_snap.quiesce.hold import Hold
from trinity_snap.quiesce.journal import Journal
from trinity_snap.quiesce.processes import identify
from trinity_snap.quiesce.signals import signals_held_off
from trinity_snap.quiesce.steps import step
from trinity_snap.quiesce.watch import Guardian, GuardianLost
from trinity_snap.snapshot.protocol import BudgetExceeded, Deadline, Provider

if TYPE_CHECKING:
    from docker import DockerClient

_GRACE_SECONDS = 0.5
_RESUME_SHARE = 0.1
_QUICK_FLUSH_SECONDS = 0.3
_FLUSHES = 3

Consistency = Literal["pause", "crash", "file"]


@dataclass(frozen=True)
class Pause:
    """How long one container was held. For several containers at once the times overlap."""

    container: HeldContainer
    seconds: float


@dataclass(frozen=True)
class CriticalResult:
    """What came of the critical section.

    `created_ns` is the instant. `quiesced` says that every writer was held (or did not run) during the
    whole snapshot; if not, `why` says why not. `met_budget` says whether no container was held for longer
    than the budget.
    """

    created_ns: int
    pauses: tuple[Pause, ...]
    quiesced: bool
    met_budget: bool
    why: str = ""

    @property
    def held(self) -> dict[str, float]:
        """Container id → seconds held."""
        return {pause.container.id: pause.seconds for pause in self.pauses}

    def consistency(self, provider: Provider) -> Consistency:
        """Say what a provider's views are.

        `pause`: of one instant, with all writers held. `crash`: of one instant of running writers, as after a power
        cut. `file`: of no one instant; each file is consistent in itself.
        """
        if self.quiesced:
            return "pause"
        return "crash" if provider.atomic else "file"


def critical_section(
    client: DockerClient,
    agents: Sequence[Agent],
    providers: Sequence[Provider],
    journal: Journal,
    *,
    budget_seconds: float = 5.0,
    on_budget_exceeded: Literal["fallback", "fail"] = "fallback",
) -> CriticalResult:
    """Snapshot with all prepared providers while everything that can write to these agents' sources is paused.

    `agents` are those to hold still; with none, only the snapshots are made (mode `none`). Which containers
    that means is looked up anew here, because preparing may have taken long.

    If the budget does not suffice, or somebody else resumes a container meanwhile, then with `fallback` the
    snapshots are made all the same, and the result says so; with `fail` raise GuaranteeNotMet. Raise
    LeftQuiesced if a container could not be resumed, SnapshotError if a snapshot could not be made or the
    guardian was lost. The caller releases the providers and ends the journal in any case.
    """
    with signals_held_off():
        if not agents:
            _flush(providers)
            return _without_hold(providers, (), True, "the policy asks for no quiesce")
        guardian = Guardian.start(journal.path)
        journal.guarded_by(identify(guardian.pid))
        try:
            try:
                _flush(providers)
                writers, _ = quiesce_set(take_inventory(client).containers, agents)
            except BaseException:
                guardian.goodbye()  # nothing is held yet
                raise
            hold = Hold(client, [each for each in writers if each.state == "running"], journal)
            step("guardian-ready")
            outcome = _hold_and_snapshot(hold, guardian, providers, journal, budget_seconds)
        except BaseException:
            guardian.abandon()
            raise
        _require_resumed(hold, guardian)
        guardian.goodbye()
        step("guardian-released")
        return _judge(hold, outcome, providers, budget_seconds, on_budget_exceeded)


@dataclass
class _Outcome:
    created_ns: int = 0
    made: bool = False
    late: str = ""
    error: BaseException | None = None


def _hold_and_snapshot(
    hold: Hold, guardian: Guardian, providers: Sequence[Provider], journal: Journal, budget_seconds: float
) -> _Outcome:
    outcome = _Outcome()
    deadline = Deadline()
    work: _Work | None = None
    journal.pausing([grip.container.id for grip in hold.grips])
    step("pause-noted")
    try:
        guardian.hold(budget_seconds + _GRACE_SECONDS)
        until = time.monotonic() + budget_seconds * (1 - _RESUME_SHARE)
        hold.begin_pausing(until)
        in_time = hold.wait_until_paused(until)
        failed = [f"{grip.container.name} ({grip.failure})" for grip in hold.grips if grip.failure]
        if failed:
            outcome.late = f"Docker did not pause {', '.join(failed)}"
            return outcome
        if not in_time:
            outcome.late = "pausing all containers took too long"
            return outcome
        step("all-paused")
        outcome.created_ns = time.time_ns()
        deadline = Deadline(until - time.monotonic())
        work = _Work(providers, deadline)
        work.wait(guardian, until)
        if guardian.check():
            outcome.late = "the guardian had to resume the containers"
        elif work.is_done and work.error is None:
            outcome.made = True
            step("snapshots-made")
        elif not work.is_done or isinstance(work.error, BudgetExceeded):
            outcome.late = "the snapshot took too long"
    except GuardianLost as lost:
        outcome.made = False
        outcome.error = SnapshotError(
            f"The guardian process died during the pause{lost}; the agents were resumed at once.",
            next_step="See what ends processes on this host (`dmesg` shows the OOM killer), then run again.",
        )
    finally:
        deadline.call_off()
        hold.resume()
        if work is not None:
            work.join()
            if work.error is not None and not isinstance(work.error, BudgetExceeded):
                outcome.error = outcome.error or work.error
    step("all-resumed")
    return outcome


class _Work:
    """The providers' snapshots, in a thread, so that a disk that hangs does not keep the containers from being resumed."""

    def __init__(self, providers: Sequence[Provider], deadline: Deadline) -> None:
        self.error: BaseException | None = None
        self.is_done = False
        self._readable, self._writable = os.pipe()
        self._thread = threading.Thread(target=self._run, args=(providers, deadline), name="snapshot")
        self._thread.start()

    def _run(self, providers: Sequence[Provider], deadline: Deadline) -> None:
        try:
            for provider in sorted(providers, key=lambda each: not each.atomic):
                provider.snapshot(deadline)
        except BaseException as error:  # it is looked at by who waits
            self.error = error
        finally:
            self.is_done = True
            os.write(self._writable, b".")

    def wait(self, guardian: Guardian, until: float) -> None:
        """Wait until it is done, the time is over, or the guardian has something to say."""
        while not self.is_done and (left := until - time.monotonic()) > 0:
            ready = select.select([self._readable, guardian.fileno()], [], [], left)[0]
            if guardian.fileno() in ready and guardian.check():
                return

    def join(self) -> None:
        self._thread.join()
        os.close(self._readable)
        os.close(self._writable)


def _flush(providers: Sequence[Provider]) -> None:
    """Flush until a flush is quick, so that little is left to write in the pause; writers may keep it from ever being."""
    for _ in range(_FLUSHES):
        started = time.monotonic()
        for provider in providers:
            provider.flush()
        if time.monotonic() - started < _QUICK_FLUSH_SECONDS:
            return


def _require_resumed(hold: Hold, guardian: Guardian) -> None:
    stuck = [grip for grip in hold.grips if grip.paused]
    if stuck:
        guardian.abandon()
        names = ", ".join(grip.container.name for grip in stuck)
        raise LeftQuiesced(
            f"These containers could not be resumed: {names} ({stuck[0].failure}).",
            untouched="Every other container runs again.",
            next_step="The guardian goes on trying for some minutes. `trinity-snap recover` or `docker unpause` does it too.",
        )


def _judge(
    hold: Hold,
    outcome: _Outcome,
    providers: Sequence[Provider],
    budget_seconds: float,
    on_budget_exceeded: Literal["fallback", "fail"],
) -> CriticalResult:
    if outcome.error is not None:
        raise outcome.error
    seconds = hold.held_seconds()
    pauses = tuple(
        Pause(grip.container, seconds[grip.container.id]) for grip in hold.grips if grip.container.id in seconds
    )
    met_budget = not outcome.late and all(pause.seconds <= budget_seconds for pause in pauses)
    disturbed = [grip.container.name for grip in hold.grips if grip.disturbed]
    if outcome.made and not disturbed:
        return CriticalResult(outcome.created_ns, pauses, True, met_budget)
    if disturbed and not outcome.late:
        why = f"somebody else resumed {', '.join(disturbed)} during the snapshot"
    else:
        why = f"the budget of {budget_seconds:g} s of pause did not suffice: {outcome.late}"
    if on_budget_exceeded == "fail":
        raise GuaranteeNotMet(
            f"The agents could not be held still for the whole snapshot: {why}.",
            untouched="No recovery point was made, and every agent runs.",
            next_step="Raise `quiesce: budget_seconds`, or allow `quiesce: on_budget_exceeded: fallback`.",
        )
    return _without_hold(providers, pauses, met_budget, why)


def _without_hold(
    providers: Sequence[Provider], pauses: tuple[Pause, ...], met_budget: bool, why: str
) -> CriticalResult:
    created_ns = time.time_ns()
    for provider in providers:
        provider.snapshot(Deadline())
    return CriticalResult(created_ns, pauses, False, met_budget, why)
