"""Fences: lists of packs that prune is about to delete, and that no new run may rely on (docs/format.md section 14)."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable
from dataclasses import dataclass

from trinity_snap.errors import IntegrityError, ObjectMissing
from trinity_snap.repository.documents import hex_field, sign_document, verify_document
from trinity_snap.repository.keys import REPOSITORY_ID_BYTES, HostSecret
from trinity_snap.targets.protocol import Target

__all__ = ["PACKS_PER_FENCE", "Fence", "put_fence", "read_fence", "read_new_fences"]

PACKS_PER_FENCE = 50_000
_PACK = re.compile(r"[0-9a-f]{64}")
_ATTEMPTS = 3


@dataclass(frozen=True)
class Fence:
    """One fence: its object's name, the packs' SHA-256 digests, and when the storage got it (0: not asked)."""

    name: str
    packs: frozenset[bytes]
    time_ns: int = 0


def put_fence(target: Target, host: HostSecret, packs: Iterable[bytes]) -> str:
    """Store a fence around these packs (their SHA-256). Return its name."""
    name = f"fences/{os.urandom(16).hex()}"
    payload = {"repository": host.repository_id.hex(), "packs": sorted(digest.hex() for digest in packs)}
    target.put_if_absent(name, sign_document("fence", payload, host.mac_key))
    return name


def read_fence(target: Target, host: HostSecret, name: str) -> frozenset[bytes]:
    """The packs that the fence `name` names. It is read anew if it is damaged: on it depends what is relied on.

    Raise ObjectMissing, IntegrityError, or ForeignRepository if its version is not known.
    """
    for attempt in range(_ATTEMPTS):
        try:
            payload = verify_document("fence", target.get(name), host.mac_key)
            break
        except IntegrityError:
            if attempt == _ATTEMPTS - 1:
                raise
    packs = payload.get("packs")
    if hex_field(payload, "repository", REPOSITORY_ID_BYTES) != host.repository_id or not isinstance(packs, list):
        raise IntegrityError(f"{name} is no fence of this repository.")
    if not all(isinstance(pack, str) and _PACK.fullmatch(pack) for pack in packs):
        raise IntegrityError(f"{name} names something that is no pack.")
    return frozenset(map(bytes.fromhex, packs))


def read_new_fences(target: Target, host: HostSecret, known: Container[str]) -> dict[str, frozenset[bytes]]:
    """What the fences name that are not `known`, by fence: the way a run looks at them.

    A fence that goes away meanwhile is left out: its packs are gone, or came into use. Raise IntegrityError for a damaged
    one: nobody can say then what may be relied on.
    """
    fences = {}
    for name in target.list_prefix("fences/"):
        if name in known:
            continue
        try:
            fences[name] = read_fence(target, host, name)
        except ObjectMissing:
            continue
        except IntegrityError as error:
            raise IntegrityError(
                f"{name} is damaged, so that it cannot be known which packs are about to be deleted. {error.message}",
                untouched="Nothing was backed up; earlier recovery points are as they were.",
                next_step="`trinity-snap prune` removes damaged fences.",
            ) from error
    return fences
