"""The last proven restore of every agent: what `status` says of drills."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trinity_snap.policy.schema import DrillSection
    from trinity_snap.report.status import Status
    from trinity_snap.repository.repository import Repository

__all__ = ["DrillStatus", "add_drills", "known_drills"]

Summary = Mapping[str, object]


@dataclass
class DrillStatus:
    """The drills of one agent. `point` and `proved` are of the last that proved its point, None if none did.

    `last`, `outcome` and `reason` are of the last one, whatever came of it. `stale`: too long ago, by the policy.
    """

    point: str | None = None
    proved: str | None = None
    age_seconds: float | None = None
    last: str | None = None
    outcome: str | None = None
    reason: str | None = None
    stale: bool = False


def known_drills(repository: Repository | None, remembered: Iterable[Summary]) -> list[Summary]:
    """What this host remembers, and what the repository says, each drill once."""
    from trinity_snap.errors import TargetError
    from trinity_snap.repository.drills import read_drills

    found = {str(one.get("drill_id")): one for one in remembered}
    if repository is not None:
        try:
            found |= {
                str(one.summary.get("drill_id")): one.summary for one in read_drills(repository.target, repository.host)
            }
        except TargetError:  # such as no right to read receipts: what this host remembers must do
            pass
    return list(found.values())


def add_drills(status: Status, drills: Iterable[Summary], section: DrillSection, now: datetime | None = None) -> None:
    """Add to every agent of `status` when it was proved last, and warnings: it failed, or is longer ago than the policy wants."""
    moment = now or datetime.now(UTC)
    by_agent: dict[str, list[Summary]] = {}
    for one in sorted(drills, key=lambda one: str(one.get("started")), reverse=True):
        by_agent.setdefault(str(one.get("agent")), []).append(one)
    for agent in status.agents:
        found = _summed_up(by_agent.get(agent.agent, []), moment)
        wanted = any(fnmatchcase(agent.agent, pattern) for pattern in section.agents)
        limit = section.longest_age if wanted else None
        if found.outcome == "failed":
            agent.warnings.append(f"The last drill failed: {found.reason or 'no reason was noted'}")
        if limit is not None and agent.point is not None and not agent.removed:
            found.stale = found.age_seconds is None or timedelta(seconds=found.age_seconds) > limit
            if found.stale:
                last = "never been" if found.proved is None else "not been"
                agent.warnings.append(
                    f"That it can be restored has {last} proved within {section.max_age}: run a drill."
                )
        agent.drill = found


def _summed_up(drills: list[Summary], now: datetime) -> DrillStatus:
    status = DrillStatus()
    if drills:
        status.last, status.outcome = _text(drills[0], "started"), _text(drills[0], "outcome")
        status.reason = _text(drills[0], "reason")
    for one in drills:
        if one.get("outcome") == "proved" and (moment := _moment(one.get("started"))) is not None:
            status.point, status.proved = _text(one, "point"), _text(one, "started")
            status.age_seconds = round((now - moment).total_seconds(), 3)
            break
    return status


def _text(summary: Summary, key: str) -> str | None:
    value = summary.get(key)
    return value if isinstance(value, str) else None


def _moment(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
