"""The names of what a restore puts beside the data, and where it finds its own again."""

from __future__ import annotations

import re
import secrets

__all__ = [
    "HOLDER_PREFIX",
    "PREVIOUS_PREFIX",
    "STAGED",
    "holder_name",
    "is_ours",
    "new_restore_id",
    "previous_name",
]

HOLDER_PREFIX = ".trinity-snap-restore-"
PREVIOUS_PREFIX = ".trinity-snap-previous-"
STAGED = b"data"
"""What the tree is called inside its holder: first the new one, after the exchange the previous one."""

_OURS = re.compile(rb"\.trinity-snap-(restore|previous)-[0-9a-f]{16}(-\d+)?")


def new_restore_id() -> str:
    """A name for one restore: 16 hexadecimal digits."""
    return secrets.token_hex(8)


def holder_name(restore_id: str, number: int) -> str:
    """The directory in which a restore puts a volume together."""
    return f"{HOLDER_PREFIX}{restore_id}-{number}"


def previous_name(restore_id: str, number: int) -> str:
    """The directory in which the previous data is kept."""
    return f"{PREVIOUS_PREFIX}{restore_id}-{number}"


def is_ours(name: bytes) -> bool:
    """Whether a restore made the directory of this name."""
    return _OURS.fullmatch(name) is not None
