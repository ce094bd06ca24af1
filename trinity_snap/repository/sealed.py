"""The outer form of points and index objects, and the header that packs share (docs/format.md sections 6, 7)."""

from __future__ import annotations

import os
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from trinity_snap.errors import ForeignRepository, IntegrityError
from trinity_snap.repository.keys import object_key

__all__ = [
    "HEADER_BYTES",
    "INDEX_MAGIC",
    "PACK_MAGIC",
    "POINT_MAGIC",
    "TAG_BYTES",
    "Header",
    "new_header",
    "object_cipher",
    "open_object",
    "pack_key",
    "pad_length",
    "parse_header",
    "seal_object",
]

HEADER_BYTES = 72
TAG_BYTES = 16
PACK_MAGIC = b"TSNAPPK\x01"
INDEX_MAGIC = b"TSNAPIX\x01"
POINT_MAGIC = b"TSNAPPT\x01"
_KINDS = {PACK_MAGIC: "pack", INDEX_MAGIC: "index", POINT_MAGIC: "point"}
_NONCE = bytes(12)
_OBJECT_MULTIPLE = 1024


@dataclass(frozen=True)
class Header:
    """The first 72 bytes of a pack, point or index object."""

    magic: bytes
    repository_id: bytes
    session_id: bytes
    salt: bytes

    def encode(self) -> bytes:
        """The header's bytes."""
        return self.magic + self.repository_id + self.session_id + self.salt


def new_header(magic: bytes, repository_id: bytes, session_id: bytes) -> Header:
    """Return a header with a fresh random salt."""
    return Header(magic, repository_id, session_id, os.urandom(32))


def parse_header(data: bytes | memoryview, magic: bytes, repository_id: bytes, name: str) -> Header:
    """Return the header of the object `name`. Raise IntegrityError or ForeignRepository if it does not fit."""
    raw = bytes(data[:HEADER_BYTES])
    if len(raw) < HEADER_BYTES or raw[:8] != magic:
        raise IntegrityError(
            f"{name} is truncated or is not what its name says.", next_step="Run `trinity-snap verify`."
        )
    if raw[8:24] != repository_id:
        raise ForeignRepository(f"{name} belongs to another repository.")
    return Header(magic, repository_id, raw[24:40], raw[40:72])


def object_cipher(header: Header, parent_key: bytes) -> AESGCM:
    """Return the cipher of one object: its key comes from the parent key and the object's own salt."""
    return AESGCM(object_key(parent_key, header.salt, _KINDS[header.magic]))


def pack_key(header: Header, session_key: bytes) -> bytes:
    """Return the key (32 bytes) of the pack with that header: it opens this pack and no other object."""
    return object_key(session_key, header.salt, _KINDS[PACK_MAGIC])


def pad_length(unpadded: int, multiple: int) -> int:
    """How many bytes make `unpadded` a multiple of `multiple`."""
    return -unpadded % multiple


def seal_object(header: Header, parent_key: bytes, name: str, body: bytes) -> bytes:
    """Return the object `name`: header, and `body` sealed and padded to a multiple of 1 KiB."""
    encoded = header.encode()
    padding = pad_length(HEADER_BYTES + 4 + len(body) + TAG_BYTES, _OBJECT_MULTIPLE)
    plaintext = b"".join((len(body).to_bytes(4, "big"), body, bytes(padding)))
    return encoded + object_cipher(header, parent_key).encrypt(_NONCE, plaintext, encoded + name.encode())


def open_object(data: bytes, header: Header, parent_key: bytes, name: str) -> bytes:
    """Return the body of the object `name`. Raise IntegrityError if a bit of it is not as it was sealed."""
    try:
        plaintext = object_cipher(header, parent_key).decrypt(
            _NONCE, data[HEADER_BYTES:], header.encode() + name.encode()
        )
    except (InvalidTag, ValueError) as error:
        raise IntegrityError(
            f"{name} is damaged or was not written by this repository's host.", next_step="Run `trinity-snap verify`."
        ) from error
    length = int.from_bytes(plaintext[:4], "big")
    if len(plaintext) < 4 or length > len(plaintext) - 4:
        raise IntegrityError(f"{name} gives a length that it does not have.")
    return plaintext[4 : 4 + length]
