"""The critical section: quiesce all, snapshot, resume all, within a budget, and never leave anything held.

All agents share one instant. In order: before-hooks, shutting down, pausing, the snapshot; then resuming,
starting, after-hooks. Whatever goes wrong in here (an error, a missed budget, a signal, the death of this
process or of its guardian), every container that was running runs again, and the after-hook runs where the
before-hook was started; `recover` undoes what even that leaves behind.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from trinity_snap.agents.discover import own_container, quiesce_set
from trinity_snap.agents.inventory import take_inventory
from trinity_snap.agents.model import Agent, HeldContainer
from trinity_snap.errors import GuaranteeNotMet, LeftQuiesced, SnapshotError
from trinity_snap.policy.settings import QuiesceSettings
from trinity_snap.quiesce.containers import PauseFailed, state_of
from trinity_snap.quiesce.events import Events
from trinity_snap.quiesce.hold import Hold
from trinity_snap.quiesce.hooks import Hook, HookOutcome, Hooks
from trinity_snap.quiesce.journal import Journal
from trinity_snap.quiesce.outcome import AgentHold, CriticalResult, Pause, judge, loosened
from trinity_snap.quiesce.processes import identify
from trinity_snap.quiesce.signals import signals_held_off
from trinity_snap.quiesce.steps import step
from trinity_snap.quiesce.stopping import START_SECONDS, Stop, Stops
from trinity_snap.quiesce.watch import Guardian, GuardianLost
from trinity_snap.quiesce.work import SnapshotWork, flush
from trinity_snap.snapshot.protocol import BudgetExceeded, Deadline, Provider

if TYPE_CHECKING:
    from docker import DockerClient

_GRACE_SECONDS = 0.5
_RESUME_SHARE = 0.1
_FLUSH_SECONDS = 120.0

_Made = TypeVar("_Made", Hook, Stop)
OrFail = Literal["fallback", "fail"]


def critical_section(
    client: DockerClient | None,
    agents: Sequence[Agent],
    providers: Sequence[Provider],
    journal: Journal,
    *,
    settings: Mapping[str, QuiesceSettings] | None = None,
    budget_seconds: float = 5.0,
    on_budget_exceeded: OrFail = "fallback",
    stop_seconds: float = 30.0,
    on_hook_failure: OrFail = "fallback",
) -> CriticalResult:
    """Snapshot with all prepared providers while everything that can write to these agents' sources is held.

    `settings` says for each agent by name how; those not named are paused. Without a `client` there is no Docker,
    and nothing to hold. Which containers have to be paused is looked up anew here, because preparing may
    have taken long.

    If the budget does not suffice, then with `fallback` the snapshots are made all the same, and the result
    says so for every agent that was to be held; with `fail` raise GuaranteeNotMet. If somebody else resumes,
    restarts or starts a container meanwhile, that concerns the agents to whose sources it can write: the
    result says so, and with `fail` refuses them. A before-hook that fails concerns its agent: with `fail` it
    is refused. Raise LeftQuiesced if a container could not be resumed or started, SnapshotError if a snapshot
    could not be made or the guardian was lost. The caller releases the providers and ends the journal in any
    case.
    """
    modes = {agent.name: (settings or {}).get(agent.name, QuiesceSettings()) for agent in agents}
    with signals_held_off() as signals:
        if client is None or all(each.mode == "none" for each in modes.values()):
            flush(providers)
            return _snapshot_of_running(providers, CriticalResult(0, agents=_all_running(agents)))
        section = _Section(client, agents, providers, journal, modes, budget_seconds, stop_seconds, signals)
        section.refuses = (on_budget_exceeded == "fail", on_hook_failure == "fail")
        return section.run()


@dataclass
class _Section:
    client: DockerClient
    agents: Sequence[Agent]
    providers: Sequence[Provider]
    journal: Journal
    settings: Mapping[str, QuiesceSettings]
    budget_seconds: float
    stop_seconds: float
    signals: Sequence[int]
    refuses: tuple[bool, bool] = (False, False)  # on a missed budget, on a failed hook

    created_ns: int = 0
    made_ns: int = 0
    late: str = ""
    error: BaseException | None = None
    writers: Sequence[HeldContainer] = ()
    hold: Hold | None = None
    events: Events | None = None
    work: SnapshotWork | None = None
    refused: dict[str, str] = field(default_factory=dict)
    after_hook_problems: list[str] = field(default_factory=list)
    _asking: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> CriticalResult:
        self.guardian = Guardian.start(self.journal.path)
        self.journal.guarded_by(identify(self.guardian.pid))
        try:
            self._do_and_undo()
        except BaseException:
            self.guardian.abandon()
            raise
        self._require_undone()
        self.guardian.goodbye()
        step("guardian-released")
        if self.error is not None:
            raise self.error
        if self.signals and not self.made_ns:
            raise SnapshotError("The run was ended by a signal.", untouched="Every agent runs.")
        if self.late and self.refuses[0]:
            raise GuaranteeNotMet(
                f"The agents could not be held still for the whole snapshot: {self._why()}.",
                untouched="No recovery point was made, and every agent runs.",
                next_step="Raise `quiesce: budget_seconds`, or allow `quiesce: on_budget_exceeded: fallback`.",
            )
        result = self._judged()
        return result if self.made_ns else _snapshot_of_running(self.providers, result)

    def _do_and_undo(self) -> None:
        self.hooks = Hooks(self.client, self.journal, self._with_mode("hooks", self._hook))
        self.stops = Stops(self.client, self.journal, self._with_mode("stop", self._stop), self.stop_seconds)
        step("guardian-ready")
        flush(self.providers)
        try:
            self._bring_to_rest()
            if not self._is_over():
                self._hold_and_snapshot()
        except GuardianLost as lost:
            self.made_ns = 0
            self.error = self.error or SnapshotError(
                f"The guardian process died during the pause{lost}; the agents were resumed at once.",
                next_step="See what ends processes on this host (`dmesg` shows the OOM killer), then run again.",
            )
        finally:
            self._undo()

    # -- before -----------------------------------------------------------------------------------------------------

    def _with_mode(self, mode: str, make: Callable[[Agent, str], _Made | None]) -> list[_Made]:
        own = own_container()
        return [
            made
            for agent in self.agents
            if self.settings[agent.name].mode == mode and agent.container_id not in (None, own)
            if (made := make(agent, str(agent.container_id))) is not None
        ]

    def _hook(self, agent: Agent, container: str) -> Hook | None:
        try:
            runs = state_of(self.client, container) == "running"
        except PauseFailed:
            runs = True  # the hook's own failure will say more
        return Hook(agent.name, container, self.settings[agent.name].hooks) if runs else None

    def _stop(self, agent: Agent, container: str) -> Stop:
        return Stop(agent.name, container)

    def _bring_to_rest(self) -> None:
        """Run the before-hooks, then shut down who has that mode."""
        if self.hooks.hooks:
            self.guardian.hold(self.hooks.longest_seconds)
            self.hooks.before(self._is_over)
            for hook in self.hooks.hooks:
                if hook.failure and self.refuses[1]:
                    self.refused[hook.agent] = f"Its before-hook failed: {hook.failure}."
        if self.stops.stops and not self._is_over():
            self.guardian.hold(self.stops.longest_seconds + _FLUSH_SECONDS)
            self.stops.stop(self._is_over)
        if self.hooks.hooks or self.stops.stops:
            flush(self.providers)

    def _is_over(self) -> bool:
        """Whether to go no further: the guardian has taken over, or a signal came. Raise GuardianLost."""
        if self.signals:
            self.late = self.late or "a signal ended the run"
        with self._asking:
            if self.guardian.check():
                self.late = self.late or "the guardian had to let the containers go on"
        return bool(self.late)

    # -- the instant ------------------------------------------------------------------------------------------------

    def _hold_and_snapshot(self) -> None:
        self.events = Events(self.client)
        self.writers, _ = quiesce_set(take_inventory(self.client).containers, self.agents)
        hold = self.hold = Hold(self.client, [one for one in self.writers if self._has_to_pause(one)], self.journal)
        budget = self.budget_seconds if hold.grips else max(self.stop_seconds, self.budget_seconds)
        self.journal.pausing([grip.container.id for grip in hold.grips])
        step("pause-noted")
        self.guardian.hold(budget + _GRACE_SECONDS)
        until = time.monotonic() + budget * (1 - _RESUME_SHARE)
        hold.begin_pausing(until)
        in_time = hold.wait_until_paused(until)
        failed = [f"{grip.container.name} ({grip.failure})" for grip in hold.grips if grip.failure]
        if failed:
            self.late = f"Docker did not pause {', '.join(failed)}"
        elif not in_time:
            self.late = "pausing all containers took too long"
        else:
            step("all-paused")
            self._snapshot(until)

    def _has_to_pause(self, writer: HeldContainer) -> bool:
        """Whether a container runs and can write to something of an agent that is to be held."""
        held = {name for name in writer.agents if self.settings[name].mode != "none" and name not in self.refused}
        return writer.state == "running" and bool(held)

    def _snapshot(self, until: float) -> None:
        self.created_ns = time.time_ns()
        deadline = Deadline(until - time.monotonic())
        self.work = SnapshotWork(self.providers, deadline)
        try:
            self.work.wait(self.guardian, until)
            if self.guardian.check():
                self.late = "the guardian had to resume the containers"
            elif self.work.is_done and self.work.error is None:
                self.made_ns = time.time_ns()
                step("snapshots-made")
            elif not self.work.is_done or isinstance(self.work.error, BudgetExceeded):
                self.late = "the snapshot took too long"
        finally:
            deadline.call_off()

    # -- after ------------------------------------------------------------------------------------------------------

    def _undo(self) -> None:
        with ExitStack() as later:  # what is put here last is done first; each is done, whatever becomes of the others
            if self.work is not None:
                later.callback(self._end_work, self.work)  # last, so that nobody waits for a disk that hangs
            if self.events is not None:
                later.callback(self.events.close)
            later.callback(self._run_after_hooks)
            later.callback(self._start)
            if self.hold is not None:
                later.callback(self.hold.resume)

    def _start(self) -> None:
        step("all-resumed")
        with suppress(GuardianLost):
            self.guardian.hold(START_SECONDS + self.hooks.longest_seconds + _FLUSH_SECONDS)
        self.stops.start()

    def _run_after_hooks(self) -> None:
        self.after_hook_problems += self.hooks.after(self._hook_outcome, self._has_guardian_fired)

    def _end_work(self, work: SnapshotWork) -> None:
        work.join()
        if work.error is not None and not isinstance(work.error, BudgetExceeded):
            self.error = self.error or work.error

    def _has_guardian_fired(self) -> bool:
        """Whether the guardian lives and is about to do what is left to do."""
        try:
            return self.guardian.check()
        except GuardianLost:
            return False

    def _hook_outcome(self, hook: Hook) -> HookOutcome:
        if self.signals:
            return "aborted"
        return "done" if self.made_ns and hook.succeeded and hook.agent not in self.refused else "failed"

    def _require_undone(self) -> None:
        paused = [grip for grip in (self.hold.grips if self.hold else ()) if grip.paused]
        stopped = [stop for stop in self.stops.stops if stop.stuck]
        if not (paused or stopped):
            return
        self.guardian.abandon()
        what = []
        if paused:
            what.append(
                f"could not be resumed: {', '.join(grip.container.name for grip in paused)} ({paused[0].failure})"
            )
        if stopped:
            what.append(f"could not be started again: {', '.join(one.name for one in stopped)} ({stopped[0].stuck})")
        raise LeftQuiesced(
            f"These containers {'; these '.join(what)}.",
            untouched="Every other container runs again.",
            next_step=(
                "The guardian goes on trying for some minutes. `trinity-snap recover`, or `docker unpause` and "
                "`docker start`, do it too."
            ),
        )

    def _why(self) -> str:
        return f"the budget of {self.budget_seconds:g} s of pause did not suffice: {self.late}"

    def _judged(self) -> CriticalResult:
        events = self.events.all() if self.events is not None else []
        seconds = self.hold.held_seconds(events) if self.hold is not None else {}
        grips = self.hold.grips if self.hold is not None else []
        pauses = tuple(
            Pause(grip.container, seconds[grip.container.id]) for grip in grips if grip.container.id in seconds
        )
        loose = self._loose() if self.made_ns else {}
        modes = {name: "none" if name in self.refused else settings.mode for name, settings in self.settings.items()}
        agents = judge(
            self.agents, modes, self.writers, self.hooks.hooks, self.stops.stops, loose,
            "" if self.made_ns else self._why(),
        )  # fmt: skip
        for pause in pauses:
            for name in pause.container.agents if pause.seconds > self.budget_seconds else ():
                if agents[name].level != "running" and not agents[name].shortfall:
                    over = f"{pause.container.name} was paused for {pause.seconds:.1f} s, longer than the budget"
                    agents[name] = replace(agents[name], shortfall=over)
        refused = dict(self.refused)
        if self.refuses[0]:
            refused |= {
                name: f"It could not be held still: {why}." for name, why in loose.items() if agents[name].shortfall
            }
        notes = [f"{name}: {hold.note}." for name, hold in agents.items() if hold.note]
        stopped = {stop.agent: stop.seconds for stop in self.stops.stops if stop.is_stopped}
        return CriticalResult(
            self.created_ns, pauses, agents, refused, stopped, tuple(notes), "" if self.made_ns else self._why(),
            tuple(self.after_hook_problems),
        )  # fmt: skip

    def _loose(self) -> dict[str, str]:
        """The agents that were not held all the time, and why."""
        assert self.events is not None
        if not self.events.is_whole:
            why = "the connection to Docker broke during the snapshot, so it may have been restarted"
            return dict.fromkeys(self.settings, why)
        loose = {
            name: f"somebody else resumed or ended {grip.container.name} during the snapshot"
            for grip in (self.hold.grips if self.hold is not None else ())
            if grip.disturbed
            for name in grip.container.agents
        }
        return loose | loosened(
            self.events.all(), self.made_ns, self.writers, self.agents, lambda: take_inventory(self.client).containers
        )


def _all_running(agents: Sequence[Agent]) -> dict[str, AgentHold]:
    return {agent.name: AgentHold("running") for agent in agents}


def _snapshot_of_running(providers: Sequence[Provider], result: CriticalResult) -> CriticalResult:
    """Make the snapshots with nothing held."""
    created_ns = time.time_ns()
    for provider in providers:
        provider.snapshot(Deadline())
    return replace(result, created_ns=created_ns)
