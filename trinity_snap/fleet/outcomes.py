"""From the events of a play to the outcome of every host.

Only what a host said itself is `done` or `failed`. A host that was at work when the connection or the play ended is `unknown`,
because it may be at work still.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from trinity_snap.fleet.model import HostResult
from trinity_snap.fleet.request import Action

_NO_CONNECTION = re.compile(
    r"ssh: connect to host|Could not resolve hostname|Permission denied \(|Host key verification failed|"
    r"IDENTIFICATION HAS CHANGED|kex_exchange_identification|banner exchange|Connection (?:closed|reset) by \S+ port|"
    r"Too many authentication failures|Bad owner or permissions|no such identity|Unable to negotiate",
    re.IGNORECASE,
)
"""What OpenSSH says when no connection came about. Everything else is a connection that was lost."""


class Watcher(Protocol):
    """Is told how a fleet run goes on, in the thread that runs it."""

    def begin(self, action: str, run_id: str, hosts: int) -> None:
        """The run begins with so many hosts."""

    def host_started(self, host: str) -> None:
        """A host is at work."""

    def host_ended(self, result: HostResult) -> None:
        """A host has its outcome; it may get another one by a recovery."""

    def note(self, sentence: str, hosts: Iterable[str] = ()) -> None:
        """Something that the operator should see, about some hosts."""


class Tracker:
    """Follows one play over some hosts. `handle` takes the events of ansible-runner, `finish` says that no more come."""

    def __init__(self, action: Action, hosts: Iterable[str], watcher: Watcher) -> None:
        self.results = {host: HostResult(host) for host in hosts}
        self._action = action
        self._watcher = watcher
        self._began: dict[str, float] = {}
        self._working: set[str] = set()
        self._answered: set[str] = set()
        self._decided: set[str] = set()
        self._ended = False

    def handle(self, event: Mapping[str, Any]) -> None:
        """Take one event."""
        kind, data = str(event.get("event")), event.get("event_data") or {}
        if kind == "playbook_on_stats":
            self._ended = True
            return
        result = self.results.get(str(data.get("host")))
        if result is None:
            return
        main = str(data.get("task_action", "")).rpartition(".")[2] == self._action.module
        said = data.get("res") or {}
        if kind == "runner_on_start":
            self._start(result.host, main=main)
        elif kind == "runner_on_ok" and main:
            self._take(result, said)
        elif kind == "runner_on_failed" and not data.get("ignore_errors"):
            if main:
                self._take(result, said)
            died = (
                main and "module_stdout" in said
            )  # killed, or it could not run: what it had begun may go on without it
            self._decide(result, "unknown" if died else "failed", _sentence(said))
        elif kind == "runner_on_unreachable":
            self._lost(result, _sentence(said), main=main)

    def _start(self, host: str, *, main: bool) -> None:
        if host not in self._began:
            self._began[host] = time.monotonic()
            self._watcher.host_started(host)
        if main:
            self._working.add(host)

    def _take(self, result: HostResult, said: Mapping[str, Any]) -> None:
        """Keep what the module said; of a loop, all of it."""
        self._answered.add(result.host)
        items = said.get("results")
        parts = [one for one in items if isinstance(one, dict)] if isinstance(items, list) else [said]
        answers = [answer for part in parts if (answer := _answer(self._action, part))]
        result.answer = answers[-1] if len(answers) == 1 else {"agents": answers} if answers else {}
        result.changed = bool(said.get("changed"))
        codes = [int(part["rc"]) for part in parts if isinstance(part.get("rc"), int)]
        result.exit_code = max(codes, default=None)

    def _lost(self, result: HostResult, sentence: str, *, main: bool) -> None:
        begun = main and not _NO_CONNECTION.search(sentence)
        self._decide(result, "unknown" if begun else "unreachable", sentence)

    def _decide(self, result: HostResult, outcome: Any, sentence: str | None) -> None:
        result.outcome, result.message = outcome, sentence
        self._decided.add(result.host)
        if result.host in self._began:
            result.duration_seconds = time.monotonic() - self._began[result.host]
        self._watcher.host_ended(result)

    def finish(self) -> None:
        """Decide about the hosts that nothing was decided about."""
        for result in self.results.values():
            if result.host in self._decided:
                continue
            if self._ended and result.host in self._began:
                self._decide(result, "done", result.message)
            elif result.host in self._answered:
                self._decide(result, "done", None)
            elif result.host in self._working:
                self._decide(result, "unknown", "The play ended before the host answered.")


def _answer(action: Action, said: Mapping[str, Any]) -> dict[str, object]:
    for key in action.answers:
        if isinstance(said.get(key), dict):
            return dict(said[key])
    if action.answers or "agents" not in said:
        return {}
    return {key: said[key] for key in ("run_id", "outcome", "agents", "replicas") if key in said}


def _sentence(said: Mapping[str, Any]) -> str:
    """What a task said when it failed, in one line."""
    items = said.get("results")
    if isinstance(items, list):
        failed = [_sentence(one) for one in items if isinstance(one, dict) and one.get("failed")]
        if failed:
            return " ".join(failed)
    text = str(said.get("msg") or said.get("censored") or "It failed without saying why.")
    return " ".join(text.split())
