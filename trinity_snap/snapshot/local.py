"""Local snapshots: what runs kept on this host to roll back to, and the note of it.

One file for each, `<state directory>/local/<id>.json`, written before the snapshots get their lasting names and removed
after they are gone: so whatever a crash leaves, the notes decide. A snapshot that the notes do not name is never used.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from trinity_snap.durable import fsync_directory, make_directory_durably, write_file_durably
from trinity_snap.errors import SnapshotError, TrinitySnapError
from trinity_snap.snapshot.protocol import Keeper, Kept, KeptTree

if TYPE_CHECKING:
    from trinity_snap.agents.model import Source

__all__ = [
    "LocalAgent",
    "LocalSnapshot",
    "LocalSource",
    "Unregistered",
    "can_keep",
    "close_all",
    "finish_removals",
    "keeper",
    "local_snapshots",
    "local_source",
    "prune",
    "remove_local",
    "settle_run",
    "unregistered",
    "write_local",
]

_KEEPERS = {"btrfs": "trinity_snap.snapshot.btrfs_store", "lvm-thin": "trinity_snap.snapshot.lvm_store"}
_UNDO_KEPT = 3
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class LocalSource:
    """A volume or path of an agent, as it was; the members are those of `trinity_snap.agents.model.Source`."""

    name: str
    kind: str
    path: str
    destination: str = ""
    driver: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LocalAgent:
    """An agent in a local snapshot; `point` is the recovery point of the same instant, empty if there is none."""

    name: str
    consistency: str
    sources: tuple[LocalSource, ...]
    point: str = ""


@dataclass(frozen=True)
class LocalSnapshot:
    """What stays of one run, or of the state before one rollback.

    `created_ns` is its instant. `before_rollback` is the id of the rollback that it can undo, empty for a run's.
    `removing` says that it is being removed, and is not to be used.
    """

    id: str
    created_ns: int
    agents: tuple[LocalAgent, ...]
    kept: tuple[Kept, ...]
    before_rollback: str = ""
    removing: bool = False

    @property
    def created(self) -> datetime:
        """The instant, in UTC."""
        return datetime.fromtimestamp(self.created_ns / 1e9, UTC)

    def agent(self, name: str) -> LocalAgent | None:
        """The agent of that name in it."""
        return next((agent for agent in self.agents if agent.name == name), None)

    def trees(self, source: LocalSource) -> list[tuple[Kept, KeptTree]]:
        """The parts of a source's tree, the outer before the inner."""
        found = [(kept, tree) for kept in self.kept for tree in kept.trees]
        own = [(kept, tree) for kept, tree in found if (tree.kind, tree.name) == (source.kind, source.name)]
        return sorted(own, key=lambda each: each[1].at)


@dataclass(frozen=True)
class Unregistered:
    """Something with the name of a kept snapshot that no note here knows."""

    id: str
    where: str
    provider: str


def can_keep(provider: str) -> bool:
    """Whether the snapshots of a provider can stay on this host."""
    return provider in _KEEPERS


def close_all() -> None:
    """Undo what readers of local snapshots left behind when they died. The caller holds the host. Raise SnapshotError."""
    for provider in _KEEPERS:
        keeper(provider).close_all()


def keeper(provider: str) -> Keeper:
    """Who knows the kept snapshots of a provider. Raise SnapshotError if this version knows none."""
    if provider not in _KEEPERS:
        raise SnapshotError(f"Local snapshots of the provider “{provider}” are not known to this version.")
    return cast("Keeper", import_module(_KEEPERS[provider]))


def local_source(source: Source) -> LocalSource:
    """What is noted of a source."""
    return LocalSource(
        source.name,
        source.kind,
        str(source.path),
        source.destination,
        source.driver,
        dict(source.labels),
        dict(source.options),
    )


def write_local(state_dir: Path, snapshot: LocalSnapshot) -> None:
    """Note a local snapshot durably. Raise SnapshotError."""
    if not _ID.fullmatch(snapshot.id):
        raise ValueError(f"not an id: {snapshot.id!r}")
    directory = Path(state_dir) / "local"
    try:
        make_directory_durably(directory)
        write_file_durably(directory / f"{snapshot.id}.json", json.dumps(asdict(snapshot), indent=1).encode() + b"\n")
    except OSError as error:
        raise SnapshotError(
            f"The note of the local snapshot cannot be written to {directory}: {error.strerror}."
        ) from error


