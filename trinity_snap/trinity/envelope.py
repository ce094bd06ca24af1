"""The envelope in which Trinity keeps credentials, for its own key and for any other 256-bit key.

    {"version": 1, "algorithm": "AES-256-GCM", "nonce": "<b64, 12 bytes>", "ciphertext": "<b64>"}

The key is `CREDENTIAL_ENCRYPTION_KEY`, 64 hexadecimal characters. There is no AAD, so that an envelope does
not say what it is for: whoever opens one MUST check that against what is inside.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping

from trinity_snap.errors import KeyFileError, WrongKey

KEY_VARIABLE = "CREDENTIAL_ENCRYPTION_KEY"
_ALGORITHM = "AES-256-GCM"
_MAX_CIPHERTEXT_BYTES = 1 << 20


def parse_trinity_key(text: str) -> bytes:
    """The 32 bytes of a key given as 64 hexadecimal characters, white space around them allowed.

    Raise KeyFileError.
    """
    digits = text.strip()
    if re.fullmatch(r"[0-9a-fA-F]{64}", digits) is None:
        raise KeyFileError(
            f"Trinity's {KEY_VARIABLE} must be 64 hexadecimal characters; what was given has {len(digits)}"
            f"{' that are not all hexadecimal' if len(digits) == 64 else ''}.",
            next_step=f"Take it from the .env file of the Trinity platform, the line {KEY_VARIABLE}=….",
        )
    return bytes.fromhex(digits)


def seal_envelope(plaintext: bytes, key: bytes) -> dict[str, object]:
    """Put `plaintext` into a new envelope under a key of 32 bytes."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = os.urandom(12)
    ciphertext = AESGCM(key).encrypt(nonce, plaintext, None)
    return {
        "version": 1,
        "algorithm": _ALGORITHM,
        "nonce": base64.b64encode(nonce).decode("ascii"),
        "ciphertext": base64.b64encode(ciphertext).decode("ascii"),
    }


def open_envelope(envelope: Mapping[str, object], key: bytes) -> bytes:
    """What an envelope holds.

    Raise KeyFileError if it is no such envelope, WrongKey if the key of 32 bytes does not open it.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    version, algorithm = envelope.get("version"), envelope.get("algorithm")
    if version != 1 or isinstance(version, bool) or algorithm != _ALGORITHM:
        raise KeyFileError(f"An envelope of version {version!r:.40} and algorithm {algorithm!r:.40} is not known.")
    nonce = _base64_field(envelope, "nonce")
    ciphertext = _base64_field(envelope, "ciphertext")
    if len(nonce) != 12 or not 16 <= len(ciphertext) <= _MAX_CIPHERTEXT_BYTES:
        raise KeyFileError("An envelope is damaged: its nonce or its ciphertext has an impossible length.")
    try:
        return AESGCM(key).decrypt(nonce, ciphertext, None)
    except InvalidTag as error:
        raise WrongKey("The key does not open the envelope, or the envelope is damaged.") from error


def _base64_field(envelope: Mapping[str, object], name: str) -> bytes:
    value = envelope.get(name)
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            pass
    raise KeyFileError(f"An envelope is damaged: its {name} is not base64.")
