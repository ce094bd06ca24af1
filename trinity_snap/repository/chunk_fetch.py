"""Reading single chunks of any point with little memory, and walking over manifests that points share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from blake3 import blake3

from trinity_snap.errors import IntegrityError, ObjectMissing
from trinity_snap.repository.manifest import CHUNK_ID_BYTES, PageReference, decode_page, decode_root
from trinity_snap.repository.packs import pack_name
from trinity_snap.repository.reader import OpenedPack, open_pack
from trinity_snap.repository.repack_plan import ids_of
from trinity_snap.repository.sealed import HEADER_BYTES
from trinity_snap.repository.spares import indexed_packs

if TYPE_CHECKING:
    from trinity_snap.repository.repository import Repository

__all__ = ["ChunkFetcher"]

_PACKS_OPEN = 16
_SEGMENTS_KEPT = 16


class ChunkFetcher:
    """Finds the chunks that it was told to learn of by the index. What it gives out is what the id says.

    `chunks` is how many the index names, some perhaps twice.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._places: dict[bytes, tuple[bytes, int]] = {}
        self._opened: OrderedDict[bytes, OpenedPack] = OrderedDict()
        self._segments: OrderedDict[tuple[bytes, int], memoryview] = OrderedDict()
        self.chunks = 0

    def learn(self, ids: Iterable[bytes]) -> None:
        """Look up in which packs these chunks are, in one reading of the index."""
        wanted = set(ids) - self._places.keys()
        if not wanted:
            return
        existing = {bytes.fromhex(name[-64:]) for name in self._repository.target.list_prefix("packs/")}
        chunks = 0
        for pack in indexed_packs(self._repository.target, self._repository.host):
            reference = pack.digest, pack.length
            for segment in pack.table:
                chunks += len(segment.lengths)
                if pack.digest in existing:
                    for one in ids_of(segment.ids):
                        if one in wanted:
                            self._places[one] = reference
        self.chunks = chunks

    def get(self, chunk_id: bytes) -> bytes:
        """The chunk. Raise IntegrityError if the index does not know it, or it is damaged."""
        if chunk_id not in self._places:
            raise IntegrityError(
                f"The index does not say where chunk {chunk_id.hex()[:16]}… is.",
                next_step="Run `trinity-snap repair`, which writes what the index lacks.",
            )
        digest, length = self._places[chunk_id]
        pack = self._open(digest, length)
        offset = HEADER_BYTES
        for number, segment in enumerate(pack.table):
            start = 0
            for one, size in zip(ids_of(segment.ids), segment.lengths, strict=True):
                if one == chunk_id:
                    data = bytes(self._segment(pack, digest, number, offset)[start : start + size])
                    if blake3(data, key=self._repository.host.chunk_id_key).digest() != chunk_id:
                        raise IntegrityError(f"A chunk in {pack.name} is not what its id says.")
                    return data
                start += size
            offset += segment.sealed_length
        raise IntegrityError(f"{pack.name} does not hold chunk {chunk_id.hex()[:16]}…, as the index says.")

    def _open(self, digest: bytes, length: int) -> OpenedPack:
        if digest not in self._opened:
            self._opened[digest] = open_pack(
                self._repository.target, self._repository.point_keys(), digest.hex(), length
            )
            while len(self._opened) > _PACKS_OPEN:
                self._opened.popitem(last=False)
        self._opened.move_to_end(digest)
        return self._opened[digest]

    def _segment(self, pack: OpenedPack, digest: bytes, number: int, offset: int) -> memoryview:
        key = (digest, number)
        if key not in self._segments:
            segment = pack.table[number]
            try:
                sealed = self._repository.target.get_range(pack_name(digest.hex()), offset, segment.sealed_length)
            except ObjectMissing as error:
                raise IntegrityError(f"{pack.name} is missing from the repository.") from error
            self._segments[key] = memoryview(pack.opener.open_segment(sealed, number, segment.length))
            while len(self._segments) > _SEGMENTS_KEPT:
                self._segments.popitem(last=False)
        self._segments.move_to_end(key)
        return self._segments[key]

    def pages(self, root: bytes) -> list[PageReference]:
        """The pages of the manifest whose root is that chunk."""
        return decode_root(self.get(root))

    def chunks_of_page(self, page_id: bytes) -> Iterator[bytes]:
        """The ids of the chunks of files that a manifest page names."""
        for entry in decode_page(self.get(page_id)):
            for at in range(0, len(entry.chunks), CHUNK_ID_BYTES):
                yield entry.chunks[at : at + CHUNK_ID_BYTES]
