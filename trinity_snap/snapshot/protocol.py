"""What a snapshot provider is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from trinity_snap.agents.model import Source
    from trinity_snap.progress import Progress
    from trinity_snap.quiesce.journal import Journal
    from trinity_snap.snapshot.view import SourceView

Signature: TypeAlias = tuple[int, int, int, int]
"""What tells one state of a file from another: `st_ino`, `st_ctime_ns`, `st_mtime_ns`, `st_size`."""

ShipPass: TypeAlias = "Callable[[Source, SourceView, int], Mapping[bytes, Signature]]"
"""Ship the regular files that a live view shows: `ship_pass(source, view, pass_number)`.

The answer says for each path that was read whole, between two `lstat`s that gave the same, what that
signature was. What could not be read, or changed meanwhile, is left out. `pass_number` counts from 1. The
first view shows the whole tree, later ones only the root and the regular files that changed since.
"""


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
    """What a provider gets before the pause: the run, its journal, and, for those who need it, the shipper."""

    run_id: str
    journal: Journal
    progress: Progress
    ship_pass: ShipPass | None = None


class Provider(Protocol):
    """Makes views of its sources, all of the same instant.

    The order of calls is `prepare`, `flush`, `snapshot` (again after a BudgetExceeded, if the policy lets
    the run go on without a pause), `view` for each source, `release`. `release` may come at any time and as
    often as anyone likes. Every thing that `prepare` or `snapshot` makes on disk is in the journal before
    it is made.
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

        Raise SnapshotError.
        """

    def flush(self) -> None:
        """Write dirty pages to disk, so that the snapshot has little left to write."""

    def snapshot(self, deadline: Deadline) -> None:
        """Fix the instant. Raise BudgetExceeded at the deadline, SnapshotError if it cannot be done."""

    def view(self, source: Source) -> SourceView:
        """The tree of one source as of the snapshot."""

    def problems(self, source: Source) -> Sequence[tuple[bytes, str]]:
        """What the view of a source does not show, and why: (path in the source, reason)."""

    def release(self) -> None:
        """Remove all that was made. Raise SnapshotError if something stays; it is then still in the journal."""


def remove_tree(path: Path, run_id: str) -> None:
    """Remove a directory that this program made for a run and named after it. Raise OSError, ValueError."""
    import shutil

    if run_id not in path.name or path.is_symlink():
        raise ValueError(f"{path} is not named after run {run_id}")
    shutil.rmtree(path)
