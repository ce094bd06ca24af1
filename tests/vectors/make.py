"""Makes `format-1.json`: docs/format.md worked out for fixed keys. Run it only for a new version of the format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from trinity_snap.repository.documents import sign_document
from trinity_snap.repository.keys import HostSecret, Identity, hkdf, repository_id_of
from trinity_snap.repository.manifest import Entry, PageReference, encode_page, encode_root
from trinity_snap.repository.points import RecoveryPoint, Volume, seal_point
from trinity_snap.repository.sealed import INDEX_MAGIC, PACK_MAGIC, POINT_MAGIC, Header, object_cipher, seal_object
from trinity_snap.repository.words import identity_to_words

FILE = Path(__file__).with_name("format-1.json")
IDENTITY_SEED = bytes(range(32))
HOST_SECRET = bytes(range(32, 64))
REPOSITORY_ID = repository_id_of(HOST_SECRET)
SESSION_ID = bytes(range(64, 80))
SESSION_KEY = bytes(range(80, 112))
SALT = bytes(range(112, 144))
POINT_ID = bytes(range(144, 160)).hex()
INDEX_NAME = "index/" + bytes(range(160, 176)).hex()
CHUNK = b"The quick brown agent writes to its lazy volume.\n" * 20


def build() -> dict[str, Any]:
    identity = Identity(IDENTITY_SEED)
    host = HostSecret(HOST_SECRET, REPOSITORY_ID)
    chunk_id = blake3(CHUNK, key=host.chunk_id_key).digest()
    pack = Header(PACK_MAGIC, REPOSITORY_ID, SESSION_ID, SALT)
    cipher = object_cipher(pack, SESSION_KEY)
    plaintext = b"\x01" + zstandard.ZstdCompressor(level=3).compress(CHUNK)
    segment = cipher.encrypt(bytes(12), plaintext, pack.encode() + bytes(9))
    table = msgspec.msgpack.encode([[len(segment), chunk_id, [len(CHUNK)]]])
    padded = len(table).to_bytes(4, "big") + table
    padded += bytes(-(72 + len(segment) + len(padded) + 16 + 8) % 4096)
    sealed_table = cipher.encrypt((1).to_bytes(4, "big") + bytes(8), padded, pack.encode() + b"\x01" + bytes(8))
    whole = pack.encode() + segment + sealed_table + len(sealed_table).to_bytes(4, "big") + b"TSPK"
    entries = [
        Entry(b"", "d", 0o755, 1000, 1000, 1_700_000_000_000_000_001),
        Entry(b"file", "f", 0o640, 1000, 1000, -1, len(CHUNK), chunk_id, xattrs={b"user.note": b"\xff"}),
    ]
    page = encode_page(entries)
    page_id = blake3(page, key=host.chunk_id_key).digest()
    root = encode_root([PageReference(b"", page_id, len(page), len(entries))])
    point = RecoveryPoint(
        id=POINT_ID,
        agent="vector",
        host="host",
        run_id="0" * 32,
        created_ns=1_700_000_000_000_000_000,
        mode="pause",
        provider="btrfs",
        consistency="host-crash-consistent",
        pause_ns=5,
        files=1,
        bytes=len(CHUNK),
        volumes=[
            Volume(
                name="v",
                kind="volume",
                root=blake3(root, key=host.chunk_id_key).digest(),
                root_length=len(root),
                entries=2,
                files=1,
                bytes=len(CHUNK),
            )
        ],
        packs=bytes(40),
    )
    point_object = seal_point(point, Header(POINT_MAGIC, REPOSITORY_ID, SESSION_ID, SALT), SESSION_KEY, host.mac_key)
    index_object = seal_object(
        Header(INDEX_MAGIC, REPOSITORY_ID, SESSION_ID, SALT),
        host.index_key,
        INDEX_NAME,
        msgspec.msgpack.encode([[bytes(32), len(whole), [[len(segment), chunk_id, [len(CHUNK)]]]]]),
    )
    assert AESGCM(hkdf(SESSION_KEY, salt=SALT, info=b"trinity-snap/1/pack", length=32))
    return {
        "inputs": {
            "identity_seed": IDENTITY_SEED.hex(),
            "repository_id": REPOSITORY_ID.hex(),
            "host_secret": HOST_SECRET.hex(),
            "session_id": SESSION_ID.hex(),
            "session_key": SESSION_KEY.hex(),
            "salt": SALT.hex(),
            "point_id": POINT_ID,
            "index_name": INDEX_NAME,
            "chunk": CHUNK.hex(),
        },
        "identity": {
            "words": " ".join(identity_to_words(identity)),
            "ml_kem_768_seed": hkdf(
                IDENTITY_SEED, salt=b"", info=b"trinity-snap/1/identity/ml-kem-768", length=64
            ).hex(),
            "x25519_private": hkdf(IDENTITY_SEED, salt=b"", info=b"trinity-snap/1/identity/x25519", length=32).hex(),
            "recipient": identity.recipient.public.hex(),
            "recipient_id": identity.recipient.id,
        },
        "host_keys": {
            "chunk_id": host.chunk_id_key.hex(),
            "index": host.index_key.hex(),
            "mac": host.mac_key.hex(),
            "chunker": host.chunker_seed,
            "page": host.page_seed,
        },
        "object_keys": {
            kind: hkdf(parent, salt=SALT, info=b"trinity-snap/1/" + kind.encode(), length=32).hex()
            for kind, parent in (("pack", SESSION_KEY), ("point", SESSION_KEY), ("index", host.index_key))
        },
        "document": sign_document("repository", {"id": REPOSITORY_ID.hex(), "recipients": []}, host.mac_key).decode(),
        "chunk_id": chunk_id.hex(),
        "segment_plaintext": plaintext.hex(),
        "sealed_segment": segment.hex(),
        "pack": whole.hex(),
        "page": page.hex(),
        "page_id": page_id.hex(),
        "root": root.hex(),
        "point": point_object.hex(),
        "index": index_object.hex(),
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(build(), indent=1) + "\n")
