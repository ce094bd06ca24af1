"""Where the events of a report come from, besides the journal of this host: repositories, and answers of other hosts."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trinity_snap.errors import UsageError
from trinity_snap.events import EventJournal, load_facts
from trinity_snap.monitor.platform import of_platform
from trinity_snap.monitor.room import room_at
from trinity_snap.report.picture import HostPicture, Wrong, paint
from trinity_snap.report.removed import removed_agents
from trinity_snap.report.times import timestamp

if TYPE_CHECKING:
    from trinity_snap.events import Event
    from trinity_snap.policy.schema import Policy
    from trinity_snap.repository.repository import Repository

__all__ = ["picture_of_host", "picture_of_repository", "pictures_in"]


def picture_of_host(policy: Policy, now: datetime) -> HostPicture:
    """This host, from its own journal. Nothing is opened."""
    state = policy.state.directory
    facts = load_facts(state)
    return paint(
        EventJournal(state).read(), policy, now, host=policy.host_name, room=room_at(policy.target.url), facts=facts,
        seen=of_platform(policy, now),
    )  # fmt: skip


def picture_of_repository(policy: Policy, repository: Repository, now: datetime) -> HostPicture:
    """A host from its repository alone, opened with an identity: its recovery points, its drills, what was checked.

    Raise TargetError.
    """
    points = repository.points()
    host = policy.host or (points[0].host if points else policy.host_name)
    events = _events_of(repository)
    events.append(_present({point.agent for point in points}, removed_agents(policy, (p.agent for p in points)), now))
    return paint(list(_numbered(events)), policy, now, host=host, room=room_at(policy.target.url))


def pictures_in(path: Path, now: datetime) -> list[HostPicture]:
    """The hosts in a file: an answer of `report`, `status` or `fleet status` with --json. Raise UsageError."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}.") from error
    try:
        if isinstance(document, dict) and isinstance(document.get("hosts"), list):
            return [found for one in document["hosts"] for found in _host_in(one, now)]
        if isinstance(document, dict) and isinstance(document.get("agents"), list):
            return [_picture_of_status(document, path.stem, now)]
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is not what `report`, `status` or `fleet status` answer: {error!r:.100}.") from error
    raise UsageError(
        f"{path} is not what `report`, `status` or `fleet status` answer.",
        next_step="Make one with `trinity-snap fleet status --json -i INVENTORY > FILE`.",
    )


def _host_in(one: Mapping[str, Any], now: datetime) -> Iterator[HostPicture]:
    if "made" in one:
        import msgspec

        yield msgspec.convert(one, HostPicture)
        return
    answer = one.get("answer") or {}
    picture = _picture_of_status(answer, str(one["host"]), now)
    if one.get("outcome") != "done":
        sentence = f"{one['host']} is {one.get('outcome')}: {one.get('message') or 'no reason was noted'}"
        picture.wrong.insert(0, Wrong("host", str(one["host"]), "critical", sentence, "See whether it can be reached."))
    yield picture


def _picture_of_status(answer: Mapping[str, Any], host: str, now: datetime) -> HostPicture:
    """A host as its `status` has it: the last point of every agent, no curves; judged by the default policy."""
    from trinity_snap.policy.schema import Policy

    events = []
    for one in answer.get("agents") or ():
        last = one.get("last_run") or {}
        drill = one.get("drill") or {}
        part = {
            "agent": one["agent"], "outcome": "done", "point": one["point"], "files": one["files"], "bytes": one["bytes"],
            "stored": 0, "pause": one["pause_seconds"] or 0, "seconds": one["duration_seconds"] or 0,
            "consistency": one["consistency"] or "", "error": None,
        }  # fmt: skip
        if one["point"]:
            events.append(_backup(one["created"], [part]))
        if last.get("outcome") in ("failed", "incomplete"):
            failed = {**part, "outcome": "failed", "point": None, "error": last.get("error")}
            events.append(_backup(_time(last["started"]), [failed]))
        if drill.get("last"):
            events.append(_drill({**drill, "agent": one["agent"], "started": drill["last"], "point": None}))
        if drill.get("proved"):
            events.append(_drill({"agent": one["agent"], "started": drill["proved"], "outcome": "proved"}))
    checked = answer.get("data_checked") or {}
    if checked.get("complete_since"):
        events.append(_checked(checked["complete_since"], checked["damaged"]))
    ordered = sorted(events, key=lambda event: str(event["time"]))
    agents = answer.get("agents") or ()
    ordered.append(
        _present({one["agent"] for one in agents}, {one["agent"] for one in agents if one.get("removed")}, now)
    )
    picture = paint(_numbered(ordered), Policy.model_validate({"host": host}), now, host=host)
    picture.target = "as its status says"
    return picture


def _events_of(repository: Repository) -> list[Event]:
    from trinity_snap.report.checked import checked_data
    from trinity_snap.repository.counting import void_points
    from trinity_snap.repository.drills import read_drills

    points = repository.points()
    void = void_points(repository, points)
    events = []
    for point in points:
        if point.id in void:
            continue
        part = {
            "agent": point.agent, "outcome": "incomplete" if point.problems else "done", "point": point.id,
            "files": point.files, "bytes": point.bytes, "stored": 0, "pause": point.pause_ns / 1e9, "seconds": 0,
            "consistency": point.consistency,
            "error": f"{len(point.problems)} entries could not be backed up." if point.problems else None,
        }  # fmt: skip
        events.append(_backup(timestamp(point.created), [part]))
    events += [_drill(one.summary) for one in read_drills(repository.target, repository.host)]
    checked = checked_data(repository)
    if checked is not None and isinstance(checked["complete_since"], str):
        events.append(_checked(checked["complete_since"], checked["damaged"]))
    return sorted(events, key=lambda event: str(event["time"]))


def _backup(when: str, parts: list[dict[str, Any]]) -> Event:
    return {"time": when, "event": "backup", "outcome": "done", "created": when, "whole": False, "agents": parts}


def _drill(summary: Mapping[str, Any]) -> Event:
    return {"time": summary["started"], "event": "drill", "outcome": "done", "drills": [dict(summary)]}


def _present(agents: Collection[str], removed: Collection[str], now: datetime) -> Event:
    """Which of the agents are still backed up, as the last event."""
    left = sorted(name for name in agents if name not in removed)
    return {"time": timestamp(now), "event": "agents", "agents": left, "whole": True}


def _checked(when: str, damaged: object) -> Event:
    return {"time": when, "event": "checked", "verified": when, "damaged": damaged}


def _numbered(events: list[Event]) -> Iterator[Event]:
    yield from ({**event, "seq": number} for number, event in enumerate(events, 1))


def _time(text: str) -> str:
    found = datetime.fromisoformat(text)
    return timestamp(found if found.tzinfo is not None else found.replace(tzinfo=UTC))
