"""Where repositories live. A target knows names and bytes, and nothing of what they mean."""

from __future__ import annotations

import os
from urllib.parse import unquote, urlsplit

from trinity_snap.errors import UsageError
from trinity_snap.targets.local import LocalTarget
from trinity_snap.targets.protocol import ObjectStat, Target

__all__ = ["LocalTarget", "ObjectStat", "Target", "open_target"]

_SUPPORTED = "Give an absolute path such as /var/backups/trinity-snap, or file:///var/backups/trinity-snap."


def open_target(url_or_path: str, *, create: bool = False) -> Target:
    """The target at `/path` or `file:///path`, which is made if `create` says so and it is not there.

    Raise UsageError for anything else, TargetError if it is not there or cannot be used.
    """
    path = url_or_path
    if url_or_path.startswith("file:"):
        parts = urlsplit(url_or_path)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise UsageError(f"{url_or_path!r} is not the URL of a local directory.", next_step=_SUPPORTED)
        path = unquote(parts.path, errors="surrogateescape")
    if not os.path.isabs(path) or "\0" in path:
        raise UsageError(f"{url_or_path!r} is not a target that this version knows.", next_step=_SUPPORTED)
    return LocalTarget(path, create=create)
