"""The manifest.

a volume's tree as pages of sorted entries, and a root that lists the pages (docs/format.md section 9).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import msgspec

from trinity_snap.errors import IntegrityError

__all__ = [
    "CHUNK_ID_BYTES",
    "Entry",
    "PageCutter",
    "PageReference",
    "decode_page",
    "decode_root",
    "encode_page",
    "encode_root",
    "is_below",
    "sort_key",
]

CHUNK_ID_BYTES = 32
_PAGE_MINIMUM_BYTES = 32 * 1024
_PAGE_MAXIMUM_BYTES = 512 * 1024
_PAGE_CUT_MASK = 0x1FF
_ENTRY_BASE_BYTES = 32
_TYPES = frozenset("fdlhpcbs")


class Entry(msgspec.Struct, array_like=True, frozen=True, omit_defaults=True):
    """One name in a tree. Elements and defaults are those of docs/format.md section 9."""

    path: bytes
    type: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    chunks: bytes = b""
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = {}
    extents: list[tuple[int, int]] = []

    def chunk_ids(self) -> list[bytes]:
        """The ids of the file's chunks, in order."""
        chunks = self.chunks
        return [chunks[start : start + CHUNK_ID_BYTES] for start in range(0, len(chunks), CHUNK_ID_BYTES)]


class PageReference(msgspec.Struct, array_like=True, frozen=True):
    """One page of a manifest, as its root names it."""

    first_path: bytes
    page_id: bytes
    length: int
    entries: int


_page_encoder = msgspec.msgpack.Encoder()
_page_decoder = msgspec.msgpack.Decoder(list[Entry])
_root_decoder = msgspec.msgpack.Decoder(list[PageReference])


def encode_page(entries: Sequence[Entry]) -> bytes:
    """Return the bytes of a page. `entries` are sorted already."""
    return _page_encoder.encode(entries)


def decode_page(data: bytes | memoryview) -> list[Entry]:
    """Return the entries of a page. Raise IntegrityError if it is not one, or an entry is impossible."""
    try:
        entries = _page_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"A manifest page cannot be decoded: {error}.") from error
    for entry in entries:
        if entry.type not in _TYPES or len(entry.chunks) % CHUNK_ID_BYTES or entry.size < 0:
            raise IntegrityError(f"A manifest page has an impossible entry for {entry.path!r}.")
    return entries


def encode_root(pages: Sequence[PageReference]) -> bytes:
    """Return the bytes of a manifest root."""
    return _page_encoder.encode(pages)


def decode_root(data: bytes | memoryview) -> list[PageReference]:
    """Return the pages of a manifest. Raise IntegrityError if the root is malformed or out of order."""
    try:
        pages = _root_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"A manifest root cannot be decoded: {error}.") from error
    previous: bytes | None = None
    for page in pages:
        key = sort_key(page.first_path)
        if len(page.page_id) != CHUNK_ID_BYTES or (previous is not None and key <= previous):
            raise IntegrityError("A manifest root is out of order or has a page id of the wrong length.")
        previous = key
    return pages


def sort_key(path: bytes) -> bytes:
    """The key by which entries are ordered: the path, with `/` before every other byte."""
    return path.replace(b"/", b"\0")


def is_below(path: bytes, directory: bytes) -> bool:
    """Whether `path` is `directory` or inside it; the empty path holds everything."""
    return not directory or path == directory or path.startswith(directory + b"/")


class PageCutter:
    """Cuts a sorted sequence of entries into pages at places that depend on the names alone.

    A changed, added or removed entry therefore changes the page that it is in and, seldom, a neighbour.
    """

    def __init__(self, page_seed: int) -> None:
        self._seed = page_seed
        self._entries: list[Entry] = []
        self._bytes = 0

    @property
    def empty(self) -> bool:
        """Whether a page begins with the next entry."""
        return not self._entries

    def add(self, entry: Entry) -> list[Entry] | None:
        """Add the next entry. Return the finished page if it ends here, else None."""
        self._entries.append(entry)
        path = entry.path
        self._bytes += _ENTRY_BASE_BYTES + len(path) + len(entry.chunks) + len(entry.target)
        if entry.xattrs or entry.extents:
            self._bytes += sum(len(name) + len(value) for name, value in entry.xattrs.items())
            self._bytes += 12 * len(entry.extents)
        if self._bytes < _PAGE_MINIMUM_BYTES:
            return None
        if self._bytes < _PAGE_MAXIMUM_BYTES and zlib.crc32(path, self._seed) & _PAGE_CUT_MASK:
            return None
        return self.finish()

    def finish(self) -> list[Entry] | None:
        """Return what is left as the last page, or None if nothing is."""
        entries, self._entries, self._bytes = self._entries, [], 0
        return entries or None


def pages_below(pages: Sequence[PageReference], directory: bytes) -> Iterator[PageReference]:
    """The pages that can hold `directory` or something inside it."""
    low = sort_key(directory)
    high = low + b"\1" if directory else b""
    for number, page in enumerate(pages):
        following = pages[number + 1] if number + 1 < len(pages) else None
        if following is not None and sort_key(following.first_path) <= low:
            continue
        if directory and sort_key(page.first_path) >= high:
            return
        yield page
