"""Packs: sealed segments with a sealed table, named by the SHA-256 of their bytes (docs/format.md section 6)."""

from __future__ import annotations

import hashlib
import mmap
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from trinity_snap.errors import IntegrityError
from trinity_snap.repository.manifest import CHUNK_ID_BYTES
from trinity_snap.repository.sealed import (
    HEADER_BYTES,
    PACK_MAGIC,
    TAG_BYTES,
    Header,
    new_header,
    object_cipher,
    pad_length,
)
from trinity_snap.repository.segments import SEGMENT_MAXIMUM_BYTES, decode_segment

__all__ = [
    "PACK_BYTES",
    "TRAILER_BYTES",
    "PackBuffers",
    "PackBuilder",
    "PackOpener",
    "SealedPack",
    "Segment",
    "Table",
    "check_table",
    "decode_table",
    "open_table",
    "pack_name",
    "table_length",
]

PACK_BYTES = 16 * 1024 * 1024
TRAILER_BYTES = 8
_TRAILER_MAGIC = b"TSPK"
_PACK_MULTIPLE = 4096
_BUFFER_BYTES = PACK_BYTES + 4 * 1024 * 1024
_SCRATCH_BYTES = 2 * 1024 * 1024 + 64
_TABLE_MAXIMUM_BYTES = 256 * 1024 * 1024


class Segment(msgspec.Struct, array_like=True, frozen=True):
    """One segment in a table: its sealed length, the ids of its chunks end to end, and their lengths."""

    sealed_length: int
    ids: bytes
    lengths: list[int]

    @property
    def length(self) -> int:
        """Bytes of data before compression."""
        return sum(self.lengths)


Table = list[Segment]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Table)


@dataclass(frozen=True)
class SealedPack:
    """A finished pack: its digest, its bytes, its table in the clear, and the buffer that holds the bytes."""

    digest: bytes
    data: memoryview
    table: Table
    buffer: mmap.mmap

    @property
    def name(self) -> str:
        """The object's name."""
        return pack_name(self.digest.hex())


def pack_name(digest: str) -> str:
    """The object name of the pack whose SHA-256 in hex is `digest`."""
    return f"packs/{digest[:2]}/{digest}"


def _nonce(kind: int, number: int) -> bytes:
    return kind.to_bytes(4, "big") + number.to_bytes(8, "big")


def _associated(header: bytes, kind: int, number: int) -> bytes:
    return header + kind.to_bytes(1, "big") + number.to_bytes(8, "big")


class PackBuffers:
    """A few buffers for packs being filled, used again and again: fresh memory costs more than sealing does.

    They begin at a page of memory, as a target needs that hands them to a disk without copying them.
    """

    def __init__(self, count: int = 4) -> None:
        self._left = threading.BoundedSemaphore(count)
        self._free: list[mmap.mmap] = []
        self._scratch = threading.local()

    def take(self) -> mmap.mmap:
        """A buffer for a pack. Wait until one is given back if all are taken."""
        self._left.acquire()
        try:
            return self._free.pop()  # asking first whether there is one would be a race
        except IndexError:
            return mmap.mmap(-1, _BUFFER_BYTES)

    def give_back(self, buffer: mmap.mmap) -> None:
        """Return a buffer that nothing refers to any more."""
        if len(buffer) == _BUFFER_BYTES:
            self._free.append(buffer)
        self._left.release()

    def scratch(self, length: int) -> memoryview:
        """Memory of this thread's own, of that length in bytes, until the next call."""
        buffer: bytearray | None = getattr(self._scratch, "buffer", None)
        if buffer is None or len(buffer) < length:
            buffer = self._scratch.buffer = bytearray(max(length, _SCRATCH_BYTES))
        return memoryview(buffer)[:length]


class PackBuilder:
    """A pack being filled. `add` may be called from several threads.

    Every segment is opened again right after it was sealed and compared with what went in, so that a fault of the
    memory or of a library is found before anything leaves the process.
    """

    def __init__(
        self, repository_id: bytes, session_id: bytes, session_key: bytes, buffers: PackBuffers | None = None
    ) -> None:
        header = new_header(PACK_MAGIC, repository_id, session_id)
        self._header = header.encode()
        self._cipher = object_cipher(header, session_key)
        self._buffers = buffers or PackBuffers()
        self._buffer: mmap.mmap | None = None
        self._table: Table = []
        self._bytes = HEADER_BYTES
        self._finished = False
        self._lock = threading.Lock()

    def add(self, plaintext: bytes, ids: bytes, lengths: Sequence[int]) -> int | None:
        """Seal one segment plaintext into the pack. Return the pack's bytes so far, or None if it is finished already.

        Raise IntegrityError if the sealed segment does not open to the same plaintext.
        """
        with self._lock:
            if self._finished:
                return None
            number = len(self._table)
            length = self._seal(_nonce(0, number), plaintext, _associated(self._header, 0, number))
            self._table.append(Segment(length, ids, list(lengths)))
            return self._bytes

    def finish(self) -> SealedPack | None:
        """Return the finished pack, or None if nothing was added. The builder is spent after that."""
        with self._lock:
            self._finished = True
            if self._buffer is None:
                return None
            document = _encoder.encode(self._table)
            padding = pad_length(self._bytes + 4 + len(document) + TAG_BYTES + TRAILER_BYTES, _PACK_MULTIPLE)
            plaintext = b"".join((len(document).to_bytes(4, "big"), document, bytes(padding)))
            length = self._seal(_nonce(1, 0), plaintext, _associated(self._header, 1, 0))
            buffer = self._room_for(TRAILER_BYTES)
            end = self._bytes + TRAILER_BYTES
            buffer[self._bytes : end] = length.to_bytes(4, "big") + _TRAILER_MAGIC
            data = memoryview(buffer)[:end]
            return SealedPack(hashlib.sha256(data).digest(), data, self._table, buffer)

    def _room_for(self, length: int) -> mmap.mmap:
        """The buffer, with at least `length` bytes left in it."""
        if self._buffer is None:
            self._buffer = self._buffers.take()
            self._buffer[:HEADER_BYTES] = self._header
        if self._bytes + length > len(self._buffer):
            larger = mmap.mmap(-1, max(self._bytes + length, 2 * len(self._buffer)))
            with memoryview(self._buffer) as whole:
                larger[: self._bytes] = whole[: self._bytes]
            self._buffer = larger
        return self._buffer

    def _seal(self, nonce: bytes, plaintext: bytes, associated: bytes) -> int:
        length = len(plaintext) + TAG_BYTES
        with memoryview(self._room_for(length)) as whole, whole[self._bytes : self._bytes + length] as sealed:
            self._cipher.encrypt_into(nonce, plaintext, associated, sealed)
            scratch = self._buffers.scratch(len(plaintext))
            try:
                self._cipher.decrypt_into(nonce, sealed, associated, scratch)
                same = plaintext.startswith(scratch)  # of the same length; comparing views goes byte by byte
            except InvalidTag:
                same = False
        if not same:
            raise IntegrityError(
                "Something sealed did not open to what was sealed: this machine's memory cannot be trusted.",
                untouched="Nothing of it was stored.",
                next_step="Test the machine's memory before the next backup.",
            )
        self._bytes += length
        return length


