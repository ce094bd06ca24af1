"""Which agents of which old hosts come to which new hosts, and from which of their recovery points.

Plain functions over what `trinity-snap list --json` and `trinity-snap restored --json` say; nothing here touches a host.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Sequence
from typing import Any

_PAIR = re.compile(r"\s*([^=:\s]+)\s*(?::([^=]*))?=\s*([^=:\s]+)\s*")
PLATFORM = "platform"


class Mistake(Exception):
    """The mapping, or what is asked of it, makes no sense; the sentence says why."""


class Move:
    """Agents of the host `old` come to the host `new`: those named, or (empty) all that no other move names."""

    def __init__(self, old: str, agents: Sequence[str], new: str) -> None:
        self.old = old
        self.agents = list(agents)
        self.new = new


def parse_onto(given: Iterable[str]) -> list[Move]:
    """`OLD=NEW` or `OLD:AGENT,AGENT=NEW`, each. Raise Mistake."""
    moves: list[Move] = []
    named: set[tuple[str, str]] = set()
    whole: set[str] = set()
    for text in given:
        match = _PAIR.fullmatch(str(text))
        agents = [] if match is None or match[2] is None else [name.strip() for name in match[2].split(",")]
        if match is None or not all(agents) or (match[2] is not None and not agents):
            raise Mistake(f"{text!r} is no OLD=NEW and no OLD:AGENT,AGENT=NEW.")
        for agent in agents:
            if (match[1], agent) in named:
                raise Mistake(f"{agent} of {match[1]} is to go to two places.")
            named.add((match[1], agent))
        if not agents:
            if match[1] in whole:
                raise Mistake(f"All agents of {match[1]} are to go to two places: name those that go to one of them.")
            whole.add(match[1])
        moves.append(Move(match[1], agents, match[3]))
    if not moves:
        raise Mistake("Nothing says which host's agents go where: write OLD=NEW.")
    return moves


def destinations(moves: Iterable[Move]) -> list[str]:
    """The new hosts, each once, in the order of the mapping."""
    return list(dict.fromkeys(move.new for move in moves))


def named_elsewhere(moves: Iterable[Move], move: Move) -> set[str]:
    """Agents of the same old host that other moves name."""
    return {agent for other in moves if other is not move and other.old == move.old for agent in other.agents}


def choose_points(
    points: Iterable[dict[str, Any]], move: Move, elsewhere: set[str], only: Sequence[str], run: str, at: str
) -> list[dict[str, Any]]:
    """One point of each agent that the move is about, `platform` first, from those of the old host, newest first.

    `only` restricts the agents, `run` to points of one run (or the start of its id), `at` to points as old as that time.
    Points that do not count are never taken. Raise Mistake if a named agent has none, or nobody has.
    """
    moment = parse_time(at) if at else None
    found: dict[str, dict[str, Any]] = {}
    for point in points:
        if point.get("void") is not None:
            continue
        if run and not str(point.get("run_id", "")).startswith(run.lower()):
            continue
        if moment is not None and parse_time(str(point["created"])) > moment:
            continue
        found.setdefault(str(point["agent"]), point)
    wanted = move.agents or sorted(set(found) - elsewhere)
    wanted = [agent for agent in wanted if not only or agent in only]
    of = f" of the run {run}" if run else f" as old as {at}" if at else ""
    lacking = [agent for agent in wanted if agent not in found]
    if lacking:
        raise Mistake(f"{move.old} has no recovery point{of} of {', '.join(lacking)}.")
    if not found:
        raise Mistake(f"{move.old} has no recovery point{of}.")
    return [found[agent] for agent in sorted(wanted, key=lambda agent: (agent != PLATFORM, agent))]


def parse_time(text: str) -> datetime.datetime:
    """An RFC 3339 time; without an offset it is UTC. Raise Mistake."""
    try:
        time = datetime.datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text.strip()))
    except ValueError:
        raise Mistake(f"{text!r} is no time such as 2026-09-07T09:00:00Z.") from None
    return time if time.tzinfo is not None else time.replace(tzinfo=datetime.timezone.utc)  # noqa: UP017  # Python 3.9


def in_order(chosen: Iterable[tuple[Move, dict[str, Any]]]) -> list[tuple[Move, dict[str, Any]]]:
    """Everything that comes to one host, `platform` first. Raise Mistake if two old hosts' agents have one name."""
    ordered = sorted(chosen, key=lambda each: (each[1]["agent"] != PLATFORM, each[1]["agent"]))
    for one, other in zip(ordered, ordered[1:]):  # noqa: B905, RUF007  # Python 3.9
        if one[1]["agent"] == other[1]["agent"]:
            raise Mistake(
                f"{one[1]['agent']} of {one[0].old} and {other[1]['agent']} of {other[0].old} cannot both come to {one[0].new}: "
                "their volumes have the same names."
            )
    return ordered


def is_done(restored: Iterable[dict[str, Any]], point: dict[str, Any]) -> bool:
    """Whether the host says that this very point was restored there, and is still there."""
    return any(one.get("point") == point["id"] and one.get("there") for one in restored)
