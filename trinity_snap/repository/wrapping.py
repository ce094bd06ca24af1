"""Wrapping an identity: with a passphrase, or with the key of Trinity's credential encryption."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from trinity_snap.errors import IntegrityError, KeyFileError, WrongKey
from trinity_snap.repository.documents import base64_field, object_field, parse_object, to_base64
from trinity_snap.trinity.envelope import KEY_VARIABLE, open_envelope, parse_trinity_key, seal_envelope

_MEMORY_KIB, _PASSES, _LANES = 64 << 10, 3, 4
_MAX_MEMORY_KIB, _MAX_PASSES, _MAX_LANES = 1 << 20, 16, 16
_MAX_WORK_KIB = 4 << 20
"""Memory times passes that a file may ask for: some seconds, not days."""


@dataclass(frozen=True)
class PassphraseWrap:
    """Wrap an identity with a passphrase (Argon2id, RFC 9106)."""

    passphrase: str = field(repr=False)


@dataclass(frozen=True)
class TrinityWrap:
    """Wrap an identity with Trinity's `CREDENTIAL_ENCRYPTION_KEY`, 64 hexadecimal characters."""

    key: str = field(repr=False)


Wrap = PassphraseWrap | TrinityWrap


def wrap_secret(plaintext: bytes, wrap: Wrap) -> dict[str, object]:
    """The member `wrapped` of a key file.

    Raise KeyFileError for an empty passphrase or a key of the wrong shape.
    """
    if isinstance(wrap, TrinityWrap):
        return {"by": "trinity", "envelope": seal_envelope(plaintext, parse_trinity_key(wrap.key))}
    if not wrap.passphrase:
        raise KeyFileError("An empty passphrase protects nothing.", next_step="Choose a passphrase, or wrap nothing.")
    salt = os.urandom(16)
    key = _argon2id(wrap.passphrase, salt, memory_kib=_MEMORY_KIB, passes=_PASSES, lanes=_LANES)
    kdf: dict[str, object] = {
        "algorithm": "argon2id",
        "memory_kib": _MEMORY_KIB,
        "passes": _PASSES,
        "lanes": _LANES,
        "salt": to_base64(salt),
    }
    return {"by": "passphrase", "kdf": kdf, "envelope": seal_envelope(plaintext, key)}


def unwrap_secret(
    path: str | os.PathLike[str],
    wrapped: Mapping[str, object],
    passphrase: Callable[[], str] | None,
    trinity_key: str | None,
) -> dict[str, object]:
    """The JSON object inside the member `wrapped` of the identity file at `path`.

    Raise KeyFileError if nothing was given that could open it, WrongKey if what was given does not,
    IntegrityError if the member is damaged. `passphrase` is called only if it is needed.
    """
    by = wrapped.get("by")
    envelope = object_field(wrapped, "envelope")
    if by == "trinity":
        if not trinity_key:
            raise KeyFileError(
                f"The identity {path} is wrapped with Trinity's {KEY_VARIABLE}, and that key was not given.",
                next_step=f"Set {KEY_VARIABLE} to the value in the .env file of the Trinity platform.",
            )
        key = parse_trinity_key(trinity_key)
        refusal = f"Trinity's {KEY_VARIABLE} does not open the identity {path}."
    elif by == "passphrase":
        kdf = object_field(wrapped, "kdf")
        salt, memory_kib, passes, lanes = _bounded_parameters(kdf)
        if passphrase is None:
            raise KeyFileError(f"The identity {path} is wrapped with a passphrase, and none was given.")
        key = _argon2id(passphrase(), salt, memory_kib=memory_kib, passes=passes, lanes=lanes)
        refusal = f"The passphrase does not open the identity {path}."
    else:
        raise IntegrityError(f"it is wrapped by {by!r:.40}, which is not known")
    try:
        plaintext = open_envelope(envelope, key)
    except WrongKey as error:
        raise WrongKey(
            refusal, next_step="If it is surely the right one, the file is damaged: take another copy."
        ) from error
    try:
        return parse_object(plaintext)
    except ValueError as error:
        raise IntegrityError(f"what is wrapped in it cannot be read, since {error}") from error


def _bounded_parameters(kdf: Mapping[str, object]) -> tuple[bytes, int, int, int]:
    """Salt, memory in KiB, passes and lanes, if a file may ask for so much. Raise IntegrityError."""
    if kdf.get("algorithm") != "argon2id":
        raise IntegrityError(f"its key derivation {kdf.get('algorithm')!r:.40} is not known")
    salt = base64_field(kdf, "salt")
    lanes = _bounded(kdf, "lanes", 1, _MAX_LANES)
    passes = _bounded(kdf, "passes", 1, _MAX_PASSES)
    memory_kib = _bounded(kdf, "memory_kib", 8 * lanes, _MAX_MEMORY_KIB)
    if memory_kib * passes > _MAX_WORK_KIB or not 16 <= len(salt) <= 64:
        raise IntegrityError("its key derivation asks for more work, or another salt, than is allowed")
    return salt, memory_kib, passes, lanes


def _bounded(members: Mapping[str, object], name: str, least: int, most: int) -> int:
    value = members.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise IntegrityError(f"{name!r} of its key derivation is not a number from {least} to {most}")
    return value


def _argon2id(passphrase: str, salt: bytes, *, memory_kib: int, passes: int, lanes: int) -> bytes:
    """A key of 32 bytes by Argon2id (RFC 9106) from a passphrase in Unicode normal form C."""
    from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

    try:
        text = unicodedata.normalize("NFC", passphrase).encode("utf-8")
    except UnicodeEncodeError as error:
        raise KeyFileError("The passphrase is not text in UTF-8.") from error
    kdf = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory_kib)
    try:
        return kdf.derive(text)
    except MemoryError as error:
        raise KeyFileError(f"There is no memory for the passphrase's key derivation ({memory_kib} KiB).") from error