def table_length(trailer: bytes | memoryview, pack_bytes: int, name: str) -> int:
    """Return the length of the sealed table from a pack's last 8 bytes. Raise IntegrityError if impossible."""
    raw = bytes(trailer)
    length = int.from_bytes(raw[:4], "big")
    if len(raw) != TRAILER_BYTES or raw[4:] != _TRAILER_MAGIC:
        raise IntegrityError(f"{name} is truncated: it does not end like a pack.")
    if not TAG_BYTES + 4 <= length <= min(_TABLE_MAXIMUM_BYTES, pack_bytes - HEADER_BYTES - TRAILER_BYTES):
        raise IntegrityError(f"{name} has a table of an impossible length.")
    return length


def open_table(sealed: bytes | memoryview, header: Header, session_key: bytes, pack_bytes: int, name: str) -> Table:
    """Return the table of a pack of `pack_bytes` bytes. Raise IntegrityError if it is damaged or impossible."""
    return PackOpener(header, session_key, name).open_table(sealed, pack_bytes)


def decode_table(document: bytes, name: str) -> Table:
    """Return the table in `document`, checked. `name` is for the error."""
    try:
        table = _decoder.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"The table of {name} cannot be decoded: {error}.") from error
    check_table(table, name)
    return table


def check_table(table: Table, name: str) -> None:
    """Raise IntegrityError if a segment of `table` is impossible."""
    for segment in table:
        if (
            segment.sealed_length < TAG_BYTES + 1
            or len(segment.ids) != CHUNK_ID_BYTES * len(segment.lengths)
            or min(segment.lengths, default=-1) < 0
            or segment.length > SEGMENT_MAXIMUM_BYTES
        ):
            raise IntegrityError(f"The table of {name} has an impossible segment.")


class PackOpener:
    """Opens the table and the segments of one pack. May be used from several threads."""

    def __init__(self, header: Header, session_key: bytes, name: str) -> None:
        self._header = header.encode()
        self._cipher = object_cipher(header, session_key)
        self._name = name

    @classmethod
    def with_pack_key(cls, header: Header, pack_key: bytes, name: str) -> PackOpener:
        """The opener for who has the pack's own key, and not the session key that it comes from."""
        opener = cls.__new__(cls)
        opener._header, opener._cipher, opener._name = header.encode(), AESGCM(pack_key), name
        return opener

    def open_table(self, sealed: bytes | memoryview, pack_bytes: int) -> Table:
        """Return the table of the pack, which has `pack_bytes` bytes. Raise IntegrityError if damaged or impossible."""
        name = self._name
        try:
            plaintext = self._cipher.decrypt(_nonce(1, 0), sealed, _associated(self._header, 1, 0))
        except (InvalidTag, ValueError) as error:
            raise IntegrityError(f"The table of {name} is damaged.") from error
        length = int.from_bytes(plaintext[:4], "big")
        if length > len(plaintext) - 4:
            raise IntegrityError(f"The table of {name} gives a length that it does not have.")
        table = decode_table(plaintext[4 : 4 + length], name)
        if HEADER_BYTES + sum(segment.sealed_length for segment in table) + len(sealed) + TRAILER_BYTES != pack_bytes:
            raise IntegrityError(f"The table of {name} does not add up to the pack's length.")
        return table

    def open_segment(self, sealed: bytes | memoryview, number: int, length: int) -> bytes | memoryview:
        """Return the data of segment `number`, `length` bytes. Raise IntegrityError if a bit is not as written."""
        try:
            plaintext = self._cipher.decrypt(_nonce(0, number), sealed, _associated(self._header, 0, number))
        except (InvalidTag, ValueError) as error:
            raise IntegrityError(
                f"Segment {number} of {self._name} is damaged.", next_step="Run `trinity-snap verify --read-data`."
            ) from error
        return decode_segment(plaintext, length)
