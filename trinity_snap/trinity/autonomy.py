"""Holding agents' schedules while a run waits for idleness, by Trinity's autonomy switch; and giving it back exactly as it was.

Only an agent whose autonomy is on is touched. What is about to be switched off is in the run's journal, durably, before it is; a
warden, a process of its own, gives it back when the run dies, and `recover` does what neither could. The switch is a gate:
schedules themselves are left alone, and if a Trinity from before that was so changes them, that is noticed and said.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from trinity_snap.errors import KeyFileError, TrinityError, TrinityRefused
from trinity_snap.quiesce.journal import HeldAutonomy, Journal
from trinity_snap.quiesce.steps import step
from trinity_snap.trinity.client import TrinityClient
from trinity_snap.trinity.settings import TrinitySettings

if TYPE_CHECKING:
    from trinity_snap.agents.model import Agent
    from trinity_snap.policy.schema import Policy

__all__ = ["HeldSchedules", "give_back", "schedules_held"]

_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from trinity_snap.trinity.warden import main; main(sys.argv[1])"
_READY_SECONDS = 30.0
_GOODBYE_SECONDS = 5.0
_LATE_SECONDS = 1.0


def schedules_held(
    policy: Policy, journal: Journal, agents: Iterable[Agent], note: Callable[[str], None], leave: Callable[[str], None]
) -> AbstractContextManager[object]:
    """The context for a run: where the policy wants it, no scheduled task begins in there of agents that are waited for."""
    drained = [agent for agent in agents if policy.for_agent(agent.name).quiesce.drain_seconds is not None]
    if not drained or not policy.trinity.hold_schedules:
        return nullcontext()
    return HeldSchedules(policy.trinity.settings(), journal, drained, note, leave)


class HeldSchedules:
    """A context in which schedules of these agents do not fire. `note` takes sentences, `leave` those of what was left off."""

    def __init__(
        self,
        settings: TrinitySettings | None,
        journal: Journal,
        agents: Iterable[Agent],
        note: Callable[[str], None],
        leave: Callable[[str], None],
    ) -> None:
        self._names = [agent.name for agent in agents if agent.rule == "trinity" and agent.state == "running"]
        self._settings = settings
        self._journal = journal
        self._note = note
        self._leave = leave
        self._held: list[HeldAutonomy] = []
        self._warden: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> HeldSchedules:
        if self._settings is None or not self._names:
            return self
        try:
            self._begin(self._settings)
        except BaseException:
            self.give_back()
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.give_back()

    def _begin(self, settings: TrinitySettings) -> None:
        client = TrinityClient(settings)
        for name in self._names:
            try:
                before = client.autonomy(name)
                if not before.enabled:
                    continue
                if self._warden is None:
                    self._warden = _start_warden(self._journal.path)
                held = HeldAutonomy(
                    name, settings.url, _text(settings.key_file), _text(settings.ca_file), before.enabled_schedules
                )
                self._journal.holding_autonomy(held)
                self._held.append(held)
                step("autonomy-noted")
                client.set_autonomy(name, False)
                step("autonomy-held")
            except TrinityRefused as error:
                self._note(f"The schedules of {name} were not held: {error.message}")
            except (TrinityError, KeyFileError, OSError) as error:
                self._note(f"Schedules were not held: {error}")
                return

    def give_back(self) -> None:
        """Switch on again what was switched off; what does not work is left to the warden, and said."""
        stuck = False
        for held in self._held:
            try:
                problem = give_back(self._journal, held, "run")
            except (TrinityError, KeyFileError) as error:
                stuck = True
                self._leave(
                    f"The autonomy of {held.agent} could not be switched on again: {error.message} It is tried for some "
                    "minutes more; `trinity-snap recover` does it, too."
                )
                continue
            step("autonomy-given-back")
            if problem:
                self._leave(problem)
        self._held = []
        warden, self._warden = self._warden, None
        if warden is not None:
            _dismiss(warden, goodbye=not stuck)


def give_back(journal: Journal, held: HeldAutonomy, by: str, *, may_be_late: bool = False) -> str:
    """Have an agent's autonomy as it was, and note that; return what the operator has to know, as a sentence, or nothing.

    `may_be_late`: whoever switched it off is dead, and its request may still be on its way. Raise TrinityError, KeyFileError.
    """
    client = TrinityClient(TrinitySettings(held.url, _path(held.key_file), _path(held.ca_file)))
    try:
        now = client.autonomy(held.agent)
        if now.enabled and may_be_late:
            time.sleep(_LATE_SECONDS)
            now = client.autonomy(held.agent)
        if not now.enabled:
            client.set_autonomy(held.agent, True)
            now = client.autonomy(held.agent)
    except TrinityRefused as error:
        if error.status != 404:
            raise
        journal.gave_back_autonomy(held.agent, by)
        return (
            f"Trinity has no agent {held.agent} any more, whose autonomy was switched off for the backup. If it was renamed "
            "meanwhile, switch the autonomy of the renamed one on."
        )
    journal.gave_back_autonomy(held.agent, by)
    if None not in (now.enabled_schedules, held.enabled_schedules) and now.enabled_schedules != held.enabled_schedules:
        return (
            f"{held.agent} had {held.enabled_schedules} enabled schedules and has {now.enabled_schedules} now: this Trinity "
            "rewrites schedules with autonomy. See to them, and leave `trinity: hold_schedules` off."
        )
    return ""


def _start_warden(journal: Path) -> subprocess.Popen[bytes]:
    """The process that gives back when this one dies. Raise OSError if it does not get ready."""
    import select

    process = subprocess.Popen(
        [sys.executable, "-P", "-c", _BOOT, os.fspath(journal), json.dumps(sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        bufsize=0,
        cwd="/",
    )
    assert process.stdout is not None
    if select.select([process.stdout], [], [], _READY_SECONDS)[0] and process.stdout.read(6) == b"ready\n":
        return process
    process.kill()
    process.wait()
    raise OSError("the process that would give autonomy back did not start")


def _dismiss(process: subprocess.Popen[bytes], *, goodbye: bool) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(OSError):
        if goodbye:
            process.stdin.write(b"goodbye\n")
    process.stdin.close()
    process.stdout.close()
    if goodbye:
        try:
            process.wait(_GOODBYE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
