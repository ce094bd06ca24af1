"""One look at this host: what is wrong, who has not been told yet, and telling them."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.durable import make_directory_durably
from trinity_snap.events import Event, EventJournal, load_facts
from trinity_snap.monitor.conditions import Condition, find_conditions
from trinity_snap.monitor.episodes import Episode, Message, State, advance, due, read_state, told, write_state
from trinity_snap.monitor.platform import of_platform
from trinity_snap.monitor.room import Room, room_at
from trinity_snap.monitor.sinks import SinkFailed, sinks_of
from trinity_snap.policy.values import span_of
from trinity_snap.quiesce.steps import step
from trinity_snap.report.times import timestamp

if TYPE_CHECKING:
    from trinity_snap.events import Facts
    from trinity_snap.policy.schema import Policy

__all__ = ["Observation", "look", "observe", "try_sinks"]

_LOCK_SECONDS = 30.0


@dataclass
class Observation:
    """What was seen, and what was done about it. `raised` and `cleared` are the episodes that began and ended with it.

    `told` counts messages by sink; `problems` are sentences on sinks that did not take theirs.
    """

    facts: Facts
    conditions: list[Condition]
    room: Room | None
    raised: list[Episode] = field(default_factory=list)
    cleared: list[Episode] = field(default_factory=list)
    told: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def look(policy: Policy, now: datetime | None = None) -> Observation:
    """What is wrong at this moment. Nobody is told, and nothing but the sum of the events is written."""
    facts, room, moment = load_facts(policy.state.directory), room_at(policy.target.url), now or datetime.now(UTC)
    return Observation(facts, find_conditions(facts, policy, moment, room, of_platform(policy, moment)), room)


def observe(policy: Policy, now: datetime | None = None) -> Observation:
    """Look, and tell every sink what it has not been told. Who is at it at the same moment waits.

    Raise OSError if the state directory cannot be written, TimeoutError if somebody is at it for half a minute. What goes
    wrong with a sink is in the result, and it is told the next time.
    """
    with _alone(policy.state.directory) as path:
        moment = now or datetime.now(UTC)
        seen = look(policy, moment)
        state = read_state(path)
        sinks = sinks_of(policy)
        seen.raised, seen.cleared = advance(state, seen.conditions, moment, [sink.name for sink in sinks])
        write_state(path, state)
        _note(policy, seen, moment)
        step("monitor.noted")
        repeat = span_of(policy.monitor.repeat)
        for sink in sinks:
            messages = due(state, sink.name, moment, repeat)
            if not messages:
                continue
            if sink.closes:
                _expect(messages, sink.name)
                write_state(path, state)
            try:
                sink.tell(policy.host_name, messages)
            except SinkFailed as error:
                seen.problems.append(str(error))
                continue
            told(messages, sink.name, moment)
            seen.told[sink.name] = len(messages)
            write_state(path, state)
        _ping(policy, state, seen)
        write_state(path, state)
        _metrics(policy, seen, moment)
    return seen


def _expect(messages: list[Message], sink: str) -> None:
    """Whoever dies while the sink is told leaves something open there, perhaps; so that is in the state before."""
    for message in messages:
        message.episode.handles.setdefault(sink, "")


def _note(policy: Policy, seen: Observation, now: datetime) -> None:
    """Keep in the journal when episodes begin and end, for the report."""
    journal = EventJournal(policy.state.directory)
    for news, episodes in (("raised", seen.raised), ("cleared", seen.cleared)):
        for one in episodes:
            journal.append(
                {
                    "time": timestamp(now),
                    "event": "alarm",
                    "host": policy.host_name,
                    "news": news,
                    "kind": one.kind,
                    "subject": one.subject,
                    "severity": one.severity,
                    "sentence": one.sentence,
                    "since": one.since,
                }
            )


def _ping(policy: Policy, state: State, seen: Observation) -> None:
    """Ping for the last backup that was not pinged for."""
    url = policy.monitor.ping
    last = _last_backup(policy.state.directory, state.pinged)
    if last is None:
        return
    if url is not None:
        from trinity_snap.monitor.ping import ping

        try:
            ping(url, good=last["outcome"] in ("done", "downgraded"), text=_summary(last))
        except SinkFailed as error:
            seen.problems.append(str(error))
            return
        seen.told["ping"] = 1
    state.pinged = int(last["seq"])


def _last_backup(state_dir: Path, after: int) -> Event | None:
    last = None
    for event in EventJournal(state_dir).read(after=after):
        if event["event"] == "backup" and isinstance(event.get("outcome"), str):
            last = event
    return last


def _summary(event: Event) -> str:
    lines = [f"{event.get('host')}: backup {event['outcome']}, run {str(event.get('run_id') or '-')[:8]}"]
    if event.get("error"):
        lines.append(str(event["error"]))
    lines += [
        f"{part.get('agent')}: {part.get('outcome')}{': ' + part['error'] if part.get('error') else ''}"
        for part in event.get("agents") or ()
    ]
    return "\n".join(lines)


def _metrics(policy: Policy, seen: Observation, now: datetime) -> None:
    path = policy.monitor.textfile
    if path is None:
        return
    from trinity_snap.monitor.textfile import render_metrics, write_metrics

    try:
        write_metrics(path, render_metrics(seen.facts, policy, seen.conditions, seen.room, now))
        seen.told["textfile"] = 1
    except SinkFailed as error:
        seen.problems.append(str(error))


@contextmanager
def _alone(state_dir: Path) -> Iterator[Path]:
    """Hold the monitor's state, and give its path."""
    directory = state_dir / "monitor"
    make_directory_durably(directory)
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError("Another process is telling alarms for half a minute.") from None
                time.sleep(0.05)
        yield directory / "state.json"
    finally:
        os.close(descriptor)


def try_sinks(policy: Policy) -> tuple[dict[str, int], list[str]]:
    """Tell every sink something of no importance. Return whom it reached, and sentences on whom it did not."""
    now = timestamp(datetime.now(UTC))
    words = (
        "test",
        "host",
        "warning",
        "This is a test of alarms.",
        "Nothing is wrong, and nothing is to be done.",
        now,
    )
    told_to: dict[str, int] = {}
    problems = []
    for sink in sinks_of(policy):
        try:
            sink.tell(policy.host_name, [Message("raised", Episode(*words))])
            told_to[sink.name] = 1
        except SinkFailed as error:
            problems.append(str(error))
    return told_to, problems
