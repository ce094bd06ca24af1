"""How every replica stands: whether it answers, when it was up to date last, and what it lacks."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from trinity_snap.errors import TrinitySnapError
from trinity_snap.replication.copying import missing_packs, missing_points, sizes_of
from trinity_snap.replication.places import in_threads, open_replica, unreachable
from trinity_snap.replication.state import ReplicaState, read_state
from trinity_snap.targets import open_target

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy, ReplicaSection

__all__ = ["ReplicaStatus", "replica_status"]

_ANSWER_SECONDS = 10.0
_LIST_SECONDS = 600.0


@dataclass
class ReplicaStatus:
    """One replica. `stale`: it has not been up to date for longer than its `max_age`.

    `points_behind` and `bytes_behind` are from the last replication, or from the lists at this moment if `listed`; None
    where they are not known.
    """

    name: str
    url: str
    reachable: bool = False
    last_success: str | None = None
    age_seconds: float | None = None
    points_behind: int | None = None
    bytes_behind: int | None = None
    behind_since: str | None = None
    last_attempt: str | None = None
    outcome: str | None = None
    error: str | None = None
    listed: bool = False
    stale: bool = False
    warnings: list[str] = field(default_factory=list)


def replica_status(policy: Policy, *, list_them: bool = False, now: datetime | None = None) -> list[ReplicaStatus]:
    """How the replicas of a policy stand, from what this host remembers; with `list_them` from what is there.

    All are asked at once, and those that do not answer in ten seconds count as not reachable.
    """
    moment = now or datetime.now(UTC)
    states = {one.name: read_state(policy.state.directory, one.name, one.url) for one in policy.replicas}
    reasons = in_threads(
        policy.replicas, lambda one: [unreachable(policy, one, begun=states[one.name].begun)], _ANSWER_SECONDS
    )
    listed = in_threads(policy.replicas, lambda one: _behind(policy, one), _LIST_SECONDS) if list_them else {}
    found = []
    for number, replica in enumerate(policy.replicas):
        status = _remembered(replica, states[replica.name], moment)
        (reason,) = reasons.get(number, ["It does not answer."])
        status.reachable = reason is None
        if reason is not None:
            status.warnings.append(f"It cannot be reached: {reason}")
        if (behind := listed.get(number)) is not None:
            status.points_behind, status.bytes_behind = behind
            status.listed = True
        _judge(status, replica, moment)
        found.append(status)
    return found


def _remembered(replica: ReplicaSection, state: ReplicaState, now: datetime) -> ReplicaStatus:
    success = _moment(state.last_success)
    return ReplicaStatus(
        replica.name,
        replica.url,
        last_success=state.last_success,
        age_seconds=None if success is None else round((now - success).total_seconds(), 3),
        points_behind=state.points_behind,
        bytes_behind=state.bytes_behind,
        behind_since=state.behind_since,
        last_attempt=state.last_attempt,
        outcome=state.outcome,
        error=state.error,
    )


def _judge(status: ReplicaStatus, replica: ReplicaSection, now: datetime) -> None:
    if status.listed and not status.points_behind and not status.bytes_behind:
        return  # whoever brought it up to date
    if status.outcome is not None and status.outcome != "done":
        status.warnings.append(f"The last replication: {status.error or status.outcome}")
    success = _moment(status.last_success)
    since = success or _moment(status.behind_since)
    if status.last_attempt is None:
        status.warnings.append(
            "Nothing was replicated there from this host; `status --list-replicas` looks what is there."
        )
        status.stale = True
    elif since is None or now - since > replica.longest_age:
        last = "never been" if success is None else "not been"
        status.warnings.append(f"It has {last} up to date for longer than {replica.max_age}.")
        status.stale = True


def _behind(policy: Policy, replica: ReplicaSection) -> tuple[int, int] | None:
    """How many points, and how many bytes of packs, the replica lacks; None if that cannot be found out."""
    try:
        first, target = open_target(policy.target.settings()), open_replica(policy, replica)
        return len(missing_points(first, target)), sizes_of(first, missing_packs(first, target))
    except (TrinitySnapError, OSError):
        return None


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
