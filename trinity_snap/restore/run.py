"""Carrying out the plan of a restore."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from trinity_snap.durable import make_directory_durably
from trinity_snap.errors import IntegrityError, RestoreError, RestoreRefused
from trinity_snap.progress import NullProgress, Progress
from trinity_snap.repository.manifest import Entry
from trinity_snap.repository.points import Volume
from trinity_snap.restore.containers import create_container
from trinity_snap.restore.difference import Difference, compare_trees
from trinity_snap.restore.directories import OPEN_DIRECTORY, remove_tree
from trinity_snap.restore.names import STAGED
from trinity_snap.restore.plan import RestorePlan, VolumePlan, human
from trinity_snap.restore.result import RestoreResult, make_result
from trinity_snap.restore.salvage import SalvageReader
from trinity_snap.restore.selection import select_paths, select_units
from trinity_snap.restore.signals import Interrupted, Interruption
from trinity_snap.restore.source import PointSource, Repository
from trinity_snap.restore.swap import Part, swap_in
from trinity_snap.restore.tree import TreeResult
from trinity_snap.restore.write import damage, write_and_check

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["execute"]


def execute(
    plan: RestorePlan,
    repository: Repository,
    docker: DockerClient | None = None,
    progress: Progress | None = None,
) -> RestoreResult:
    """Carry out a plan. The caller holds the host. With a `Salvage` for a repository what cannot be read is left out and noted.

    Data that is live stays as it is until its replacement is complete, on disk and checked; whatever fails before leaves
    it so. Raise RestoreRefused if there is not enough room, IntegrityError naming the files whose data cannot be read,
    RestoreError for everything else, LeftQuiesced if all is restored but a container did not start.
    """
    for space in plan.space:
        if not space.enough:
            raise RestoreRefused(
                f"There is not enough room at {space.where}: {human(space.needed_bytes)} and {space.needed_inodes}"
                f" inodes needed, {human(space.free_bytes)} and {space.free_inodes} free.",
                untouched="Nothing was changed.",
                next_step="Make room, or restore to another filesystem with --to.",
            )
    reader = repository.reader(plan.point)
    progress = progress or NullProgress()
    started = time.monotonic()
    with Interruption() as interruption:
        try:
            if plan.mode == "directory":
                written = _into_directory(plan, reader, progress)
                return make_result(plan, written, started, 0.0, (), "", ())
            return _over_live(plan, reader, docker, progress, interruption, started)
        except Interrupted as error:
            if error.number == signal.SIGINT:
                raise KeyboardInterrupt from error
            raise RestoreError(
                f"The restore was stopped by {error}.", untouched="What was live is as it was."
            ) from error


def _over_live(
    plan: RestorePlan,
    reader: PointSource,
    docker: DockerClient | None,
    progress: Progress,
    interruption: Interruption,
    started: float,
) -> RestoreResult:
    of_name = {volume.name: volume for volume in plan.volumes}
    results: list[TreeResult] = []

    def write(part: Part) -> None:
        results.append(_write(part, of_name[part.plan.name], reader, progress))

    swapped = swap_in(plan, docker, interruption, write)
    created = ""
    with interruption.deferred():
        if plan.create_container and plan.point.container and docker is not None:
            create_container(docker, plan.point.container, plan.create_container)
            created = plan.create_container
    return make_result(plan, results, started, swapped.downtime_seconds, swapped.previous, created, swapped.notes)


def _write(part: Part, plan: VolumePlan, reader: PointSource, progress: Progress) -> TreeResult:
    volume = plan.volume
    entries: Callable[[], Iterable[Entry]] = lambda: reader.entries(volume)  # noqa: E731
    if part.how == "paths":
        entries = lambda: select_paths(reader, volume, plan.paths)  # noqa: E731
    elif part.how == "in_place":
        part.difference = _compare(part, volume, reader)
        units = frozenset((*part.difference.add, *part.difference.replace))
        entries = lambda: select_units(reader, volume, units, reader.entries(volume))  # noqa: E731
        if not units:
            return TreeResult()
    holder = os.open(part.holder, OPEN_DIRECTORY)
    try:
        result = write_and_check(
            reader, holder, STAGED, plan.name, entries, progress,
            devices=part.how != "paths", total=plan.bytes, damaged_is_fatal=not isinstance(reader, SalvageReader),
        )  # fmt: skip
        if isinstance(reader, SalvageReader):
            reader.note(volume, result.damaged)
        os.fsync(holder)
        return result
    finally:
        os.close(holder)


def _compare(part: Part, volume: Volume, reader: PointSource) -> Difference:
    parent = os.open(part.live.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return compare_trees(
            reader,
            lambda: reader.entries(volume),
            parent,
            os.fsencode(part.live.name),
            content=True,
        )
    except OSError as error:
        raise RestoreError(
            f"{part.live} cannot be compared with the recovery point: {error.strerror or error}."
        ) from error
    finally:
        os.close(parent)


def _into_directory(plan: RestorePlan, reader: PointSource, progress: Progress) -> list[TreeResult]:
    """Restore into an empty directory. If that fails nothing stays, except that damaged files cost only themselves."""
    assert plan.to is not None
    made = not plan.to.is_dir()
    try:
        make_directory_durably(plan.to)
        holder = os.open(plan.to, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise RestoreError(f"{plan.to} cannot be used: {error.strerror or error}.") from error
    results = []
    damaged: list[IntegrityError] = []
    begun: list[bytes] = []
    try:
        for volume in plan.volumes:
            assert volume.live is not None
            if isinstance(reader, SalvageReader) and not reader.is_readable(volume.volume):
                continue
            name = os.fsencode(volume.live.name)
            begun.append(name)
            result = write_and_check(
                reader, holder, name, volume.name, _entries(reader, volume), progress,
                devices=False, total=volume.bytes, damaged_is_fatal=False,
            )  # fmt: skip
            results.append(result)
            if isinstance(reader, SalvageReader):
                reader.note(volume.volume, result.damaged)
            elif result.damaged:
                damaged.append(damage(volume.name, result, untouched=f"Everything else of it is in {volume.live}."))
        os.fsync(holder)
    except BaseException:
        for name in begun:
            remove_tree(holder, name)
        if made:
            os.rmdir(plan.to)
        raise
    finally:
        os.close(holder)
    if damaged:
        raise IntegrityError(
            " ".join(error.message for error in damaged),
            untouched=f"Everything else was restored to {plan.to}, and is checked.",
            next_step="Take another recovery point for the files named.",
        )
    return results


def _entries(reader: PointSource, volume: VolumePlan) -> Callable[[], Iterable[Entry]]:
    if volume.paths:
        return lambda: select_paths(reader, volume.volume, volume.paths)
    return lambda: reader.entries(volume.volume)
