"""Segments.

what chunks become before they are sealed. Compression, and its proof by decoding (docs/format.md section 6).
"""

from __future__ import annotations

import threading

import zstandard

from trinity_snap.errors import IntegrityError

__all__ = ["SEGMENT_MAXIMUM_BYTES", "as_stored", "decode_segment", "encode_segment"]

SEGMENT_MAXIMUM_BYTES = 64 * 1024 * 1024
_STORED = b"\x00"
_ZSTD = b"\x01"
_LEVEL = 2
_WORTH = 0.97
_SAMPLES = 5
_SAMPLE_BYTES = 8 * 1024
_SAMPLE_FROM_BYTES = 256 * 1024

_local = threading.local()


def _compressor() -> zstandard.ZstdCompressor:
    compressor: zstandard.ZstdCompressor | None = getattr(_local, "compressor", None)
    if compressor is None:
        compressor = _local.compressor = zstandard.ZstdCompressor(level=_LEVEL)
    return compressor


def _decompressor() -> zstandard.ZstdDecompressor:
    decompressor: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
    if decompressor is None:
        decompressor = _local.decompressor = zstandard.ZstdDecompressor()
    return decompressor


def as_stored(data: bytes | memoryview) -> bytes:
    """The plaintext of a segment that holds `data` uncompressed."""
    return _STORED + data


def encode_segment(stored: bytes) -> bytes:
    """Return the segment plaintext for the data of `stored` (see `as_stored`), compressed where that is worth it.

    What was compressed is decompressed and compared; a compressor that errs costs the compression, never the data.
    """
    data = memoryview(stored)[1:]
    if len(data) >= _SAMPLE_FROM_BYTES and not _looks_compressible(data):
        return stored
    compressed = _compressor().compress(data)
    if len(compressed) < len(data) * _WORTH:
        try:
            decoded = _decompressor().decompress(compressed, max_output_size=len(data))
            if len(decoded) == len(data) and stored.endswith(decoded):
                return _ZSTD + compressed
        except zstandard.ZstdError:
            pass
    return stored


def _looks_compressible(data: memoryview) -> bool:
    """Whether any of a few samples of `data` shrinks: cheaper than compressing media in vain."""
    step = (len(data) - _SAMPLE_BYTES) // (_SAMPLES - 1)
    compress = _compressor().compress
    return any(
        len(compress(data[at : at + _SAMPLE_BYTES])) < _SAMPLE_BYTES * _WORTH
        for at in range(0, len(data) - _SAMPLE_BYTES + 1, step)
    )


def decode_segment(plaintext: bytes, length: int) -> bytes | memoryview:
    """Return the data of a segment, which the table says to be `length` bytes. Raise IntegrityError if it is not."""
    if length > SEGMENT_MAXIMUM_BYTES:
        raise IntegrityError(f"A segment claims {length} bytes, more than a segment may have.")
    codec = plaintext[:1]
    data: bytes | memoryview
    if codec == _STORED:
        data = memoryview(plaintext)[1:]
    elif codec == _ZSTD:
        body = memoryview(plaintext)[1:]
        try:
            if zstandard.frame_content_size(body) != length:
                raise IntegrityError("A segment's compressed frame has another size than its table says.")
            data = _decompressor().decompress(body, max_output_size=max(length, 1), allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise IntegrityError(f"A segment cannot be decompressed: {error}.") from error
    else:
        raise IntegrityError(f"A segment has the unknown codec {codec.hex() or 'none'}.")
    if len(data) != length:
        raise IntegrityError("A segment is shorter or longer than its table says.")
    return data