def local_snapshots(state_dir: Path) -> list[LocalSnapshot]:
    """All local snapshots that are noted and not being removed, the newest first. Raise SnapshotError if a note is damaged."""
    return [snapshot for snapshot in _all(state_dir) if not snapshot.removing]


def settle_run(state_dir: Path, run_id: str) -> None:
    """End what a dead run began: what is noted as kept gets its lasting name. Raise SnapshotError."""
    for snapshot in _all(state_dir):
        if snapshot.id == run_id and not snapshot.removing:
            for kept in snapshot.kept:
                keeper(kept.provider).settle(kept)


def finish_removals(state_dir: Path) -> list[str]:
    """Remove what was being removed when a process died. Return a sentence for each that stays."""
    return _remove_all(state_dir, [snapshot for snapshot in _all(state_dir) if snapshot.removing])


def remove_local(state_dir: Path, snapshot: LocalSnapshot) -> None:
    """Remove a local snapshot and its note. Raise SnapshotError if something stays; the note stays then, too."""
    with suppress(SnapshotError):  # on a full disk: removing is what makes room, and what is half removed is never used
        write_local(state_dir, replace(snapshot, removing=True))
    for kept in snapshot.kept:
        keeper(kept.provider).remove(kept)
    directory = Path(state_dir) / "local"
    try:
        os.unlink(directory / f"{snapshot.id}.json")
        fsync_directory(directory)
    except OSError as error:
        raise SnapshotError(f"The note of local snapshot {snapshot.id} stays: {error.strerror}.") from error


def prune(state_dir: Path, keep: int | None, agents: Collection[str] | None) -> list[str]:
    """Remove local snapshots that are not among the newest `keep` of any agent, and old ones from before rollbacks.

    With `keep` None those of runs all stay. `agents` are those that still exist, None: all that ever were; for others nothing
    is kept. Of what was taken before rollbacks, each agent keeps its newest three. Return a sentence for each that stays
    though it should not.
    """
    wanted: set[str] = set()
    seen: dict[tuple[str, bool], int] = {}
    every = local_snapshots(state_dir)
    for snapshot in every:
        is_undo = bool(snapshot.before_rollback)
        for agent in snapshot.agents:
            if agents is not None and agent.name not in agents:
                continue
            number = seen[agent.name, is_undo] = seen.get((agent.name, is_undo), 0) + 1
            limit = _UNDO_KEPT if is_undo else keep
            if limit is None or number <= limit:
                wanted.add(snapshot.id)
    return _remove_all(state_dir, [snapshot for snapshot in every if snapshot.id not in wanted])


def unregistered(state_dir: Path) -> list[Unregistered]:
    """Everything on this host that has the name of a kept snapshot and that no note here knows."""
    known = {kept.where for snapshot in _all(state_dir) for kept in snapshot.kept}
    found: list[Unregistered] = []
    for provider in _KEEPERS:
        found += [Unregistered(run, where, provider) for run, where in keeper(provider).find() if where not in known]
    return found


def _remove_all(state_dir: Path, snapshots: Iterable[LocalSnapshot]) -> list[str]:
    problems = []
    for snapshot in snapshots:
        try:
            remove_local(state_dir, snapshot)
        except TrinitySnapError as error:
            problems.append(f"Local snapshot {snapshot.id} could not be removed: {error}")
    return problems


def _all(state_dir: Path) -> Sequence[LocalSnapshot]:
    found = []
    for path in (Path(state_dir) / "local").glob("*.json"):
        try:
            found.append(_parse(json.loads(path.read_bytes())))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise SnapshotError(
                f"The note {path} of a local snapshot cannot be read: {error}.",
                untouched="Nothing was changed.",
                next_step="Move the file away: then `trinity-snap recover` names the snapshots that it was about.",
            ) from error
    return sorted(found, key=lambda snapshot: (snapshot.created_ns, snapshot.id), reverse=True)


def _parse(fields: dict[str, Any]) -> LocalSnapshot:  # JSON as it was written
    kept = [
        Kept(**{**one, "trees": tuple(KeptTree(**{**tree, "hidden": tuple(tree["hidden"])}) for tree in one["trees"])})
        for one in fields["kept"]
    ]
    agents = [
        LocalAgent(**{**one, "sources": tuple(LocalSource(**source) for source in one["sources"])})
        for one in fields["agents"]
    ]
    return LocalSnapshot(**{**fields, "kept": tuple(kept), "agents": tuple(agents)})
