"""Where repositories live. A target knows names and bytes, and nothing of what they mean."""

from __future__ import annotations

import os
from urllib.parse import unquote, urlsplit

from trinity_snap.errors import UsageError
from trinity_snap.targets.local import LocalTarget
from trinity_snap.targets.protocol import ObjectStat, Target
from trinity_snap.targets.settings import TargetSettings, without_password

__all__ = ["LocalTarget", "ObjectStat", "Target", "TargetSettings", "is_local", "local_path", "open_target"]

_SUPPORTED = (
    "Give an absolute path such as /var/backups/trinity-snap, file:///var/backups/trinity-snap, s3://bucket/prefix, or"
    " sftp://user@host/path."
)


def open_target(where: TargetSettings | str, *, create: bool = False) -> Target:
    """The target at `/path`, `file:///path`, `s3://bucket/prefix` or `sftp://[user@]host[:port]/path`.

    A URL alone is enough where defaults will do. A directory is made if `create` says so and it is not there; a bucket
    never is. Raise UsageError for anything else, TargetError if it is not there or cannot be used.
    """
    settings = TargetSettings(where) if isinstance(where, str) else where
    if settings.url.startswith("s3:"):
        from trinity_snap.targets.s3 import S3Target

        return S3Target(settings)
    if settings.url.startswith("sftp:"):
        from trinity_snap.targets.sftp import SftpTarget

        return SftpTarget(settings, create=create)
    return LocalTarget(local_path(settings.url), create=create)


def is_local(url: str) -> bool:
    """Whether a target is a directory of this host."""
    return url.startswith(("/", "file:"))


def local_path(url: str) -> str:
    """The directory that `/path` or `file:///path` means. Raise UsageError for anything else."""
    path = url
    if url.startswith("file:"):
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise UsageError(f"{without_password(url)!r} is not the URL of a local directory.", next_step=_SUPPORTED)
        path = unquote(parts.path, errors="surrogateescape")
    if not os.path.isabs(path) or "\0" in path:
        raise UsageError(f"{without_password(url)!r} is not a target that this version knows.", next_step=_SUPPORTED)
    return path
