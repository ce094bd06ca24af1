"""Opening a repository in a bucket as honest writers left it, even if `repository` itself was overwritten or deleted."""

from __future__ import annotations

from datetime import datetime

from trinity_snap.errors import ForeignRepository, IntegrityError, TrinitySnapError, UsageError, WrongKey
from trinity_snap.repository.keys import HostSecret, Identity
from trinity_snap.repository.repository import Repository
from trinity_snap.targets.protocol import Target
from trinity_snap.targets.s3 import S3Target
from trinity_snap.targets.s3_lock import keeps_versions
from trinity_snap.trusted.authentic import is_authentic
from trinity_snap.trusted.originals import Originals

__all__ = ["open_originals"]


def open_originals(
    target: Target, *, host: HostSecret | None, identity: Identity | None, deleted_since: datetime | None = None
) -> tuple[Originals, Repository]:
    """The originals in a bucket that keeps versions, and the repository that they are.

    Raise UsageError for a target that keeps none, and what `Repository.open` raises, if no version of `repository` is right.
    """
    if not isinstance(target, S3Target) or keeps_versions(target) is False:
        raise UsageError(
            f"{target.url} keeps no versions of objects, and locks none.",
            untouched="Nothing was changed.",
            next_step="Only a bucket with versioning, or object lock, can do that.",
        )
    originals = Originals(target, deleted_since=deleted_since)
    repository = _open(originals, host, identity)
    originals.judge = lambda name, data: is_authentic(repository, name, data)
    originals.forget()
    return originals, repository


def _open(originals: Originals, host: HostSecret | None, identity: Identity | None) -> Repository:
    refused: TrinitySnapError | None = None
    for version in reversed([one for one in originals.versions.get("repository", []) if not one.marker]):
        originals.choose(version)
        try:
            return Repository.open(originals, host=host, identity=identity)
        except (ForeignRepository, IntegrityError, WrongKey) as error:
            refused = refused or error
    if refused is not None:
        raise refused
    return Repository.open(originals, host=host, identity=identity)
