"""What this host remembers of the manifest that it made last of each volume: pages, and the signatures of their files.

A signature (inode, ctime, mtime, size, first hard link) that is as it was says that a file need not be read again. A
page whose signatures are all as they were is taken over whole. The cache is this host's own, in the clear, readable
by root alone, and carries a checksum; without it a run reads everything and stores nothing twice.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec
from blake3 import blake3

__all__ = [
    "CachedPage",
    "Signature",
    "TreeCache",
    "TreeFooter",
    "TreeWriter",
    "cache_path",
    "forget_all_but",
    "needed_packs",
]

_MAGIC = b"TSNAPTC\x01"
_LENGTH = struct.Struct(">I")
_TRAILER = struct.Struct(">Q32s")

Signature = tuple[int, int, int, int, bytes]
"""Inode, ctime in ns, mtime in ns, size in bytes, and for a further hard link the path of the first."""


Octets = bytes  # the structure below has a field called `bytes`


class CachedPage(msgspec.Struct, array_like=True):
    """One manifest page.

    `fresh`: stored by this session. `cut`: it ended by its content, not with the tree. `packs` are ordinals: of the
    footer in a tree, of the session's index in a draft.
    """

    first_path: Octets
    page_id: Octets
    page: Octets
    files: int
    bytes: int
    fresh: bool
    cut: bool
    packs: list[int]
    paths: list[Octets]
    signatures: list[Signature | None]


class TreeFooter(msgspec.Struct):
    """What holds for a whole tree."""

    packs: list[tuple[bytes, int]]


_encoder = msgspec.msgpack.Encoder()
_page_decoder = msgspec.msgpack.Decoder(CachedPage)
_footer_decoder = msgspec.msgpack.Decoder(TreeFooter)


def cache_path(directory: Path, kind: str, name: str) -> Path:
    """Where the tree of the volume or path `name` is remembered."""
    return directory / f"{blake3(f'{kind}:{name}'.encode()).hexdigest()[:32]}.tree"


def needed_packs(directory: Path) -> dict[bytes, int]:
    """The packs, by SHA-256, with lengths, that the trees remembered in `directory` consist of."""
    found: dict[bytes, int] = {}
    for path in directory.glob("*.tree"):
        tree = TreeCache.open(path)
        if tree is not None:
            found.update(tree.footer.packs)
    return found


def forget_all_but(directory: Path, kept: set[Path]) -> int:
    """Remove the trees of volumes that are no longer there, so that nothing tells their names. Return how many."""
    strays = [path for path in directory.glob("*.tree") if path not in kept]
    for path in strays:
        path.unlink(missing_ok=True)
    return len(strays)


class TreeWriter:
    """Writes pages one after the other. `finish` makes the file whole; a file without that is never read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._file: BinaryIO = open(descriptor, "wb", buffering=1 << 20)  # noqa: SIM115 - closed by finish and abandon
        self._hash = blake3()
        self._bytes = 0
        self._write(_MAGIC)

    def add(self, page: CachedPage) -> None:
        """Append a page."""
        record = _encoder.encode(page)
        self._write(_LENGTH.pack(len(record)))
        self._write(record)

    def finish(self, footer: TreeFooter) -> None:
        """Write the footer and close the file."""
        offset = self._bytes
        self._write(_encoder.encode(footer))
        self._file.write(_TRAILER.pack(offset, self._hash.digest()))
        self._file.close()

    def abandon(self) -> None:
        """Close and remove the file."""
        with suppress(OSError):  # on a full disk closing fails again
            self._file.close()
        self.path.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        self._hash.update(data)
        self._file.write(data)
        self._bytes += len(data)


class TreeCache:
    """Reads what a TreeWriter wrote, page by page. `open` gives None for a file that is missing or damaged."""

    def __init__(self, path: Path, footer: TreeFooter, end: int) -> None:
        self.path = path
        self.footer = footer
        self._end = end

    @classmethod
    def open(cls, path: Path) -> TreeCache | None:
        """Check the whole file and return it, or None if it cannot be trusted."""
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                file.seek(size - _TRAILER.size)
                offset, checksum = _TRAILER.unpack(file.read(_TRAILER.size))
                file.seek(0)
                hasher = blake3()
                left = size - _TRAILER.size
                while left:
                    block = file.read(min(left, 1 << 20))
                    if not block:
                        return None
                    hasher.update(block)
                    left -= len(block)
                if hasher.digest() != checksum:
                    return None
                file.seek(offset)
                footer = _footer_decoder.decode(file.read(size - _TRAILER.size - offset))
        except (OSError, ValueError, struct.error, msgspec.DecodeError):
            return None
        return cls(path, footer, offset)

    def pages(self) -> Iterator[CachedPage]:
        """The pages in order."""
        with self.path.open("rb", buffering=1 << 18) as file:
            at = len(file.read(len(_MAGIC)))
            while at < self._end:
                (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
                yield _page_decoder.decode(file.read(length))
                at += _LENGTH.size + length
