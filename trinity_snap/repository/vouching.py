"""An identity's word for a point that it has repacked: no host can give it (docs/format.md section 17)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from trinity_snap.repository.keys import INFO_PREFIX, Identity, hkdf
from trinity_snap.repository.points import RecoveryPoint, Repacked, encode_document

if TYPE_CHECKING:
    from trinity_snap.repository.repository import Repository

__all__ = ["vouched", "voucher"]


def _mac(identity: Identity, repository_id: bytes, point: RecoveryPoint, said: Repacked) -> bytes:
    key = hkdf(identity.seed, salt=b"", info=INFO_PREFIX + b"identity/repacked", length=32)
    document = encode_document(replace(point, repacked=replace(said, mac=b"")))
    message = b"".join((b"trinity-snap/1/repacked", repository_id, point.session_id, bytes.fromhex(point.id), document))
    return hmac.digest(key, message, hashlib.sha256)


def voucher(identity: Identity, repository_id: bytes) -> Callable[[RecoveryPoint], RecoveryPoint]:
    """What gives a point, whose `repacked` lacks only the MAC, this identity's word for it."""

    def sign(point: RecoveryPoint) -> RecoveryPoint:
        assert point.repacked is not None
        mac = _mac(identity, repository_id, point, point.repacked)
        return replace(point, repacked=replace(point.repacked, mac=mac))

    return sign


def vouched(repository: Repository, point: RecoveryPoint) -> Repacked | None:
    """What a point says of having been repacked, if the identity at hand has given its word for it; else None."""
    identity, said = repository.identity, point.repacked
    if identity is None or said is None or said.by != identity.recipient.id:
        return None
    return said if hmac.compare_digest(said.mac, _mac(identity, repository.id, point, said)) else None
