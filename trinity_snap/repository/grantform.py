"""Grants as bytes: how they are sent, and how one is read that may come from anybody (docs/format.md section 12)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from urllib.parse import urlsplit

import msgspec

from trinity_snap.errors import ForeignRepository, GrantError, IntegrityError, TargetError
from trinity_snap.repository.grants import Grant, GrantedPack
from trinity_snap.repository.packs import pack_name
from trinity_snap.repository.points import PackReference, RecoveryPoint, check_point, encode_references
from trinity_snap.repository.sealed import HEADER_BYTES
from trinity_snap.targets.protocol import MAX_OBJECT_BYTES

__all__ = ["MAX_GRANT_BYTES", "decode_grant", "encode_grant"]

MAX_GRANT_BYTES = 64 * 1024 * 1024
"""A grant for some four hundred thousand packs, six terabytes."""

_MAGIC = b"TSNAPGR\x01"
_PACK_BYTES = 32 + 8 + 32 + 4 + 32
_SIGNATURE_BYTES = 32
_LATEST_SECOND = 253402300799  # the last second of the year 9999
_MAX_ADDRESS_CHARACTERS = 8192
_MAX_CERTIFICATE_CHARACTERS = 1 << 20


class _Addresses(msgspec.Struct, array_like=True, frozen=True):
    """Signed addresses of the next packs: `before`, the pack's object name, `after`, and its signature in hex."""

    before: str
    after: str
    signatures: bytes


class _Document(msgspec.Struct, frozen=True, kw_only=True):
    """A grant as it is sent. `packs` of its point is empty: they are here."""

    version: int = 1
    repository: bytes
    target: str
    created: int
    expires: int
    paths: list[str] = []
    point: RecoveryPoint
    chunk_id_key: bytes
    sessions: bytes
    packs: bytes
    addresses: list[_Addresses] | None = None
    certificates: str | None = None
    missing: list[tuple[bytes, int, str]] = []


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Document)


def encode_grant(grant: Grant) -> bytes:
    """The grant as it is sent: some 140 bytes for each pack, and the recovery point."""
    sessions = sorted({pack.session_id for pack in grant.packs.values()})
    numbers = {session: number.to_bytes(4, "big") for number, session in enumerate(sessions)}
    digests = sorted(grant.packs)
    packs = []
    for digest in digests:
        pack = grant.packs[digest]
        packs += [bytes.fromhex(digest), pack.length.to_bytes(8, "big"), pack.key, numbers[pack.session_id], pack.salt]
    document = _Document(
        repository=grant.repository_id,
        target=grant.target,
        created=grant.created,
        expires=grant.expires,
        paths=list(grant.paths),
        point=msgspec.structs.replace(grant.point, packs=b""),
        chunk_id_key=grant.chunk_id_key,
        sessions=b"".join(sessions),
        packs=b"".join(packs),
        addresses=None if grant.addresses is None else _split(grant.addresses, digests),
        certificates=grant.certificates,
        missing=[
            (bytes.fromhex(name), each.length, grant.reasons.get(name, "")) for name, each in grant.missing.items()
        ],
    )
    return _MAGIC + _encoder.encode(document)


def _split(addresses: Mapping[str, str], digests: Iterable[str]) -> list[_Addresses]:
    """Signed addresses differ in the name and in the signature, and else only in when they were signed."""
    parts = []
    for digest in digests:
        name = pack_name(digest)
        before, found, after = addresses[name].partition(name)
        signature = after[-2 * _SIGNATURE_BYTES :]
        try:
            raw = bytes.fromhex(signature)
        except ValueError:
            raw = b""
        if not found or len(raw) != _SIGNATURE_BYTES or raw.hex() != signature:
            raise TargetError("The target signs addresses in a form that a grant cannot hold.")
        parts.append((before, after[: -2 * _SIGNATURE_BYTES], raw))
    return [
        _Addresses(before, after, b"".join(raw for _, _, raw in group))
        for (before, after), group in groupby(parts, key=lambda part: part[:2])
    ]


def decode_grant(data: bytes) -> Grant:
    """The grant in `data`, which may be anything. Raise GrantError if it is none, or says what cannot be."""
    if not data:
        raise _none("There is no grant on the standard input: it is empty.")
    if len(data) > MAX_GRANT_BYTES:
        raise _none(f"What is on the standard input is longer than any grant ({MAX_GRANT_BYTES} bytes).")
    if data[: len(_MAGIC)] != _MAGIC:
        newer = data[: len(_MAGIC) - 1] == _MAGIC[:-1]
        raise _none(
            "The grant is of a newer form than this trinity-snap knows." if newer else "The standard input is no grant."
        )
    try:
        document = _decoder.decode(memoryview(data)[len(_MAGIC) :])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _none(f"The grant is damaged or was cut short ({error}).") from error
    if document.version != 1:
        raise _none(f"The grant has version {document.version}; this trinity-snap knows version 1.")
    wrong = _wrong(document)
    if wrong:
        raise _none(f"The grant makes no sense: {wrong}.")
    return _from_document(document)


