"""Trinity's envelope: what Trinity seals opens here, and what is sealed here opens there."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from trinity_snap.errors import KeyFileError, WrongKey
from trinity_snap.trinity.envelope import open_envelope, parse_trinity_key, seal_envelope

HEX_KEY = "00112233445566778899aabbccddeeff" * 2
KEY = bytes.fromhex(HEX_KEY)

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3),
)


@given(st.binary(max_size=500))
def test_it_is_plain_aes_gcm_without_aad(plaintext: bytes) -> None:
    envelope = json.loads(json.dumps(seal_envelope(plaintext, KEY)))
    assert set(envelope) == {"version", "algorithm", "nonce", "ciphertext"}
    assert (envelope["version"], envelope["algorithm"]) == (1, "AES-256-GCM")
    nonce, ciphertext = (base64.b64decode(envelope[name]) for name in ("nonce", "ciphertext"))
    assert len(nonce) == 12
    assert AESGCM(KEY).decrypt(nonce, ciphertext, None) == plaintext
    assert open_envelope(envelope, parse_trinity_key(f" {HEX_KEY.upper()}\n")) == plaintext


def test_every_envelope_has_its_own_nonce() -> None:
    assert len({seal_envelope(b"", KEY)["nonce"] for _ in range(100)}) == 100


def test_a_wrong_key_and_damage_are_told() -> None:
    envelope = seal_envelope(b"secret", KEY)
    with pytest.raises(WrongKey):
        open_envelope(envelope, bytes(32))
    damaged = bytearray(base64.b64decode(str(envelope["ciphertext"])))
    damaged[0] ^= 1
    with pytest.raises(WrongKey):
        open_envelope(envelope | {"ciphertext": base64.b64encode(damaged).decode()}, KEY)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": True},
        {"version": "1"},
        {"algorithm": "AES-128-GCM"},
        {"nonce": "AAAA"},
        {"nonce": None},
        {"ciphertext": "not base64!"},
        {"ciphertext": "AAAA"},
        {"ciphertext": "é" * 40},
    ],
)
def test_what_is_no_such_envelope_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(KeyFileError):
        open_envelope(seal_envelope(b"secret", KEY) | change, KEY)


@given(
    st.dictionaries(st.sampled_from(["nonce", "ciphertext", "version", "algorithm"]), JSON_VALUES),
)
def test_hostile_envelopes_raise_nothing_else(change: dict[str, object]) -> None:
    try:
        open_envelope(seal_envelope(b"secret", KEY) | change, KEY)
    except KeyFileError:
        assert change
    else:
        assert change in ({}, {"version": 1})


@pytest.mark.parametrize(
    "text", ["", "ab", HEX_KEY[:-1], HEX_KEY + "0", "g" * 64, "é" * 64, HEX_KEY[:32] + " " + HEX_KEY[33:]]
)
def test_other_keys_are_refused_with_the_place_to_find_it(text: str) -> None:
    with pytest.raises(KeyFileError, match=r"\.env"):
        parse_trinity_key(text)
