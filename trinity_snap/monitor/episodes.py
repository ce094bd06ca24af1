"""Episodes: a condition is told once when it begins, again when it stays, and once when it is over - to every sink.

What was told is on disk, for each sink by itself: a sink that was out of reach is told the next time. A process that dies
between telling and noting tells twice; none is ever forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from trinity_snap.durable import write_file_durably
from trinity_snap.monitor.conditions import Condition, moment
from trinity_snap.report.times import timestamp

__all__ = ["Episode", "Message", "State", "advance", "due", "read_state", "told", "write_state"]

News = Literal["raised", "still", "cleared"]
_CLEARED_KEPT = timedelta(days=7)


@dataclass
class Episode:
    """One condition from when it was first seen until it was over (`cleared`).

    `told`: when each sink was told last that it holds; `cleared_told`: the sinks that know that it is over. `handles`: of sinks
    whose messages stay open until they are closed, what closes this one's ("": perhaps there is one).
    """

    kind: str
    subject: str
    severity: str
    sentence: str
    advice: str
    since: str
    told: dict[str, str] = field(default_factory=dict)
    cleared: str | None = None
    cleared_told: list[str] = field(default_factory=list)
    handles: dict[str, str] = field(default_factory=dict)


@dataclass
class State:
    """What the monitor remembers. `pinged`: the `seq` of the last backup that was pinged for."""

    episodes: list[Episode] = field(default_factory=list)
    pinged: int = 0


@dataclass(frozen=True)
class Message:
    """What a sink has to be told of an episode."""

    news: News
    episode: Episode


def read_state(path: Path) -> State:
    """The state as it was kept; one that is lost or damaged begins anew, and alarms are told once more."""
    import msgspec

    try:
        return msgspec.json.decode(path.read_bytes(), type=State)
    except (OSError, msgspec.DecodeError):
        return State()


def write_state(path: Path, state: State) -> None:
    """Keep the state. Raise OSError."""
    import msgspec

    write_file_durably(path, msgspec.json.encode(state))


def advance(
    state: State, conditions: Iterable[Condition], now: datetime, sinks: Iterable[str]
) -> tuple[list[Episode], ...]:
    """Bring the episodes up to date. Return those that begin, and those that are over.

    An episode that is over stays until all `sinks` that were told of it know, or for a week.
    """
    held = {condition.key: condition for condition in conditions}
    active = {f"{one.kind}:{one.subject}": one for one in state.episodes if one.cleared is None}
    begun, over = [], []
    for key, condition in held.items():
        episode = active.get(key)
        if episode is None:
            episode = Episode(*_words(condition), timestamp(now))
            state.episodes.append(episode)
            begun.append(episode)
        else:
            _, _, episode.severity, episode.sentence, episode.advice = _words(condition)
    for key, episode in active.items():
        if key not in held:
            episode.cleared = timestamp(now)
            over.append(episode)
    known = set(sinks)
    state.episodes = [one for one in state.episodes if not _finished(one, now, known)]
    return begun, over


def due(state: State, sink: str, now: datetime, repeat: timedelta) -> list[Message]:
    """What this sink has to be told now."""
    found = []
    for episode in state.episodes:
        last = episode.told.get(sink)
        if episode.cleared is not None:
            if (last is not None or sink in episode.handles) and sink not in episode.cleared_told:
                found.append(Message("cleared", episode))
        elif last is None:
            found.append(Message("raised", episode))
        elif now - moment(last) >= repeat:
            found.append(Message("still", episode))
    return found


def told(messages: Sequence[Message], sink: str, now: datetime) -> None:
    """The sink has taken these."""
    for message in messages:
        if message.news == "cleared":
            message.episode.cleared_told.append(sink)
        else:
            message.episode.told[sink] = timestamp(now)


def _words(condition: Condition) -> tuple[str, str, str, str, str]:
    return condition.kind, condition.subject, condition.severity, condition.sentence, condition.advice


def _finished(episode: Episode, now: datetime, sinks: set[str]) -> bool:
    if episode.cleared is None:
        return False
    waiting = ((episode.told.keys() | episode.handles.keys()) & sinks) - set(episode.cleared_told)
    return not waiting or now - moment(episode.cleared) > _CLEARED_KEPT
