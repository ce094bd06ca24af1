"""Mode `hooks`: a command in the agent's container before the snapshot, and one after it whatever happened."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trinity_snap.policy.settings import DEFAULT_AFTER, DEFAULT_BEFORE, HookSettings
from trinity_snap.quiesce.containers import PauseFailed, look
from trinity_snap.quiesce.execution import Executed, ExecutionFailed, end_execution, execute
from trinity_snap.quiesce.journal import Journal, OpenHook, read_journal
from trinity_snap.quiesce.steps import step

if TYPE_CHECKING:
    from docker import DockerClient

HookOutcome = Literal["done", "failed", "aborted"]

_THREADS = 16
_LOOK_SECONDS = 10.0
_SLACK_SECONDS = 30.0
_AGAIN_SECONDS = 0.05
_SAID_CHARACTERS = 300
# What a shell, or Docker in its place, says of a command that is not there or cannot be run.
_CANNOT_RUN = (126, 127)


@dataclass
class Hook:
    """The hooks of one agent. `failure` says why the before-hook did not do its work; `is_absent` that there is none."""

    agent: str
    container: str
    settings: HookSettings
    is_absent: bool = False
    was_started: bool = False
    failure: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether the agent brought its data to rest."""
        return self.was_started and not self.failure


class Hooks:
    """The hooks of all agents of a run; those of different agents run side by side."""

    def __init__(self, client: DockerClient, journal: Journal, hooks: Sequence[Hook]) -> None:
        self.hooks = hooks
        self._client = client
        self._journal = journal

    @property
    def longest_seconds(self) -> float:
        """How long one side of them can take at most."""
        turns = -(-len(self.hooks) // _THREADS)
        longest = max((hook.settings.timeout_seconds for hook in self.hooks), default=0.0)
        return turns * (longest + _SLACK_SECONDS)

    def before(self, called_off: Callable[[], bool]) -> None:
        """Run every before-hook. One that fails has its `failure` set."""
        if self.hooks:
            with ThreadPoolExecutor(_THREADS) as pool:
                list(pool.map(lambda hook: None if called_off() else self._before(hook, called_off), self.hooks))
            step("hooks-run")

    def after(self, outcome_of: Callable[[Hook], HookOutcome], is_guardian_at_it: Callable[[], bool]) -> list[str]:
        """Run the after-hook of every agent whose before-hook was started; the problems, as sentences."""
        started = {hook.container: hook for hook in self.hooks if hook.was_started}
        if not started:
            return []
        until = time.monotonic() + self.longest_seconds
        while (todo := read_journal(self._journal.path).hooks) and time.monotonic() < until and is_guardian_at_it():
            time.sleep(_AGAIN_SECONDS)
        step("after-hook-starting")

        def run(one: OpenHook) -> str:
            problem = run_after_hook(self._client, self._journal, one, outcome_of(started[one.container]), "run")
            if problem is None:
                return f"The after-hook of {one.agent} waits until its container runs: `trinity-snap recover` runs it then."
            return problem

        with ThreadPoolExecutor(_THREADS) as pool:
            problems = [problem for problem in pool.map(run, todo) if problem]
        step("after-hooks-run")
        return problems

    def _before(self, hook: Hook, called_off: Callable[[], bool]) -> None:
        environment = {"TRINITY_SNAP_RUN_ID": self._journal.run_id, "TRINITY_SNAP_AGENT": hook.agent}
        try:
            if hook.settings.before == DEFAULT_BEFORE and not self._has_default(hook):
                hook.is_absent = True
                return
            done = execute(
                self._client, hook.container, ["sh", "-c", hook.settings.before],
                seconds=hook.settings.timeout_seconds, environment=environment,
                before_start=lambda execution: self._note(hook, execution), called_off=called_off,
            )  # fmt: skip
        except ExecutionFailed as error:
            hook.failure = f"it could not be run: {error}"
        else:
            hook.failure = _failure(done, hook.settings.timeout_seconds)

    def _has_default(self, hook: Hook) -> bool:
        """Whether the default hook is there. Raise ExecutionFailed if that cannot be seen."""
        look_for = f"[ -e {DEFAULT_BEFORE} ] || [ -L {DEFAULT_BEFORE} ]"
        done = execute(self._client, hook.container, ["sh", "-c", look_for], seconds=_LOOK_SECONDS)
        if done.exit_code not in (0, 1, *_CANNOT_RUN):  # a container without a shell has no hook either
            raise ExecutionFailed(f"looking for {DEFAULT_BEFORE}: {_failure(done, _LOOK_SECONDS)}")
        return done.exit_code == 0

    def _note(self, hook: Hook, execution: str) -> None:
        settings = hook.settings
        self._journal.hook(OpenHook(hook.container, execution, hook.agent, settings.after, settings.timeout_seconds))
        hook.was_started = True
        step("hook-noted")


def run_after_hook(client: DockerClient, journal: Journal, hook: OpenHook, outcome: HookOutcome, by: str) -> str | None:
    """End the before-hook if it still runs, run the after-hook, and note that.

    Return what went wrong as a sentence, empty if nothing did; None if the container does not run now, so that
    the hook stays open.
    """
    problem = ""
    try:
        found = look(client, hook.container)
        if found is not None and found.state != "running":
            return None
        if found is not None:
            end_execution(client, hook.container, hook.execution)
            problem = _after(client, hook, outcome, journal.run_id)
    except (ExecutionFailed, PauseFailed) as error:
        problem = f"it could not be run: {error}"
    journal.hook_over(hook.container, by)
    if not problem:
        return ""
    return f"The after-hook of {hook.agent} failed: {problem}. {hook.agent} may still be at rest; see to it."


def _after(client: DockerClient, hook: OpenHook, outcome: HookOutcome, run_id: str) -> str:
    is_default = hook.after == DEFAULT_AFTER
    command = f"[ -e {hook.after} ] || exit 0; {hook.after}" if is_default else hook.after
    environment = {
        "TRINITY_SNAP_OUTCOME": outcome, "TRINITY_SNAP_RUN_ID": run_id, "TRINITY_SNAP_AGENT": hook.agent,
    }  # fmt: skip
    done = execute(client, hook.container, ["sh", "-c", command], seconds=hook.timeout_seconds, environment=environment)
    return _failure(done, hook.timeout_seconds)


def _failure(done: Executed, seconds: float) -> str:
    if done.exit_code == 0:
        return ""
    if done.timed_out:
        failure = f"it did not end within {seconds:g} s, and was killed"
    elif done.exit_code in _CANNOT_RUN:
        failure = f"it is not there, or cannot be run (exit code {done.exit_code})"
    else:
        failure = f"it ended with exit code {done.exit_code}"
    said = " / ".join(line.strip() for line in done.output.splitlines() if line.strip())
    said = said if len(said) <= _SAID_CHARACTERS else f"…{said[-_SAID_CHARACTERS:]}"
    return f"{failure}; it said: {said}" if said else failure
