"""Carrying out the plan of a rollback."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trinity_snap.errors import LeftQuiesced, RestoreError, RestoreRefused, TrinitySnapError
from trinity_snap.progress import NullProgress, Progress
from trinity_snap.quiesce.steps import step
from trinity_snap.restore.directories import OPEN_DIRECTORY
from trinity_snap.restore.journal import refuse_unfinished
from trinity_snap.restore.names import STAGED
from trinity_snap.restore.plan import human, measure_space
from trinity_snap.restore.signals import Interrupted, Interruption
from trinity_snap.restore.swap import Part, Swapped, swap_in
from trinity_snap.restore.system import sync_filesystem
from trinity_snap.restore.tree import write_error
from trinity_snap.rollback.copy import Copied, TreeCopier
from trinity_snap.rollback.difference import compare
from trinity_snap.rollback.plan import RollbackPlan, RollbackVolume
from trinity_snap.rollback.present import keep_present
from trinity_snap.snapshot.local import LocalSnapshot, keeper, local_snapshots, prune, remove_local
from trinity_snap.snapshot.select import SnapshotPolicy

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["STEPS", "RollbackResult", "execute", "forget_undone"]

STEPS = (
    "rollback.copied",
    "rollback.synced",
    "rollback.before-present",
    "rollback.present-made",
    "rollback.present-noted",
    "half-kept",
    "rollback.present-kept",
)
"""Where a crash could interrupt a rollback, besides at the steps of `trinity_snap.restore.journal`; for tests."""


_LEAST_FREE_BYTES = 16 << 20


@dataclass(frozen=True)
class RollbackResult:
    """What a rollback did. `before` is the local snapshot of the state before, None if there was nothing to keep."""

    plan: RollbackPlan
    before: LocalSnapshot | None
    copied: Copied
    seconds: float
    downtime_seconds: float
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As `--json` shows it: the plan, and what came of it."""
        return {
            **self.plan.to_json(),
            "outcome": "rolled-back",
            "before": None if self.before is None else self.before.id,
            "files": self.copied.files,
            "bytes": self.copied.bytes,
            "bytes_copied": self.copied.bytes_copied,
            "entries": self.copied.entries,
            "duration_seconds": round(self.seconds, 3),
            "downtime_seconds": round(self.downtime_seconds, 3),
            "notes": list(self.notes),
        }


@dataclass
class _Work:
    plan: RollbackPlan
    policy: SnapshotPolicy
    progress: Progress
    copied: Copied = field(default_factory=Copied)
    before: LocalSnapshot | None = None

    def write(self, part: Part) -> None:
        volume = next(each for each in self.plan.volumes if each is part.plan)
        self.progress.stage(f"roll back {volume.name}")
        if part.how == "in_place":
            _copy_differences(volume, part, self.plan.local.created_ns, self.copied)
        else:
            _copy(volume, part.holder, self.copied)

    def stopped(self) -> None:
        self.progress.stage("keeping the present state")
        self.before = keep_present(self.plan, self.policy, self.progress)


def execute(
    plan: RollbackPlan,
    policy: SnapshotPolicy,
    docker: DockerClient | None = None,
    progress: Progress | None = None,
) -> RollbackResult:
    """Carry out a plan. The caller holds the host.

    The new data is put together beside the present while the agent runs. Then its containers stop, the present state is
    snapshot and kept, the data is exchanged, and the containers start. Whatever fails before the exchange leaves all as it was.

    Raise RestoreRefused if the local snapshot is gone, SnapshotError if the present state cannot be kept, RestoreError
    for everything else, LeftQuiesced if all is done but a container did not start.
    """
    refuse_unfinished(plan.state_dir)
    if plan.local.id not in {snapshot.id for snapshot in local_snapshots(plan.state_dir)}:
        raise RestoreRefused(
            f"Local snapshot {plan.local.id[:8]} is not there any more.", untouched="Nothing was changed."
        )
    _require_room(plan)
    started = time.monotonic()
    work = _Work(plan, policy, progress or NullProgress())
    with Interruption() as interruption:
        try:
            swapped = _swap(work, docker, interruption)
        except Interrupted as error:
            if error.number == signal.SIGINT:
                raise KeyboardInterrupt from error
            raise RestoreError(
                f"The rollback was stopped by {error}.", untouched="What was live is as it was."
            ) from error
    seconds = time.monotonic() - started
    notes = (*swapped.notes, *prune(plan.state_dir, None, None))
    return RollbackResult(plan, work.before, work.copied, seconds, swapped.downtime_seconds, notes)


