"""What a restore reads, found out where the identity is: a grant for it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from trinity_snap.errors import IntegrityError, TargetDenied
from trinity_snap.progress import NullProgress, Progress
from trinity_snap.repository.grants import Grant, NotingReader, make_grant
from trinity_snap.repository.points import RecoveryPoint
from trinity_snap.repository.receipts import read_receipts
from trinity_snap.repository.repository import Repository
from trinity_snap.restore.planner import choose
from trinity_snap.restore.selection import select_paths

__all__ = ["grant_restore"]


def grant_restore(
    repository: Repository,
    point: RecoveryPoint,
    *,
    valid_seconds: int,
    paths: Sequence[str] = (),
    progress: Progress | None = None,
) -> Grant:
    """A grant for a restore of `point`, or of `paths` of it, written as for `plan_restore`.

    The whole manifest of what is granted is read. Raise UsageError for a path that is not there, IntegrityError if the
    manifest is damaged, IdentityNeeded, TargetError.
    """
    progress = progress or NullProgress()
    reader = NotingReader(repository, point, _damaged(repository))
    chosen = choose(reader, point, paths)
    for volume, wanted in chosen:
        progress.stage(f"look up {volume.name} (entries)", None if wanted else volume.entries)
        entries = select_paths(reader, volume, wanted) if wanted else reader.entries(volume)
        try:
            for entry in entries:
                if entry.chunks:
                    reader.note(entry.chunk_ids())
                progress.advance(1)
        except IntegrityError as error:
            raise IntegrityError(
                f"The manifest of {volume.name} cannot be read: {error.message}",
                untouched="Nothing was granted.",
                next_step="Grant another recovery point, or with --path what is outside of the damage.",
            ) from error
    return make_grant(repository, reader, valid_seconds=valid_seconds, paths=paths)


def _damaged(repository: Repository) -> Collection[bytes]:
    """The packs that were damaged when they were read last, as far as one may know."""
    try:
        return read_receipts(repository.target, repository.host).damaged_packs
    except TargetDenied:
        return ()
