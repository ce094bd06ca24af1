"""Bringing one replica up to date: what it lacks is copied as it is, sealed, in the order of safety, points last.

No keys are needed, and nothing is ever deleted. It follows a writer's protocol (docs/format.md, “Replicas”): the points
to be copied are listed at the source, a copy note that names them is put at the replica, and only then is looked for
what is there and what is missing; everything that the points can need is at the replica before the first of them is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from threading import Lock

from trinity_snap.errors import (
    ForeignRepository,
    IntegrityError,
    ObjectMissing,
    RepositoryMissing,
    TargetDenied,
    TargetError,
)
from trinity_snap.progress import Progress
from trinity_snap.replication.reading import read_repository_id, read_sealed
from trinity_snap.replication.workers import for_all
from trinity_snap.repository.copies import put_copy_note
from trinity_snap.repository.sealed import POINT_MAGIC, parse_header
from trinity_snap.targets.names import FLAT_KINDS, PER_STORAGE_KINDS
from trinity_snap.targets.protocol import Target

__all__ = ["COPIED_KINDS", "Copied", "Needs", "bring_up_to_date", "missing_packs", "missing_points", "sizes_of"]

Needs = Callable[[str], Collection[bytes] | None]
"""The SHA-256 of every pack that the point with that id needs, None if that cannot be told. It takes an identity."""

_BEFORE_PACKS = ("recipients", "sessions")
_AFTER_PACKS = ("index",)
_OTHERS = sorted(set(FLAT_KINDS) - PER_STORAGE_KINDS - {"points", *_BEFORE_PACKS, *_AFTER_PACKS})
COPIED_KINDS = (*_BEFORE_PACKS, *_OTHERS, "packs", *_AFTER_PACKS)
"""The kinds of objects that are copied before the points, in that order."""

_WORKERS = 4
_FRESH_SECONDS = 3600.0
_SIZES_ASKED = 256


@dataclass
class Copied:
    """What came of it, up to date at every moment.

    `points`, `objects`, `bytes`: put at the replica. `points_behind`: at the source and not at the replica, None before
    that is known; `bytes_behind` is the length of the packs that the replica lacks (an estimate where they are many).
    `damaged` says what is wrong with objects of the source, by name; `points_waiting` are kept back because of that.
    """

    points: int = 0
    objects: int = 0
    bytes: int = 0
    points_behind: int | None = None
    bytes_behind: int | None = None
    points_waiting: int = 0
    damaged: dict[str, str] = field(default_factory=dict)


def bring_up_to_date(
    source: Target,
    replica: Target,
    copied: Copied,
    progress: Progress,
    *,
    needs: Needs | None = None,
    despite_damage: bool = False,
    may_be_new: bool = True,
    look: Callable[[], None] = lambda: None,
) -> None:
    """Copy to `replica` what it lacks of the repository at `source`; `copied` says how far that came.

    Points that need a damaged pack are kept back: exactly those if `needs` can tell, else all that are new, unless
    `despite_damage`. `look` is called before each object, and may raise to end it all; what was copied stays, and is not
    sent again. Raise RepositoryMissing, ForeignRepository (another one is at the replica), TargetFull, TargetDenied,
    TargetError.
    """
    repository_id = _check_repository(source, replica, copied, may_be_new=may_be_new)
    _Copying(source, replica, repository_id, copied, progress, needs, despite_damage, look).run()


def missing_points(source: Target, replica: Target) -> set[bytes]:
    """The ids of the points that the replica lacks."""
    return _keys(source, "points") - _keys(replica, "points")


def missing_packs(source: Target, replica: Target) -> set[bytes]:
    """The SHA-256 of the packs that the replica lacks."""
    return _keys(source, "packs") - _keys(replica, "packs")


def sizes_of(source: Target, packs: Collection[bytes]) -> int:
    """The length of these packs together; an estimate from some of them where they are many."""
    asked = sorted(packs)[:: max(1, -(-len(packs) // _SIZES_ASKED))]  # names are hashes: any choice is a random one
    sizes: list[int] = []

    def ask(key: bytes) -> None:
        try:
            sizes.append(source.stat(_name("packs", key)).size)
        except ObjectMissing:
            sizes.append(0)

    for_all(asked, ask, _WORKERS)
    return sum(sizes) * len(packs) // len(asked) if asked else 0


def _check_repository(source: Target, replica: Target, copied: Copied, *, may_be_new: bool) -> bytes:
    """Claim the replica for the repository of the source, whose id is returned."""
    try:
        ours = source.get("repository")
    except ObjectMissing as error:
        raise RepositoryMissing(
            f"There is no repository at {source.url} to replicate.", next_step="Make one with `trinity-snap init`."
        ) from error
    repository_id = read_repository_id(ours)
    theirs = _repository_at(replica)
    if theirs is None:
        if not may_be_new:
            raise RepositoryMissing(
                f"There is nothing at {replica.url}, where the repository was replicated to before.",
                untouched="Nothing was written there.",
                next_step="Mount the disk that holds the replica. If it is lost, begin anew: "
                "`trinity-snap replicate NAME --anew`.",
            )
        if replica.put_if_absent("repository", ours):
            copied.objects += 1
            copied.bytes += len(ours)
        theirs = _repository_at(replica)
    if theirs != ours:
        raise ForeignRepository(
            f"{replica.url} holds another repository than {source.url}.",
            untouched="Nothing of it was touched.",
            next_step="Give the replica a place of its own in the policy.",
        )
    return repository_id


def _repository_at(target: Target) -> bytes | None:
    try:
        return target.get("repository")
    except ObjectMissing:
        return None


class _Copying:
    """One replication. The attributes that several threads change are guarded by `_lock`."""

    def __init__(
        self,
        source: Target,
        replica: Target,
        repository_id: bytes,
        copied: Copied,
        progress: Progress,
        needs: Needs | None,
        despite_damage: bool,
        look: Callable[[], None],
    ) -> None:
        self._source = source
        self._replica = replica
        self._repository_id = repository_id
        self._copied = copied
        self._progress = progress
        self._needs = needs
        self._despite_damage = despite_damage
        self._look = look
        self._workers = min(_WORKERS, max(source.parallel_gets, replica.parallel_puts))
        self._there: dict[str, set[bytes]] = {}
        self._lacks_packs = False
        self._lock = Lock()

    def run(self) -> None:
        # The points come first: what they need was put before them, so that the lists made after this one hold it.
        points = missing_points(self._source, self._replica)
        self._copied.points_behind = len(points)
        while True:
            note_at = _now()
            if points:
                put_copy_note(self._replica, self._repository_id, (key.hex() for key in points))
            for kind in COPIED_KINDS:
                self._copy_kind(kind)
            points -= self._put_points(points, until=note_at + _FRESH_SECONDS)
            if not points:
                break
        if self._copied.points and next(iter(self._replica.list_prefix("fences/")), None) is not None:
            self._copy_kind("packs")  # no honest prune takes from a replica what the source has; see that none did

    # -- all but points ---------------------------------------------------------------------------------------------

    def _copy_kind(self, kind: str) -> None:
        there = self._there[kind] = _keys(self._replica, kind)
        missing = _keys(self._source, kind) - there
        if kind == "packs":
            self._lacks_packs = False
            self._copied.bytes_behind = self._measure(missing)
        for_all(sorted(missing), lambda key: self._copy(kind, key), self._workers)
        if kind == "packs" and not self._lacks_packs:
            self._copied.bytes_behind = 0

    def _measure(self, packs: Collection[bytes]) -> int:
        try:
            return sizes_of(self._source, packs)
        except TargetDenied as error:
            raise _unreadable(self._source, error) from error

    def _copy(self, kind: str, key: bytes) -> None:
        name = _name(kind, key)
        self._look()
        data = self._read(name)
        if data is None:
            return
        self._put(name, data)
        with self._lock:
            self._there[kind].add(key)
            if kind == "packs":
                self._copied.bytes_behind = max(0, (self._copied.bytes_behind or 0) - len(data))

    def _read(self, name: str) -> bytes | None:
        """The bytes to copy; None if the object is gone, or is damaged, which is noted. Raise TargetError."""
        try:
            return read_sealed(self._source, name, self._repository_id)
        except ObjectMissing:
            return None  # what goes at the source after it was listed is nothing that a point needs
        except TargetDenied as error:
            raise _unreadable(self._source, error) from error
        except (ForeignRepository, IntegrityError, TargetError) as error:
            if isinstance(error, TargetError) and error.transient:
                raise
            with self._lock:
                self._copied.damaged[name] = str(error)
                self._lacks_packs |= name.startswith("packs/")
            return None

    def _put(self, name: str, data: bytes) -> None:
        new = self._replica.put_if_absent(name, data)
        with self._lock:
            if new:
                self._copied.objects += 1
                self._copied.bytes += len(data)
        self._progress.advance(len(data), self._replica.url)

    # -- points -----------------------------------------------------------------------------------------------------

    def _put_points(self, points: Iterable[bytes], until: float) -> set[bytes]:
        """Put those points whose needs are there, until that time. Return which are settled, one way or another."""
        settled: set[bytes] = set()
        for_all(sorted(points), lambda key: self._put_point(key, until, settled), self._workers)
        return settled

    def _put_point(self, key: bytes, until: float, settled: set[bytes]) -> None:
        name = _name("points", key)
        self._look()
        data = self._read(name)
        if data is None or not self._may_go(name, data):
            with self._lock:
                settled.add(key)
                if data is not None:
                    self._copied.points_waiting += 1
                elif name not in self._copied.damaged:
                    self._copied.points_behind = (self._copied.points_behind or 1) - 1  # it is no longer at the source
            return
        if _now() > until:
            return
        if not self._is_at_source(name):  # forgotten while it was read: it would stay at the replica
            with self._lock:
                settled.add(key)
                self._copied.points_behind = (self._copied.points_behind or 1) - 1
            return
        self._put(name, data)
        with self._lock:
            settled.add(key)
            self._copied.points += 1
            self._copied.points_behind = (self._copied.points_behind or 1) - 1

    def _is_at_source(self, name: str) -> bool:
        try:
            self._source.stat(name)
        except ObjectMissing:
            return False
        return True

    def _may_go(self, name: str, data: bytes) -> bool:
        """Whether all that a point needs is at the replica, as far as that can be known."""
        session = parse_header(data, POINT_MAGIC, self._repository_id, name).session_id
        if session not in self._there["sessions"]:
            return False
        if self._despite_damage:
            return True
        needed = None if self._needs is None else self._needs(name.removeprefix("points/"))
        return not self._lacks_packs if needed is None else self._there["packs"].issuperset(needed)


def _unreadable(source: Target, error: TargetDenied) -> TargetDenied:
    return TargetDenied(
        f"Objects of {source.url} may not be read from here, so they cannot be replicated from here: {error.message}",
        untouched="What is stored there is safe.",
        next_step="Run `trinity-snap replicate` where packs and points can be read, such as on the control node (no keys "
        "are needed there), and set `after_backup: false` for the replica on this host.",
    )


def _keys(target: Target, kind: str) -> set[bytes]:
    """What distinguishes the names of a kind: their digits, as bytes, of which there may be very many."""
    return {bytes.fromhex(name.rpartition("/")[2]) for name in target.list_prefix(f"{kind}/")}


def _name(kind: str, key: bytes) -> str:
    digits = key.hex()
    return f"packs/{digits[:2]}/{digits}" if kind == "packs" else f"{kind}/{digits}"


def _now() -> float:
    """Seconds that also pass while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
