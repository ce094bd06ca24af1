"""What a disk holds after a power cut at a given write, from the log of device-mapper's target `log-writes`.

The log (Documentation/admin-guide/device-mapper/log-writes.rst, drivers/md/dm-log-writes.c) begins with a super block: magic,
version, number of entries (64 bits each), size of a sector (32 bits), little-endian. Each entry is one sector: sector, number
of sectors, flags, length of the data of a mark (64 bits each), and that data; after it come the sectors that were written.
Writes are logged in the order in which flushes made them durable.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
_MAGIC = 0x6A736677736872
_FLUSH, _FUA, _DISCARD, _MARK = 1, 2, 4, 8


class Entry(NamedTuple):
    """One entry of the log: where it writes how much (bytes), where in the log that lies, and the text of a mark."""

    at: int
    length: int
    data_at: int
    is_barrier: bool
    is_discard: bool
    mark: str


def read_log(log: Path) -> Iterator[Entry]:
    """The entries of a log, in order."""
    with open(log, "rb") as file:
        magic, version, count, sector = _SUPER.unpack(file.read(_SUPER.size))
        assert (magic, version) == (_MAGIC, 1), "this is no log of log-writes"
        place = sector
        for _ in range(count):
            file.seek(place)
            block = file.read(sector)
            at, sectors, flags, data_length = _ENTRY.unpack_from(block)
            mark = block[_ENTRY.size : _ENTRY.size + data_length].decode() if flags & _MARK else ""
            place += sector
            discard = bool(flags & _DISCARD)
            yield Entry(at * sector, sectors * sector, place, bool(flags & (_FLUSH | _FUA)), discard, mark)
            if not discard:
                place += sectors * sector


def replay(log: Path, entries: list[Entry], image: Path) -> None:
    """Do some entries' writes to an image."""
    source = os.open(log, os.O_RDONLY)
    target = os.open(image, os.O_RDWR)
    try:
        for entry in entries:
            data = bytes(entry.length) if entry.is_discard else os.pread(source, entry.length, entry.data_at)
            if not entry.is_discard or os.pread(target, entry.length, entry.at) != data:  # what is sparse stays so
                os.pwrite(target, data, entry.at)
    finally:
        os.close(source)
        os.close(target)
