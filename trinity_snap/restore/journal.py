"""What a restore that swaps data notes before it acts, so that whoever comes after a crash can finish or undo it.

One JSON file per restore, `<state directory>/restores/<id>.json`, written durably at every change of phase. It stays as long as
previous data is kept.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from trinity_snap.durable import fsync_directory, make_directory_durably, write_file_durably
from trinity_snap.errors import RestoreError, RestoreRefused

__all__ = [
    "PHASES",
    "STEPS",
    "HeldState",
    "RestoreJournal",
    "VolumeSwap",
    "journals",
    "owned",
    "refuse_unfinished",
    "timestamp",
]

PHASES = ("staging", "swapping", "starting", "kept")
"""staging: live data is untouched. swapping: it may be half done. starting: new data is live. kept: all is done."""

STEPS = (
    "restore.journal-started",
    "restore.before-volume",
    "restore.volume-created",
    "restore.before-holder",
    "restore.written",
    "restore.checked",
    "restore.synced",
    "restore.staged",
    "restore.stop-noted",
    "restore.stopped",
    "restore.swapping",
    "restore.first-operation",
    "restore.volume-swapped",
    "restore.swapped",
    "restore.previous-kept",
    "restore.started",
    "restore.closing",
)
"""Where a crash could interrupt a restore, about in the order of a run; for tests (`trinity_snap.quiesce.steps`)."""


@dataclass
class HeldState:
    """A container that has to be stopped, and the state that it goes back to."""

    id: str
    name: str
    state: str


@dataclass
class VolumeSwap:
    """One live path, and where its new and previous data are. `created` is the Docker volume that this restore made.

    `replaces` says that something live is replaced or removed, `kept` that it is in `previous`.
    """

    name: str
    live: str = ""
    holder: str = ""
    previous: str = ""
    created: str = ""
    replaces: bool = False
    kept: bool = False


@dataclass
class RestoreJournal:
    """One restore or rollback that swaps data.

    `point` is what the new data is from: a recovery point, or a local snapshot. With `discard` the previous data is not kept.
    """

    id: str
    agent: str
    point: str
    started: str
    phase: str = "staging"
    containers: list[HeldState] = field(default_factory=list)
    volumes: list[VolumeSwap] = field(default_factory=list)
    version: int = 1
    discard: bool = False

    def save(self, state_dir: Path) -> None:
        """Write the journal durably. Raise RestoreError."""
        directory = state_dir / "restores"
        try:
            make_directory_durably(directory)
            write_file_durably(directory / f"{self.id}.json", json.dumps(asdict(self), indent=1).encode())
        except OSError as error:
            raise RestoreError(
                f"The journal of the restore cannot be written to {directory}: {error.strerror or error}.",
                next_step="See that `state: directory:` in the policy names a directory on a disk with room.",
            ) from error

    def operations_path(self, state_dir: Path, number: int) -> Path:
        """Where the list of operations for volume `number` is."""
        return state_dir / "restores" / f"{self.id}-{number}.operations"

    def forget_operations(self, state_dir: Path) -> None:
        """Remove the lists of operations, which are of no use any more."""
        for number in range(len(self.volumes)):
            with suppress(FileNotFoundError):
                os.unlink(self.operations_path(state_dir, number))

    def remove(self, state_dir: Path) -> None:
        """Remove the journal: nothing is left to undo, to finish or to release."""
        self.forget_operations(state_dir)
        directory = state_dir / "restores"
        for name in (f"{self.id}.json", f"{self.id}.lock"):
            with suppress(FileNotFoundError):
                os.unlink(directory / name)
        with suppress(OSError):
            fsync_directory(directory)


def journals(state_dir: Path) -> list[RestoreJournal]:
    """Every restore that is unfinished or keeps previous data, the oldest first. Raise RestoreError if one is damaged."""
    found = []
    for path in sorted((state_dir / "restores").glob("*.json")):
        try:
            fields = json.loads(path.read_bytes())
            fields["containers"] = [HeldState(**held) for held in fields["containers"]]
            fields["volumes"] = [VolumeSwap(**volume) for volume in fields["volumes"]]
            found.append(RestoreJournal(**fields))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RestoreError(
                f"The journal {path} cannot be read: {error}.",
                untouched="Nothing was changed.",
                next_step="Look at what it says, put right what it names, and remove it.",
            ) from error
    return sorted(found, key=lambda journal: journal.started)


def refuse_unfinished(state_dir: Path) -> None:
    """Raise RestoreRefused if a restore or rollback did not end."""
    for journal in journals(state_dir):
        if journal.phase != "kept":
            raise RestoreRefused(
                f"An earlier restore or rollback of {journal.agent} ({journal.id}) did not end.",
                untouched="Nothing was changed.",
                next_step="Run `trinity-snap recover` first.",
            )


@contextmanager
def owned(state_dir: Path, restore_id: str) -> Iterator[bool]:
    """Hold the journal of a restore; the kernel lets go when the process ends. Gives False if another process holds it."""
    directory = state_dir / "restores"
    make_directory_durably(directory)
    descriptor = os.open(directory / f"{restore_id}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def timestamp() -> str:
    """The time, as journals note it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")
