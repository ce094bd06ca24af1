"""Drills in the repository: sealed receipts of when an agent's recovery point was proved (docs/format.md section 14).

They are an addition: who does not know their subject ignores them. Nothing is ever decided by them.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trinity_snap.errors import ForeignRepository, IntegrityError, ObjectMissing
from trinity_snap.repository.documents import sign_document, verify_document
from trinity_snap.repository.keys import INFO_PREFIX, HostSecret, hkdf
from trinity_snap.targets.protocol import Target

if TYPE_CHECKING:
    from trinity_snap.repository.repository import Repository

__all__ = ["StoredDrill", "put_drill", "read_drills", "tidy_drills"]

_SUBJECT = "drill"
_NONCE_BYTES = 12
_STEP_BYTES = 1024
_SEALED_BYTES = 64 << 10


@dataclass(frozen=True)
class StoredDrill:
    """One receipt of a drill: its object's name, and the summary that it holds."""

    name: str
    summary: dict[str, object]

    @property
    def agent(self) -> str:
        """Whose recovery point it was."""
        return str(self.summary.get("agent"))

    @property
    def started(self) -> str:
        """When, RFC 3339, by the clock of who drilled."""
        return str(self.summary.get("started"))


def _key(host: HostSecret) -> bytes:
    return hkdf(host.secret, salt=host.repository_id, info=INFO_PREFIX + b"drill", length=32)


def _aad(host: HostSecret) -> bytes:
    return INFO_PREFIX + b"drill" + host.repository_id


def put_drill(target: Target, host: HostSecret, summary: Mapping[str, object]) -> str:
    """Store what came of a drill. Return the receipt's name. Raise TargetError."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    text = json.dumps(dict(summary)).encode("ascii")
    plain = text + b" " * (-len(text) % _STEP_BYTES)
    nonce = os.urandom(_NONCE_BYTES)
    sealed = base64.b64encode(nonce + AESGCM(_key(host)).encrypt(nonce, plain, _aad(host))).decode("ascii")
    name = f"receipts/{os.urandom(16).hex()}"
    payload = {"repository": host.repository_id.hex(), "subject": _SUBJECT, "drill": sealed}
    target.put_if_absent(name, sign_document("receipt", payload, host.mac_key))
    return name


def read_drills(target: Target, host: HostSecret) -> list[StoredDrill]:
    """All drills that the repository knows of, newest first. Receipts of other kinds and damaged ones are passed over."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    found = []
    opener = AESGCM(_key(host))
    for name in target.list_prefix("receipts/"):
        try:
            payload = verify_document("receipt", target.get(name), host.mac_key)
            sealed = payload.get("drill")
            if payload.get("subject") != _SUBJECT or not isinstance(sealed, str) or len(sealed) > _SEALED_BYTES:
                continue
            data = base64.b64decode(sealed, validate=True)
            summary = json.loads(opener.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _aad(host)))
        except (ForeignRepository, IntegrityError, InvalidTag, ObjectMissing, ValueError):
            continue
        if isinstance(summary, dict) and isinstance(summary.get("agent"), str):
            found.append(StoredDrill(name, summary))
    return sorted(found, key=lambda one: (one.started, one.name), reverse=True)


def tidy_drills(repository: Repository) -> int:
    """Remove all but the newest drill of every agent, and the newest that proved something. Return how many went."""
    kept: set[tuple[str, bool]] = set()
    removed = 0
    for one in read_drills(repository.target, repository.host):  # newest first
        proved = one.summary.get("outcome") == "proved"
        marks = {(one.agent, False)} | ({(one.agent, True)} if proved else set())
        if marks <= kept:
            repository.target.delete(one.name)
            removed += 1
        kept |= marks
    return removed