def forget_undone(state_dir: Path, undone: Collection[str]) -> list[str]:
    """Remove the local snapshots from before these rollbacks, which did not come about. Return a sentence for each that stays."""
    problems = []
    for snapshot in local_snapshots(state_dir):
        if snapshot.before_rollback in undone:
            try:
                remove_local(state_dir, snapshot)
            except TrinitySnapError as error:
                problems.append(f"Local snapshot {snapshot.id} could not be removed: {error}")
    return problems


def _swap(work: _Work, docker: DockerClient | None, interruption: Interruption) -> Swapped:
    try:
        return swap_in(work.plan, docker, interruption, work.write, work.stopped)
    except LeftQuiesced:
        raise  # the data is exchanged, and what was before stays
    except BaseException as error:
        if _is_undone(work.plan):
            for problem in forget_undone(work.plan.state_dir, {work.plan.id}):
                error.add_note(problem)
            if isinstance(error, TrinitySnapError):
                error.untouched = f"{work.plan.agent} is as it was."
        raise


def _require_room(plan: RollbackPlan) -> None:
    """Refuse before anything stops if the disk is full. How much the names alone take is found out by making them."""
    for space in measure_space([(volume.live or plan.state_dir, 0, 0) for volume in plan.volumes]):
        if space.free_bytes < _LEAST_FREE_BYTES:
            raise RestoreRefused(
                f"There is not enough room at {space.where}: {human(space.free_bytes)} free.",
                untouched="Nothing was changed.",
                next_step=(
                    "Free some space; `trinity-snap rollback --remove` gives back what local snapshots hold on to, "
                    "`trinity-snap restore --kept` shows what restores keep."
                ),
            )


def _is_undone(plan: RollbackPlan) -> bool:
    """Whether the journal is gone, and so is everything that it noted."""
    return not (plan.state_dir / "restores" / f"{plan.id}.json").exists()


def _copy(volume: RollbackVolume, holder_path: Path, copied: Copied) -> None:
    """Put the new data of a volume together in its holder, and have it on disk."""
    with _copying(holder_path, copied) as copier, ExitStack() as stack:
        for kept, tree in volume.trees:
            source = stack.enter_context(keeper(kept.provider).open(kept)) / tree.place
            if tree.at:
                copier.graft(source, os.fsencode(tree.at))
            else:
                copier.copy(source, [os.fsencode(name) for name in tree.hidden])


def _copy_differences(volume: RollbackVolume, part: Part, created_ns: int, copied: Copied) -> None:
    """The same, but only of what is not what it was."""
    ((kept, tree),) = volume.trees
    with _copying(part.holder, copied) as copier, keeper(kept.provider).open(kept) as root:
        difference = part.difference = compare(root / tree.place, part.live, created_ns)
        copier.copy_units(root / tree.place, (*difference.add, *difference.replace))


@contextmanager
def _copying(holder_path: Path, copied: Copied) -> Iterator[TreeCopier]:
    """A copier into the holder; what it has copied is on disk at the end. Raise RestoreError."""
    holder = os.open(holder_path, OPEN_DIRECTORY)
    copier = TreeCopier(holder, STAGED)
    copier.copied = copied
    try:
        yield copier
        step("rollback.copied")
        sync_filesystem(holder)
        step("rollback.synced")
    except OSError as error:
        raise write_error(error, copier.at, holder) from error
    finally:
        copier.close()
        os.close(holder)
