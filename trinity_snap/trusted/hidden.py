"""What of a bucket is hidden from readers: objects with something put over them, and points that were deleted."""

from __future__ import annotations

from dataclasses import dataclass

from trinity_snap.errors import TargetError
from trinity_snap.targets.protocol import Target

__all__ = ["Hidden", "hidden_objects"]


@dataclass(frozen=True)
class Hidden:
    """Names of objects that are there in several versions, and of recovery points that were deleted and can be had back."""

    overwritten: tuple[str, ...] = ()
    deleted_points: tuple[str, ...] = ()


def hidden_objects(target: Target) -> Hidden:
    """What the versions in a bucket say; nothing for targets that keep none, or do not show them to these credentials."""
    if not hasattr(target, "client"):  # spares the import of boto3
        return Hidden()
    from trinity_snap.targets.s3 import S3Target
    from trinity_snap.targets.s3_lock import keeps_versions
    from trinity_snap.targets.s3_versions import list_versions

    if not isinstance(target, S3Target) or not keeps_versions(target):
        return Hidden()
    try:
        found = list_versions(target)
    except TargetError:
        return Hidden()
    stored = {name: [one for one in versions if not one.marker] for name, versions in found.items()}
    return Hidden(
        tuple(sorted(name for name, kept in stored.items() if len(kept) > 1 and not found[name][0].marker)),
        tuple(sorted(n for n, kept in stored.items() if kept and n.startswith("points/") and found[n][0].marker)),
    )
