"""Which local snapshots there are, and removing one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trinity_snap.errors import RestoreRefused
from trinity_snap.snapshot.local import (
    LocalSnapshot,
    Unregistered,
    keeper,
    local_snapshots,
    remove_local,
    unregistered,
)

__all__ = ["LocalListing", "list_local", "remove"]


@dataclass(frozen=True)
class LocalListing:
    """The local snapshots, newest first, and what looks like one and is not noted here."""

    snapshots: tuple[LocalSnapshot, ...]
    unregistered: tuple[Unregistered, ...]

    def to_json(self, now: datetime | None = None) -> dict[str, Any]:
        """As `--json` shows it."""
        moment = now or datetime.now(UTC)
        return {
            "local_snapshots": [_json(snapshot, moment) for snapshot in self.snapshots],
            "unregistered": [{"local": one.id, "where": one.where} for one in self.unregistered],
        }


def list_local(state_dir: Path, agent: str | None = None) -> LocalListing:
    """All local snapshots, or those with an agent in them. Raise SnapshotError."""
    snapshots = [one for one in local_snapshots(state_dir) if agent is None or one.agent(agent) is not None]
    return LocalListing(tuple(snapshots), tuple(unregistered(state_dir)) if agent is None else ())


def remove(state_dir: Path, local: str, *, dry_run: bool = False) -> list[str]:
    """Remove the local snapshot with this id, or the start of it, noted here or not. Return its id and where it was.

    The caller holds the host. Raise RestoreRefused if there is none or several, SnapshotError if something stays.
    """
    noted = [one for one in local_snapshots(state_dir) if local and one.id.startswith(local)]
    others = [one for one in unregistered(state_dir) if local and one.id.startswith(local)]
    ids = {one.id for one in noted} | {one.id for one in others}
    if len(ids) != 1:
        problem = "Several local snapshots begin with" if ids else "There is no local snapshot"
        raise RestoreRefused(
            f"{problem} “{local}”.",
            untouched="Nothing was changed.",
            next_step="`trinity-snap rollback --list` shows them.",
        )
    removed = [kept.where for one in noted for kept in one.kept] + [one.where for one in others]
    if not dry_run:
        for snapshot in noted:
            remove_local(state_dir, snapshot)
        for one in others:
            keeper(one.provider).remove_found(one.where)
    return [ids.pop(), *removed]


def _json(snapshot: LocalSnapshot, now: datetime) -> dict[str, Any]:
    return {
        "local": snapshot.id,
        "created": snapshot.created.isoformat(),
        "age_seconds": round((now - snapshot.created).total_seconds(), 3),
        "agents": [
            {"agent": agent.name, "point": agent.point or None, "consistency": agent.consistency}
            for agent in snapshot.agents
        ],
        "before_rollback": snapshot.before_rollback or None,
        "where": [kept.where for kept in snapshot.kept],
    }
