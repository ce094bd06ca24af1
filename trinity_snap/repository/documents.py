"""Documents of two lines: a JSON object, and a MAC over it (`docs/format.md`, sections 4 and 5)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from trinity_snap.errors import ForeignRepository, IntegrityError
from trinity_snap.repository.keys import INFO_PREFIX

VERSION = 1
MAX_DOCUMENT_BYTES = 64 << 20
"""Longer documents are refused unread. Most of a long one is the history of recipients that joined late."""

_MAC_LINE = re.compile(rb"[0-9a-f]{64}")


def created_now() -> str:
    """This moment in UTC as RFC 3339 says, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def sign_document(kind: str, payload: Mapping[str, object], mac_key: bytes) -> bytes:
    """The document with that payload, `format` and `version` put in front.

    `kind` is `repository`, `recipients`, `session`, `fence` or `receipt`.
    """
    head: dict[str, object] = {"format": f"trinity-snap {kind}", "version": VERSION}
    line = json.dumps(head | dict(payload), ensure_ascii=True, allow_nan=False).encode("ascii")
    return line + b"\n" + _mac(kind, line, mac_key).hex().encode("ascii") + b"\n"


def split_document(data: bytes) -> tuple[dict[str, object], bytes, bytes]:
    """The payload, the bytes that the MAC is over (the first line), and the MAC. Nothing is authentic yet.

    Raise IntegrityError if it is no such document.
    """
    if len(data) > MAX_DOCUMENT_BYTES:
        raise IntegrityError(f"A document of {len(data)} bytes is longer than any that is written.")
    lines = bytes(data).split(b"\n", 3)
    if len(lines) != 3 or lines[2] or _MAC_LINE.fullmatch(lines[1]) is None:
        raise IntegrityError("A document is damaged: it does not consist of a JSON line and a MAC line.")
    try:
        payload = parse_object(lines[0])
    except ValueError as error:
        raise IntegrityError(f"A document is damaged: {error}.") from error
    return payload, lines[0], bytes.fromhex(lines[1].decode("ascii"))


def verify_document(kind: str, data: bytes, mac_key: bytes) -> dict[str, object]:
    """The payload of an authentic document of that kind.

    Raise IntegrityError if it is damaged or not authentic, ForeignRepository if its version is not known.
    """
    payload, line, mac = split_document(data)
    if not hmac.compare_digest(mac, _mac(kind, line, mac_key)):
        raise IntegrityError(f"The MAC of a {kind} document is wrong: it was damaged, or was not written by this host.")
    check_header(kind, payload)
    return payload


def check_header(kind: str, payload: Mapping[str, object]) -> None:
    """Check `format` and `version`.

    Raise IntegrityError for another kind, ForeignRepository for an unknown version.
    """
    if payload.get("format") != f"trinity-snap {kind}":
        raise IntegrityError(f"A document says that it is a {payload.get('format')!r:.60}, not a trinity-snap {kind}.")
    version = payload.get("version")
    if version != VERSION or isinstance(version, bool):
        raise ForeignRepository(
            f"The {kind} document has version {version!r:.40} of the format; this reads version {VERSION}.",
            untouched="Nothing was changed.",
            next_step="Use the version of trinity-snap that wrote it, or a later one.",
        )


def parse_object(text: bytes) -> dict[str, object]:
    """The JSON object in ASCII bytes.

    Raise ValueError, with a reason, for everything else, and for a key that is there twice.
    """
    try:
        value = json.loads(text.decode("ascii"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError("it is not ASCII") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error.msg} at column {error.colno})") from error
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def hex_field(payload: Mapping[str, object], name: str, length: int) -> bytes:
    """The `length` bytes that a member gives in lower-case hexadecimal. Raise IntegrityError."""
    value = payload.get(name)
    if not isinstance(value, str) or re.fullmatch(rf"[0-9a-f]{{{2 * length}}}", value) is None:
        raise IntegrityError(f"A document is damaged: {name!r} is not {2 * length} hexadecimal digits.")
    return bytes.fromhex(value)


def base64_field(payload: Mapping[str, object], name: str) -> bytes:
    """The bytes that a member gives in base64. Raise IntegrityError."""
    value = payload.get(name)
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except ValueError:
            pass
    raise IntegrityError(f"A document is damaged: {name!r} is not base64.")


def object_field(payload: Mapping[str, object], name: str) -> dict[str, object]:
    """The JSON object that a member is. Raise IntegrityError."""
    value = payload.get(name)
    if not isinstance(value, dict):
        raise IntegrityError(f"A document is damaged: {name!r} is not an object.")
    return value


def to_base64(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode("ascii")


def _mac(kind: str, line: bytes, mac_key: bytes) -> bytes:
    """HMAC-SHA256 (RFC 2104) over the kind and the first line."""
    return hmac.digest(mac_key, INFO_PREFIX + kind.encode("ascii") + b"\n" + line, hashlib.sha256)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key is there twice")
    return members


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON value")
