"""What a snapshot provider is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from trinity_snap.agents.model import Source
    from trinity_snap.errors import SnapshotError
    from trinity_snap.progress import Progress
    from trinity_snap.quiesce.journal import Journal
    from trinity_snap.snapshot.view import SourceView

STORE = ".trinity-snap"
"""The directory on a source's filesystem, outside of all sources, where a provider keeps what has to be there."""

Signature: TypeAlias = tuple[int, int, int, int]
"""What tells one state of a file from another: `st_ino`, `st_ctime_ns`, `st_mtime_ns`, `st_size`."""

ShipPass: TypeAlias = "Callable[[Source, SourceView, int], Mapping[bytes, Signature]]"
"""Ship the regular files that a live view shows: `ship_pass(source, view, pass_number)`.

The answer says for each path that was read whole, between two `lstat`s that gave the same, what that
signature was. What could not be read, or changed meanwhile, is left out. `pass_number` counts from 1. The
first view shows the whole tree, later ones only the root and the regular files that changed since.
"""


SourceKey: TypeAlias = tuple[str, str]
"""What tells a source from the others of a run: its kind and its name."""


def source_key(source: Source) -> SourceKey:
    """The key of a source."""
    return source.kind, source.name


TORN = "it was written to while it was copied, and may be torn"
"""The reason, among a provider's problems, for what nothing but holding the writers could have prevented."""


class BudgetExceeded(Exception):
    """The time in which containers may be held is over. For the critical section alone; operators never see it."""


class Deadline:
    """When the work inside the pause has to be over, and whether it was called off. For several threads."""

    def __init__(self, seconds: float | None = None) -> None:
        self._at = None if seconds is None else time.monotonic() + seconds
        self._off = threading.Event()

    def call_off(self) -> None:
        """Make every later `check` fail."""
        self._off.set()

    def check(self) -> None:
        """Raise BudgetExceeded if the deadline has passed or the work was called off."""
        if self._off.is_set() or (self._at is not None and time.monotonic() > self._at):
            raise BudgetExceeded


@dataclass(frozen=True)
class Prepare:
    """What a provider gets before the pause: the run, its journal, and, for those who need it, the shipper.

    `note` takes sentences for the operator that stay with the run's result; `budget_seconds` is how long agents
    may be held.
    """

    run_id: str
    journal: Journal
    progress: Progress
    ship_pass: ShipPass | None = None
    note: Callable[[str], None] | None = None
    budget_seconds: float | None = None

    def tell(self, message: str) -> None:
        """Tell the operator something that is no error."""
        (self.note or self.progress.note)(message)


@dataclass(frozen=True)
class KeptTree:
    """Where the tree of a source, or of a part of it, lies in a snapshot that is kept.

    `kind` and `name` are the source's. `place` is the path of the tree within the snapshot, `at` the path within the source
    where it belongs (empty for the source itself). `hidden` are names at its top that are not the source's.
    """

    kind: str
    name: str
    place: str = ""
    at: str = ""
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kept:
    """A snapshot that stays on this host: `where` it is (a directory, or a device), and where it was when it was `made`.

    `identity` tells it from anything else that may be at that place later. `filesystem` is what is on a device.
    """

    provider: str
    run_id: str
    where: str
    made: str
    identity: str
    trees: tuple[KeptTree, ...]
    filesystem: str = ""


class Provider(Protocol):
    """Makes views of its sources, all of the same instant.

    The order of calls is `prepare`, `flush`, `snapshot` (again after a BudgetExceeded, if the policy lets
    the run go on without a pause), for each source `view` and, after it was read, `check`, then perhaps `keepable` and
    `keep`, and `release`. `release` may come at any time and as often as anyone likes. Every thing that `prepare` or
    `snapshot` makes on disk is in the journal before it is made.
    """

    @property
    def name(self) -> str:
        """How policy and recovery points call it."""

    @property
    def atomic(self) -> bool:
        """Whether its views are of one instant even when nothing is held: crash-consistent by itself."""

    @property
    def sources(self) -> Sequence[Source]:
        """What it makes views of."""

    def prepare(self, setting: Prepare) -> None:
        """See that a snapshot can be made, note it in the journal, and do all that can be done beforehand.

        What goes wrong with one source alone is in `failures` afterwards. Raise SnapshotError for the rest.
        """

    def flush(self) -> None:
        """Write dirty pages to disk, so that the snapshot has little left to write."""

    def snapshot(self, deadline: Deadline) -> None:
        """Fix the instant. Raise BudgetExceeded at the deadline, SnapshotError if it cannot be done for any source.

        What goes wrong with one source alone is in `failures` afterwards.
        """

    def failures(self) -> Mapping[SourceKey, SnapshotError]:
        """The sources that there is no view of, and why: known after `prepare` for some, after `snapshot` for all.

        The other sources are not affected. `view` raises the same error.
        """

    @property
    def doubt(self) -> str:
        """Why the views are not of one instant although nothing ran meanwhile; empty if they are, or are `atomic`.

        Known from the first `view` on.
        """

    def view(self, source: Source) -> SourceView:
        """The tree of one source as of the snapshot."""

    def problems(self, source: Source) -> Sequence[tuple[bytes, str]]:
        """What the view of a source does not show, and why: (path in the source, reason)."""

    def check(self, source: Source) -> None:
        """See that what was read from a source's view up to now is the snapshot's. Raise SnapshotError if it need not be."""

    def keepable(self) -> Sequence[Kept]:
        """What could stay on this host, under the names that `keep` will give it. Nothing, if the provider cannot keep."""

    def keep(self) -> None:
        """Give what is `keepable` its lasting names, and tell the journal that the run no longer has it.

        Who calls this has noted durably what is kept; a crash in between is mended by `Keeper.settle`. There are no views
        any more after it, and `release` leaves alone what is kept. Raise SnapshotError.
        """

    def release(self) -> None:
        """Remove all that was made and is not kept. Raise SnapshotError if something stays; it is then still in the journal."""


class Keeper(Protocol):
    """Knows the kept snapshots of one provider again, in a later process, by what was noted and by their names alone."""

    @property
    def SHARES_DATA(self) -> bool:  # noqa: N802  # a constant of a module
        """Whether files outside of the snapshot can share its data (FICLONE), so that copying them takes no time."""

    def settle(self, kept: Kept) -> None:
        """Give it its lasting name, if a crash came before that. Raise SnapshotError."""

    def is_there(self, kept: Kept) -> bool:
        """Whether exactly this snapshot is there, under its lasting name, and as it was made."""

    def remove(self, kept: Kept) -> None:
        """Remove it under whichever of its names it has; anything else that is there is left alone. Raise SnapshotError."""

    def open(self, kept: Kept) -> AbstractContextManager[Path]:
        """Its directory, to read from, for as long as the context lasts. Raise SnapshotError."""

    def close_all(self) -> None:
        """Undo what `open` left behind in a process that died. The caller holds the host. Raise SnapshotError."""

    def find(self) -> Sequence[tuple[str, str]]:
        """Everything on this host that has the name of a kept snapshot: (run id, where)."""

    def remove_found(self, where: str) -> None:
        """Remove one of those that were found and that nothing here has a note of. Raise SnapshotError."""


def remove_tree(path: Path, run_id: str) -> None:
    """Remove a directory that this program made for a run and named after it. Raise OSError, ValueError."""
    import shutil

    if run_id not in path.name or path.is_symlink():
        raise ValueError(f"{path} is not named after run {run_id}")
    shutil.rmtree(path)
    if path.parent.name == STORE:
        try:
            path.parent.rmdir()
        except OSError:
            pass  # there is more in it
