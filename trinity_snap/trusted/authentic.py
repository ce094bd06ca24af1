"""Whether bytes are what an honest writer stored under a name, as far as keys and hashes can tell."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from trinity_snap.errors import TrinitySnapError
from trinity_snap.repository.documents import verify_document
from trinity_snap.repository.points import open_point
from trinity_snap.repository.recipients import check_session
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.sealed import POINT_MAGIC, parse_header
from trinity_snap.repository.session import read_index

__all__ = ["is_authentic"]


def is_authentic(repository: Repository, name: str, data: bytes) -> bool:
    """Whether the object `name` may have these bytes: a pack by its hash, all else by a MAC of the host.

    A list of recipients is not bound to its name, so that another one of the same host passes; fences and receipts have no
    MAC, and always pass. Raise TargetError if the storage cannot be read.
    """
    kind, _, rest = name.partition("/")
    check = _CHECKS.get(kind)
    if check is None:
        return True
    try:
        check(repository, rest, data)
    except TrinitySnapError as error:
        if getattr(error, "transient", False):
            raise
        return False
    return True


def _pack(_: Repository, rest: str, data: bytes) -> None:
    if hashlib.sha256(data).hexdigest() != rest[3:]:
        raise TrinitySnapError("The pack has another hash than its name.")


def _index(repository: Repository, rest: str, data: bytes) -> None:
    read_index(data, repository.host, f"index/{rest}")


def _session(repository: Repository, rest: str, data: bytes) -> None:
    check_session(data, repository.id, bytes.fromhex(rest), repository.host.mac_key)


def _point(repository: Repository, rest: str, data: bytes) -> None:
    header = parse_header(data, POINT_MAGIC, repository.id, f"points/{rest}")
    open_point(data, header, repository.session_key(header.session_id), repository.host.mac_key, rest)


def _recipients(repository: Repository, _: str, data: bytes) -> None:
    verify_document("recipients", data, repository.host.mac_key)


def _repository(repository: Repository, _: str, data: bytes) -> None:
    verify_document("repository", data, repository.host.mac_key)


_CHECKS: dict[str, Callable[[Repository, str, bytes], None]] = {
    "index": _index,
    "packs": _pack,
    "points": _point,
    "recipients": _recipients,
    "repository": _repository,
    "sessions": _session,
}
