"""The names that objects may have. Nothing else ever reaches a storage.

`repository`, `packs/<2 hex digits>/<64 hex digits, beginning with these two>`, and `<kind>/<32 hex digits>`
for the other kinds. A name holds no dot, no upper-case letter and no empty part, so that it is the same on
every storage and leads nowhere else.
"""

from __future__ import annotations

import re

from trinity_snap.errors import TargetError

FLAT_KINDS = ("copies", "fences", "index", "points", "receipts", "recipients", "sessions")
"""The kinds of objects named `<kind>/<32 hex digits>`."""

PER_STORAGE_KINDS = frozenset({"copies", "fences", "receipts"})
"""The kinds that say what happened at one storage, by its clock. They mean nothing elsewhere, so they are never copied."""

_FLAT = "|".join(FLAT_KINDS)
_NAME = re.compile(rf"repository|(?:{_FLAT})/[0-9a-f]{{32}}|packs/([0-9a-f]{{2}})/\1[0-9a-f]{{62}}")
_PREFIX = re.compile(
    rf"(?:repository)?|(?:{_FLAT})/[0-9a-f]{{0,32}}|packs/[0-9a-f]{{0,2}}|packs/[0-9a-f]{{2}}/[0-9a-f]{{0,64}}"
)


def is_object_name(name: str) -> bool:
    """Whether an object may have this name."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """Give back an object's name. Raise TargetError if no object may have it."""
    if not isinstance(name, str) or not is_object_name(name):
        raise TargetError(f"{name!r:.200} is not the name of an object.", untouched="Nothing was read or written.")
    return name


def check_prefix(prefix: str) -> str:
    """Give back a prefix to list: empty, or the beginning of a name that holds its whole kind.

    Raise TargetError otherwise.
    """
    if not isinstance(prefix, str) or _PREFIX.fullmatch(prefix) is None:
        raise TargetError(f"{prefix!r:.200} is not the beginning of any object's name.", untouched="Nothing was read.")
    return prefix
