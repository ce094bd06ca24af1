"""Trees into recovery points: what every run does once it has its views, and all that a test or a benchmark needs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec import UNSET

from trinity_snap.backup.shipper import Shipped, Shipper
from trinity_snap.backup.treecache import Signature, TreeCache, cache_path, forget_all_but
from trinity_snap.progress import NullProgress, Progress
from trinity_snap.repository.manifest import Entry
from trinity_snap.repository.points import RecoveryPoint, Volume, encode_pack_references
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.session import ChunkGone, Session
from trinity_snap.snapshot.view import DirectoryView, SourceView

__all__ = ["AgentPoint", "Engine", "SourceSpec", "backup_tree"]

_SHIP_AGAIN = 3
_QUIET_NS = 2_000_000_000  # a single write() sets ctime when it starts, and may take long


@dataclass(frozen=True)
class SourceSpec:
    """What a recovery point says of a volume besides its content. `kind` is `volume` or `path`.

    `selection`: the patterns of what was taken, if that is not all of it.
    """

    name: str
    kind: str = "volume"
    source: str = ""
    destination: str = ""
    driver: str = "local"
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    selection: tuple[str, ...] = ()


@dataclass(frozen=True)
class AgentPoint:
    """What a recovery point says besides its volumes; see `RecoveryPoint`."""

    agent: str
    host: str
    run_id: str
    created_ns: int
    mode: str
    provider: str
    consistency: str
    pause_ns: int = 0
    container: dict[str, Any] | None = None


Octets = bytes  # the structure below has a field called `bytes`


@dataclass
class Committed:
    """A recovery point that is in the repository."""

    id: str
    files: int
    bytes: int
    bytes_read: int
    point_bytes: int
    problems: list[tuple[str, Octets, str]]


class Engine:
    """Ships sources and commits points in one session. For one thread; use it as a context manager."""

    def __init__(self, repository: Repository, cache_directory: Path, progress: Progress | None = None) -> None:
        self._trees = cache_directory / repository.id.hex() / "trees"
        self._sweep()
        self._repository = repository
        self.session: Session = repository.begin_session(cache_directory)
        host = repository.host
        self._candidates: set[str] = set()  # sources of which this session shipped a live pass
        self._read_ahead: dict[str, int] = {}  # bytes that passes read, by source
        self._changed: dict[str, dict[bytes, tuple[Signature, Entry]]] = {}  # what later passes found changed
        self._shipper = Shipper(self.session, host.chunker_seed, host.page_seed, progress or NullProgress())

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    def _sweep(self) -> None:
        """Remove what a run that died left half written."""
        for pattern in ("*.draft", "*.candidate", "*.new"):
            for path in self._trees.glob(pattern):
                path.unlink(missing_ok=True)

    def _paths(self, source: SourceSpec) -> tuple[Path, Path]:
        tree = cache_path(self._trees, source.kind, source.name)
        return tree, tree.with_suffix(".candidate")

    def ship_pass(
        self,
        source: SourceSpec,
        view: SourceView,
        tree_root: Path,
        pass_number: int,
        pass_start_ns: int,
        exclude: Sequence[str] = (),
    ) -> Mapping[bytes, tuple[int, int, int, int]]:
        """Ship a tree that is in use, ahead of the pause; `tree_root` is where it lies.

        Pass 1 sees the whole tree, later ones what has changed since. Return the signatures of what was read cleanly,
        by path. A file whose ctime is not older than `pass_start_ns` (Unix time) is shipped, and left out of that.
        """
        live = DirectoryView(tree_root, live=True)
        read_before = self._shipper.bytes_read
        try:
            if pass_number > 1:
                changed = self._changed.setdefault(source.name, {})
                return self._shipper.ship_changed(view, live, pass_start_ns, changed)
            return self._first_pass(source, view, live, pass_start_ns, exclude)
        finally:
            read = self._shipper.bytes_read - read_before
            self._read_ahead[source.name] = self._read_ahead.get(source.name, 0) + read

    def _first_pass(
        self,
        source: SourceSpec,
        view: SourceView,
        live: DirectoryView,
        pass_start_ns: int,
        exclude: Sequence[str],
    ) -> Mapping[bytes, tuple[int, int, int, int]]:
        tree, candidate = self._paths(source)
        self._changed.pop(source.name, None)
        self._shipper.ship(
            view,
            candidate,
            parent=TreeCache.open(tree),
            quiet_before_ns=pass_start_ns,
            exclude=exclude,
            live=live,
        )
        self._candidates.add(source.name)
        return self._shipper.signatures(candidate)

    def ship(self, source: SourceSpec, view: SourceView, instant_ns: int, exclude: Sequence[str] = ()) -> Shipped:
        """Ship a source as it was at `instant_ns` (Unix time)."""
        tree, candidate = self._paths(source)
        passed = source.name in self._candidates
        shipped = self._shipper.ship(
            view,
            tree.with_suffix(".draft"),
            parent=TreeCache.open(candidate if passed else tree),
            parent_is_draft=passed,
            quiet_before_ns=instant_ns - _QUIET_NS,
            exclude=exclude,
            changed=self._changed.get(source.name),
        )
        candidate.unlink(missing_ok=True)
        self._candidates.discard(source.name)
        shipped.bytes_read += self._read_ahead.pop(source.name, 0)

        def again() -> Shipped:
            """What passes shipped is no longer believed; pages are taken over from the last point if they are whole."""
            return self._shipper.ship(
                view,
                tree.with_suffix(".draft"),
                parent=TreeCache.open(tree),
                quiet_before_ns=instant_ns - _QUIET_NS,
                exclude=exclude,
            )

        shipped.again = again
        return shipped

    def forget_others(self, sources: Iterable[SourceSpec]) -> None:
        """Remove what is remembered of every source but these."""
        forget_all_but(self._trees, {self._paths(source)[0] for source in sources})

    def flush(self) -> None:
        """Make everything shipped so far durable."""
        self.session.flush()

    def commit(self, point: AgentPoint, shipped: Sequence[tuple[SourceSpec, Shipped]]) -> Committed:
        """Make everything durable and write the agent's recovery point.

        What prune has condemned since is read again from the views, and stored anew. Raise ChunkGone if there is no end to that.
        """
        packs = self._settle_all(shipped)
        volumes = []
        problems: list[tuple[str, bytes, str]] = []
        for source, outcome in shipped:
            problems += [(source.name, path, reason) for path, reason in outcome.problems]
            volumes.append(
                Volume(
                    name=source.name,
                    kind=source.kind,
                    source=source.source,
                    destination=source.destination,
                    driver=source.driver,
                    labels=dict(source.labels),
                    options=dict(source.options),
                    root=outcome.root,
                    root_length=outcome.root_length,
                    entries=outcome.entries,
                    files=outcome.files,
                    bytes=outcome.bytes,
                    selection=list(source.selection) if source.selection else UNSET,
                )
            )
        references = [self.session.index.pack_reference(pack) for pack in packs]
        files, size = sum(volume.files for volume in volumes), sum(volume.bytes for volume in volumes)
        stored_before = self.session.bytes_stored
        point_id = self.session.commit(
            RecoveryPoint(
                agent=point.agent,
                host=point.host,
                run_id=point.run_id,
                created_ns=point.created_ns,
                mode=point.mode,
                provider=point.provider,
                consistency=point.consistency,
                pause_ns=point.pause_ns,
                files=files,
                bytes=size,
                volumes=volumes,
                container=point.container,
                packs=encode_pack_references(references),
                problems=problems,
            )
        )
        for source, outcome in shipped:
            tree, _ = self._paths(source)
            tree.with_suffix(".new").replace(tree)
            outcome.draft.unlink(missing_ok=True)
        bytes_read = sum(outcome.bytes_read for _, outcome in shipped)
        point_bytes = self.session.bytes_stored - stored_before
        return Committed(point_id, files, size, bytes_read, point_bytes, problems)

    def _settle_all(self, shipped: Sequence[tuple[SourceSpec, Shipped]]) -> set[int]:
        """Return the ordinals of the packs that the sources need, none of which is fenced."""
        for attempt in range(_SHIP_AGAIN + 1):
            self.session.flush()
            self._repository.look_again(self.session)
            packs: set[int] = set()
            again = False
            for source, outcome in shipped:
                try:
                    packs |= self._shipper.settle(outcome, self._paths(source)[0])
                except ChunkGone:
                    if outcome.again is None or attempt == _SHIP_AGAIN:
                        raise
                    outcome.replace(outcome.again())
                    again = True
            if not again:
                return packs
        raise AssertionError


def backup_tree(
    repository: Repository,
    cache_directory: Path,
    root: Path,
    *,
    agent: str = "tree",
    name: str | None = None,
    progress: Progress | None = None,
) -> Committed:
    """Make a recovery point of one directory tree that is at rest, as agent `agent` with the one volume `name`."""
    now = time.time_ns()
    source = SourceSpec(name or agent)
    with Engine(repository, cache_directory, progress) as engine:
        shipped = engine.ship(source, DirectoryView(root), now)
        point = AgentPoint(agent, "local", f"{now:032x}", now, "none", "directory", "file-consistent")
        return engine.commit(point, [(source, shipped)])
