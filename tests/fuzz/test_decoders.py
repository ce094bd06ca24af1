"""No decoder answers to hostile bytes with anything but an error of ours. Each run is the same."""

from __future__ import annotations

import random
import zlib

import pytest

from tests.fuzz.decoders import decoders
from trinity_snap.errors import TrinitySnapError

INPUTS = 400
_INTERESTING = (
    *(b"\0", b"\xff", b"\x7f", b"\x80", b"\xc1", b"\x91", b"\n", b'"', b"{", b": "),
    *(b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff"),
)


def mutate(good: bytes, rng: random.Random) -> bytes:
    """`good` with a few bits, bytes or pieces changed, taken away, doubled or put in."""
    data = bytearray(good)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + rng.randint(1, 8)] = rng.randbytes(rng.randint(0, 8))
            case 2:
                data[at:at] = rng.choice(_INTERESTING)
            case 3:
                del data[at : at + rng.choice((1, 4, 40, len(data)))]
            case 4:
                start = rng.randrange(len(data) + 1)
                data[at:at] = data[start : start + rng.randint(1, 40)]
            case _:
                data[at : at + 1] = rng.choice(_INTERESTING)
    return bytes(data)


@pytest.mark.parametrize("name", decoders())
def test_only_our_own_errors_come_out(name: str) -> None:
    decoder = decoders()[name]
    rng = random.Random(zlib.crc32(name.encode()))
    refused = 0
    for number in range(INPUTS):
        data = rng.randbytes(rng.randrange(300)) if number % 8 == 0 else mutate(rng.choice(decoder.good), rng)
        try:
            decoder.decode(data)
        except TrinitySnapError:
            refused += 1
        except Exception as error:
            pytest.fail(f"{name}: {type(error).__name__} ({error}) for {data!r}")
    assert refused > INPUTS / 10


@pytest.mark.parametrize("name", sorted(set(decoders()) - {"host key file", "recipient file"}))
def test_what_was_written_is_read(name: str) -> None:
    decoder = decoders()[name]
    for good in decoder.good:
        decoder.decode(good)


@pytest.mark.parametrize("name", decoders())
def test_nothing_is_refused_too(name: str) -> None:
    try:
        decoders()[name].decode(b"")
    except TrinitySnapError:
        return
    assert name == "policy"
