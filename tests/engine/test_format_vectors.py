"""The format does not drift: today's code makes and reads what version 1 was when it was published."""

from __future__ import annotations

import json
from pathlib import Path

from tests.vectors import make
from trinity_snap.repository.keys import HostSecret
from trinity_snap.repository.packs import PackOpener, open_table, table_length
from trinity_snap.repository.points import open_point
from trinity_snap.repository.sealed import PACK_MAGIC, POINT_MAGIC, parse_header
from trinity_snap.repository.session import read_index

VECTORS = json.loads(Path(make.FILE).read_text())


def octets(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name])


def test_what_is_computed_today_is_what_was_published() -> None:
    today = make.build()
    for name, published in VECTORS.items():
        # The bytes of a zstd frame are the compressor's choice; all that depends on them is read below.
        if name not in ("segment_plaintext", "sealed_segment", "pack", "index"):
            assert today[name] == published, name


def test_the_published_objects_open_today() -> None:
    host = HostSecret(make.HOST_SECRET, make.REPOSITORY_ID)
    pack = octets("pack")
    header = parse_header(pack, PACK_MAGIC, make.REPOSITORY_ID, "pack")
    length = table_length(pack[-8:], len(pack), "pack")
    (segment,) = open_table(pack[-8 - length : -8], header, make.SESSION_KEY, len(pack), "pack")
    assert segment.ids == octets("chunk_id")
    opener = PackOpener(header, make.SESSION_KEY, "pack")
    sealed = pack[72 : 72 + segment.sealed_length]
    assert sealed == octets("sealed_segment")
    assert bytes(opener.open_segment(sealed, 0, segment.length)) == make.CHUNK
    data = octets("point")
    point_header = parse_header(data, POINT_MAGIC, make.REPOSITORY_ID, "point")
    point = open_point(data, point_header, make.SESSION_KEY, host.mac_key, make.POINT_ID)
    assert (point.agent, point.bytes) == ("vector", len(make.CHUNK))
    (indexed,) = read_index(octets("index"), host, make.INDEX_NAME)
    assert indexed.length == len(pack)
