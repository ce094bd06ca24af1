"""Reading a sealed object so that what is copied is what was stored, as far as that can be known without keys."""

from __future__ import annotations

import hashlib

from trinity_snap.errors import ForeignRepository, IntegrityError, TargetError
from trinity_snap.repository.documents import check_header, hex_field, split_document
from trinity_snap.repository.keys import REPOSITORY_ID_BYTES
from trinity_snap.repository.sealed import INDEX_MAGIC, PACK_MAGIC, POINT_MAGIC, parse_header
from trinity_snap.targets.protocol import Target

__all__ = ["read_repository_id", "read_sealed"]

_READS = 4
_MAGIC = {"packs": PACK_MAGIC, "index": INDEX_MAGIC, "points": POINT_MAGIC}
_DOCUMENTS = {"sessions": "session", "recipients": "recipients"}


def read_repository_id(data: bytes) -> bytes:
    """The id that a `repository` object states, not authenticated. Raise IntegrityError, ForeignRepository."""
    payload, _, _ = split_document(data)
    check_header("repository", payload)
    return hex_field(payload, "id", REPOSITORY_ID_BYTES)


def read_sealed(source: Target, name: str, repository_id: bytes) -> bytes:
    """The bytes of an object of the repository with that id.

    The bytes of a pack must have the SHA-256 that is its name. Everything else is small and is read until two readings
    agree; its outer form must be that of its kind. Raise IntegrityError if it is damaged, TargetError if it cannot be read.
    """
    kind = name.partition("/")[0]
    data = _read_pack(source, name) if kind == "packs" else _read_twice(source, name)
    if kind in _MAGIC:
        parse_header(data, _MAGIC[kind], repository_id, name)
    elif kind in _DOCUMENTS:
        _check_document(data, _DOCUMENTS[kind], repository_id, name)
    return data


def _read_pack(source: Target, name: str) -> bytes:
    for _ in range(2):  # what was damaged on the way is whole the second time
        data = source.get(name)
        if hashlib.sha256(data).hexdigest() == name[-64:]:
            return data
    raise IntegrityError(f"{name} at {source.url} is damaged: its bytes do not have the SHA-256 that is its name.")


def _read_twice(source: Target, name: str) -> bytes:
    seen = source.get(name)
    for _ in range(_READS - 1):
        again = source.get(name)
        if again == seen:
            return seen
        seen = again
    raise TargetError(
        f"{source.url} gives other bytes for {name} each time it is read.",
        next_step="Do not rely on this storage before it is known why; look at its disks and its memory.",
    )


def _check_document(data: bytes, kind: str, repository_id: bytes, name: str) -> None:
    payload, _, _ = split_document(data)
    check_header(kind, payload)
    # The member is called `id` in lists of recipients, `repository` in sessions.
    stated = payload.get("repository") if kind == "session" else payload.get("id")
    if stated != repository_id.hex():
        raise ForeignRepository(f"{name} belongs to another repository.")
