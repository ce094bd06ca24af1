"""Keys: derivation as the format says, and sealing that opens for one identity and one use only."""

from __future__ import annotations

import hashlib
import hmac
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trinity_snap.errors import IntegrityError, KeyFileError
from trinity_snap.repository.keys import (
    SEAL_OVERHEAD_BYTES,
    HostSecret,
    Identity,
    Recipient,
    generate_host_secret,
    generate_identity,
    generate_session_key,
    hkdf,
    object_key,
)

ALICE = Identity(bytes(range(32)), "alice")
BOB = Identity(bytes(32), "bob")


def reference_hkdf(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, from the standard library alone."""
    secret = hmac.digest(salt or bytes(32), key, hashlib.sha256)
    output, block = b"", b""
    while len(output) < length:
        block = hmac.digest(secret, block + info + bytes([len(output) // 32 + 1]), hashlib.sha256)
        output += block
    return output[:length]


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80), st.integers(1, 200))
def test_hkdf_is_that_of_the_rfc(key: bytes, salt: bytes, info: bytes, length: int) -> None:
    assert hkdf(key, salt=salt, info=info, length=length) == reference_hkdf(key, salt, info, length)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=16, max_size=16))
def test_host_keys_are_derived_as_the_format_says(secret: bytes, repository_id: bytes) -> None:
    host = HostSecret(secret, repository_id)

    def expected(name: str, length: int) -> bytes:
        return reference_hkdf(secret, repository_id, b"trinity-snap/1/" + name.encode(), length)

    assert host.chunk_id_key == expected("chunk-id", 32)
    assert host.index_key == expected("index", 32)
    assert host.mac_key == expected("mac", 32)
    assert host.chunker_seed == int.from_bytes(expected("chunker", 8), "big")
    assert host.page_seed == int.from_bytes(expected("page", 4), "big")
    assert host.mac_key is host.mac_key
    assert object_key(secret, b"s" * 32, "pack") == reference_hkdf(secret, b"s" * 32, b"trinity-snap/1/pack", 32)


def test_the_public_key_comes_from_the_seed_as_the_format_says() -> None:
    from cryptography.hazmat.primitives.asymmetric import mlkem, x25519

    mlkem_seed = reference_hkdf(ALICE.seed, b"", b"trinity-snap/1/identity/ml-kem-768", 64)
    private = reference_hkdf(ALICE.seed, b"", b"trinity-snap/1/identity/x25519", 32)
    public = ALICE.recipient.public
    assert len(public) == 1216
    assert public[:1184] == mlkem.MLKEM768PrivateKey.from_seed_bytes(mlkem_seed).public_key().public_bytes_raw()
    assert public[1184:] == x25519.X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    assert ALICE.recipient.id == hashlib.sha256(public).hexdigest()[:16]
    assert ALICE.recipient.id_bytes.hex() == ALICE.recipient.id
    assert ALICE.recipient.label == "alice"
    assert Identity(ALICE.seed).recipient == ALICE.recipient


@settings(max_examples=30)
@given(st.binary(max_size=200), st.binary(max_size=100))
def test_what_is_sealed_opens_for_its_identity(plaintext: bytes, info: bytes) -> None:
    sealed = ALICE.recipient.seal(plaintext, info)
    assert len(sealed) == len(plaintext) + SEAL_OVERHEAD_BYTES
    assert ALICE.open(sealed, info) == plaintext
    assert sealed != ALICE.recipient.seal(plaintext, info)


SEALED = ALICE.recipient.seal(b"k" * 32, b"use")


@settings(max_examples=200)
@given(st.integers(0, len(SEALED) * 8 - 1))
def test_any_flipped_bit_is_an_integrity_error(bit: int) -> None:
    damaged = bytearray(SEALED)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(IntegrityError):
        ALICE.open(bytes(damaged), b"use")


@given(st.one_of(st.integers(0, len(SEALED) - 1).map(lambda length: SEALED[:length]), st.binary(max_size=3000)))
def test_anything_else_is_an_integrity_error(sealed: bytes) -> None:
    with pytest.raises(IntegrityError):
        ALICE.open(sealed, b"use")


def test_another_identity_and_another_use_do_not_open() -> None:
    with pytest.raises(IntegrityError):
        BOB.open(SEALED, b"use")
    with pytest.raises(IntegrityError):
        ALICE.open(SEALED, b"other use")
    with pytest.raises(IntegrityError):
        ALICE.open(SEALED + b"\0", b"use")


@pytest.mark.parametrize("public", [b"\xff" * 1216, ALICE.recipient.public[:1184] + bytes(32)])
def test_an_unusable_public_key_is_refused(public: bytes) -> None:
    with pytest.raises(KeyFileError):
        Recipient(public).seal(b"", b"")


def test_keys_of_a_wrong_length_are_refused() -> None:
    for make in (
        lambda: Recipient(bytes(1215)),
        lambda: Identity(bytes(31)),
        lambda: HostSecret(bytes(31), bytes(16)),
        lambda: HostSecret(bytes(32), bytes(15)),
    ):
        with pytest.raises(KeyFileError):
            make()


def test_new_keys_are_new_and_never_shown() -> None:
    assert generate_identity("x") != generate_identity("x")
    assert generate_host_secret().secret != generate_host_secret().secret
    assert generate_session_key() != generate_session_key()
    host = HostSecret(b"\xaa" * 32, b"\xbb" * 16)
    assert "\\xaa" not in repr(host)
    assert "\\x01" not in repr(ALICE)


def test_importing_keys_and_targets_does_not_import_cryptography() -> None:
    code = (
        "import sys, trinity_snap.targets\n"
        "from trinity_snap.repository import identity, recipients\n"
        "sys.exit(bool({'cryptography', 'mnemonic', 'msgspec'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