def _from_document(document: _Document) -> Grant:
    packs: dict[str, GrantedPack] = {}
    raw, sessions = document.packs, document.sessions
    for at in range(0, len(raw), _PACK_BYTES):
        digest, length, key, number, salt = _fields(raw, at)
        if 16 * number >= len(sessions) or not HEADER_BYTES < length <= MAX_OBJECT_BYTES or digest in packs:
            raise _none("The grant makes no sense: it has an impossible pack.")
        packs[digest] = GrantedPack(length, key, sessions[16 * number : 16 * number + 16], salt)
    missing = {digest.hex(): PackReference(digest.hex(), length) for digest, length, _ in document.missing}
    references = [PackReference(name, pack.length) for name, pack in packs.items()]
    references += [each for name, each in missing.items() if name not in packs]
    try:
        point = check_point(document.point, "The grant's recovery point")
        point = msgspec.structs.replace(point, packs=encode_references(references))
    except (IntegrityError, ForeignRepository) as error:
        raise _none(error.message) from error
    return Grant(
        document.repository, document.target, document.created, document.expires, tuple(document.paths), point,
        document.chunk_id_key, packs,
        None if document.addresses is None else _joined(document.addresses, packs),
        document.certificates, missing,
        {digest.hex(): reason for digest, _, reason in document.missing},
    )  # fmt: skip


def _fields(raw: bytes, at: int) -> tuple[str, int, bytes, int, bytes]:
    return (
        raw[at : at + 32].hex(),
        int.from_bytes(raw[at + 32 : at + 40], "big"),
        raw[at + 40 : at + 72],
        int.from_bytes(raw[at + 72 : at + 76], "big"),
        raw[at + 76 : at + 108],
    )


def _joined(addresses: Sequence[_Addresses], digests: Iterable[str]) -> dict[str, str]:
    signed = [
        (each.before, each.after, each.signatures[at : at + _SIGNATURE_BYTES].hex())
        for each in addresses
        for at in range(0, len(each.signatures), _SIGNATURE_BYTES)
    ]
    return {
        name: f"{before}{name}{after}{signature}"
        for name, (before, after, signature) in zip(map(pack_name, digests), signed, strict=True)
    }


def _wrong(document: _Document) -> str:
    """What cannot be in it; empty if all can be."""
    if (len(document.repository), len(document.chunk_id_key)) != (16, 32):
        return "an id or a key has another length"
    if len(document.sessions) % 16 or len(document.packs) % _PACK_BYTES:
        return "its packs have another length"
    if not 0 <= document.created <= document.expires <= _LATEST_SECOND:
        return "its times are impossible"
    if not 0 <= document.point.created_ns // 1_000_000_000 <= _LATEST_SECOND:
        return "the time of its recovery point is impossible"
    if any(len(digest) != 32 or not 0 <= length <= MAX_OBJECT_BYTES for digest, length, _ in document.missing):
        return "a missing pack is impossible"
    if len(document.certificates or "") > _MAX_CERTIFICATE_CHARACTERS:
        return "it has too many certificates"
    if len(document.point.id) != 32 or not set(document.point.id) <= set("0123456789abcdef"):
        return "its recovery point has no id"
    if document.addresses is None:
        return ""
    if any(len(each.signatures) % _SIGNATURE_BYTES for each in document.addresses):
        return "a signature has another length"
    signed = sum(len(each.signatures) for each in document.addresses) // _SIGNATURE_BYTES
    if signed != len(document.packs) // _PACK_BYTES:
        return "it has not one address for each pack"
    if not all(_is_address(each.before, each.after) for each in document.addresses):
        return "an address in it is none"
    return ""


def _is_address(before: str, after: str) -> bool:
    if len(before) + len(after) > _MAX_ADDRESS_CHARACTERS:
        return False
    try:
        parts = urlsplit(before)
        _ = parts.port
    except ValueError:
        return False
    plain = all("!" <= one <= "~" for one in before + after)
    return plain and parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc


def _none(message: str) -> GrantError:
    return GrantError(
        message,
        untouched="Nothing was changed.",
        next_step="See what `trinity-snap grant` said where the grant was made, and make a new one.",
    )
