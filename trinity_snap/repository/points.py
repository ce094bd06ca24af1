"""Recovery points: the structures, and their sealed and authenticated form (docs/format.md section 8)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from trinity_snap.errors import ForeignRepository, IntegrityError
from trinity_snap.repository.sealed import Header, open_object, seal_object

__all__ = [
    "PackReference",
    "RecoveryPoint",
    "Repacked",
    "Volume",
    "check_point",
    "encode_document",
    "encode_pack_references",
    "open_point",
    "seal_point",
    "sealed_document",
]

Octets = bytes  # the structures below have a field called `bytes`

_MAC_BYTES = 32
_PACK_REFERENCE_BYTES = 40


class Volume(msgspec.Struct, frozen=True, kw_only=True):
    """One volume, or one path of the platform, in a recovery point."""

    name: str
    kind: str
    source: str = ""
    destination: str = ""
    driver: str = "local"
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    root: Octets
    root_length: int
    entries: int
    files: int
    bytes: int
    selection: list[str] | msgspec.UnsetType = msgspec.UNSET  # patterns of what was taken, if that is not all of it

    @property
    def selected(self) -> tuple[str, ...]:
        """The patterns of what was taken of the volume; none if it is all there."""
        return () if self.selection is msgspec.UNSET else tuple(self.selection)


class PackReference(msgspec.Struct, frozen=True):
    """A pack that a point needs: its SHA-256 in hex, and its length in bytes."""

    name: str
    length: int


class Repacked(msgspec.Struct, frozen=True, kw_only=True):
    """Says that the point is another one with its data in other packs (docs/format.md section 17).

    `original` is the id that its host gave it, `stored_ns` when the storage got that (Unix time in ns), `times` how often
    it was repacked since, `by` the id of the recipient whose identity did it, `mac` that identity's word for it.
    """

    original: str
    stored_ns: int
    times: int
    by: str
    mac: bytes


class RecoveryPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One agent's backup. `id` and `session_id` are the object's, the rest is its sealed document."""

    id: str = ""
    session_id: Octets = b""
    version: int = 1
    agent: str
    host: str
    run_id: str
    created_ns: int
    mode: str
    provider: str
    consistency: str
    pause_ns: int
    files: int
    bytes: int
    volumes: list[Volume]
    container: dict[str, Any] | None = None  # what the Docker API says; only Docker gives it a meaning
    packs: Octets
    problems: list[tuple[str, Octets, str]] = []
    repacked: Repacked | None = None

    @property
    def created(self) -> datetime:
        """The instant of the snapshot, in UTC."""
        return datetime.fromtimestamp(self.created_ns / 1e9, UTC)

    def pack_references(self) -> list[PackReference]:
        """Every pack that the point needs."""
        step = _PACK_REFERENCE_BYTES
        return [
            PackReference(self.packs[at : at + 32].hex(), int.from_bytes(self.packs[at + 32 : at + step], "big"))
            for at in range(0, len(self.packs), step)
        ]

    def volume(self, name: str) -> Volume | None:
        """The volume of that name, or None."""
        return next((volume for volume in self.volumes if volume.name == name), None)


def encode_pack_references(packs: Iterable[tuple[bytes, int]]) -> bytes:
    """Return the `packs` element for packs given as SHA-256 and length in bytes."""
    return b"".join(name + length.to_bytes(8, "big") for name, length in sorted(packs))


def encode_references(packs: Iterable[PackReference]) -> bytes:
    """Return the `packs` element for references."""
    return encode_pack_references((bytes.fromhex(each.name), each.length) for each in packs)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(RecoveryPoint)


def _mac(mac_key: bytes, repository_id: bytes, session_id: bytes, point_id: str, document: bytes) -> bytes:
    message = b"".join((b"trinity-snap/1/point", repository_id, session_id, bytes.fromhex(point_id), document))
    return hmac.digest(mac_key, message, hashlib.sha256)


def encode_document(point: RecoveryPoint) -> bytes:
    """The document of a point, as it is sealed."""
    fields: Mapping[str, object] = {
        name: getattr(point, name)
        for name in point.__struct_fields__
        if name not in ("id", "session_id") and (name != "repacked" or point.repacked is not None)
    }
    return _encoder.encode(fields)


def seal_point(point: RecoveryPoint, header: Header, session_key: bytes, mac_key: bytes) -> bytes:
    """Return the bytes of the object `points/<id>`. The point's `id` is set; `header` is that of the object."""
    document = encode_document(point)
    mac = _mac(mac_key, header.repository_id, header.session_id, point.id, document)
    return seal_object(header, session_key, f"points/{point.id}", mac + document)


def sealed_document(data: bytes, header: Header, session_key: bytes, mac_key: bytes, point_id: str) -> bytes:
    """The document of the point `point_id`. Raise IntegrityError if it is damaged or forged."""
    name = f"points/{point_id}"
    body = open_object(data, header, session_key, name)
    mac, document = body[:_MAC_BYTES], body[_MAC_BYTES:]
    expected = _mac(mac_key, header.repository_id, header.session_id, point_id, document)
    if not hmac.compare_digest(mac, expected):
        raise IntegrityError(f"{name} was not written by this repository's host: its MAC is wrong.")
    return document


def open_point(data: bytes, header: Header, session_key: bytes, mac_key: bytes, point_id: str) -> RecoveryPoint:
    """Return the point `point_id`. Raise IntegrityError if it is damaged or forged, ForeignRepository if too new."""
    name = f"points/{point_id}"
    document = sealed_document(data, header, session_key, mac_key, point_id)
    try:
        point = _decoder.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"{name} cannot be decoded: {error}.") from error
    return msgspec.structs.replace(check_point(point, name), id=point_id, session_id=header.session_id)


def check_point(point: RecoveryPoint, name: str) -> RecoveryPoint:
    """Give back a point. Raise IntegrityError or ForeignRepository if it cannot be one; `name` is for the sentence."""
    if point.version != 1:
        raise ForeignRepository(
            f"{name} has version {point.version}; this trinity-snap knows version 1.",
            next_step="Use a newer trinity-snap.",
        )
    if len(point.packs) % _PACK_REFERENCE_BYTES or any(len(volume.root) != 32 for volume in point.volumes):
        raise IntegrityError(f"{name} has a reference of the wrong length.")
    return point
