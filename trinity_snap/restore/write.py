"""Writing one tree of a recovery point, and proving that it is on disk as it should be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from trinity_snap.errors import IntegrityError, RestoreError
from trinity_snap.progress import Progress
from trinity_snap.quiesce.steps import step
from trinity_snap.repository.manifest import Entry
from trinity_snap.restore.check import check_tree
from trinity_snap.restore.checker import Checker
from trinity_snap.restore.directories import shown
from trinity_snap.restore.source import PointSource
from trinity_snap.restore.system import sync_filesystem
from trinity_snap.restore.tree import TreeResult, TreeWriter

__all__ = ["damage", "write_and_check"]

_SHOWN_DAMAGED = 10


def write_and_check(
    reader: PointSource,
    holder: int,
    root_name: bytes,
    name: str,
    entries: Callable[[], Iterable[Entry]],
    progress: Progress,
    *,
    devices: bool,
    total: int,
    damaged_is_fatal: bool,
) -> TreeResult:
    """Write a tree, have it on disk, read it again and compare. `name` is what messages call it.

    Raise IntegrityError if files of the recovery point are damaged: at once when they are written, if
    `damaged_is_fatal`, else not at all (see the result).
    """
    progress.stage(f"restore {name}", total)
    with Checker(reader.chunk_key, holder, root_name) as checker:
        writer = TreeWriter(reader, holder, root_name, devices=devices, progress=progress, finished=checker.add)
        result = writer.write(entries())
        step("restore.written")
        if result.damaged and damaged_is_fatal:
            raise damage(name, result, untouched="The volume is as it was.")
        progress.stage(f"check {name}", total)
        # What is compared comes from the disk or waits to be written to it; either way nothing counts before both are over.
        with ThreadPoolExecutor(1, thread_name_prefix="sync") as pool:
            synced = pool.submit(sync_filesystem, holder)
            elsewhere = checker.takes if checker.has_begun else None
            left_out = check_tree(reader, holder, root_name, entries(), result, progress, elsewhere)
            if checker.finish() != left_out:
                raise RestoreError("What was restored could not be compared: some files were passed over.")
            step("restore.checked")
            synced.result()
    step("restore.synced")
    return result


def damage(name: str, result: TreeResult, untouched: str) -> IntegrityError:
    """The error that names the files whose data cannot be read."""
    names = [shown(path) for path in sorted(result.damaged)]
    listed = ", ".join(names[:_SHOWN_DAMAGED])
    if len(names) > _SHOWN_DAMAGED:
        listed += f" and {len(names) - _SHOWN_DAMAGED} more"
    why = next(iter(result.damaged.values())).rstrip(".")
    return IntegrityError(
        f"{len(names)} files of {name} cannot be read from the repository: {listed} ({why}).",
        untouched=untouched,
        next_step="Take another recovery point, or restore with --to into a directory, which gets all the others.",
    )
