"""The packets of SFTP, version 3 (draft-ietf-secsh-filexfer-02), as far as a target needs them.

The extensions with `@openssh.com` are those of PROTOCOL in OpenSSH's source.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass

__all__ = [
    "ATTRIBUTES",
    "CLOSE",
    "CREATE",
    "DATA",
    "EXCLUSIVE",
    "EXTENDED",
    "EXTENDED_REPLY",
    "FSTAT",
    "FSYNC",
    "HANDLE",
    "HARDLINK",
    "INIT",
    "LIMITS",
    "LSTAT",
    "MKDIR",
    "NAME",
    "OPEN",
    "OPENDIR",
    "POSIX_RENAME",
    "READ",
    "READDIR",
    "READING",
    "REMOVE",
    "RENAME",
    "SETSTAT",
    "STAT",
    "STATUS",
    "STATVFS",
    "TRUNCATE",
    "VERSION",
    "WRITE",
    "WRITING",
    "Attributes",
    "FilesystemState",
    "Garbled",
    "Status",
    "parse_attributes",
    "parse_extensions",
    "parse_filesystem",
    "parse_limits",
    "parse_names",
    "parse_status",
    "parse_string",
    "string",
    "with_mode",
]

INIT, VERSION, OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT = 1, 2, 3, 4, 5, 6, 7, 8, 9
OPENDIR, READDIR, REMOVE, MKDIR, STAT, RENAME, EXTENDED = 11, 12, 13, 14, 17, 18, 200
STATUS, HANDLE, DATA, NAME, ATTRIBUTES, EXTENDED_REPLY = 101, 102, 103, 104, 105, 201
READING, WRITING, CREATE, TRUNCATE, EXCLUSIVE = 0x01, 0x02, 0x08, 0x10, 0x20
FSYNC, HARDLINK = "fsync@openssh.com", "hardlink@openssh.com"
LIMITS, STATVFS, POSIX_RENAME = "limits@openssh.com", "statvfs@openssh.com", "posix-rename@openssh.com"

_SIZE, _OWNER, _PERMISSIONS, _TIMES, _MORE = 0x01, 0x02, 0x04, 0x08, 0x80000000
_READ_ONLY = 1


class Garbled(ValueError):
    """What the server sent is no packet of this protocol."""


@dataclass(frozen=True)
class Attributes:
    """What a server says of a file. None: it does not say. `time` is the last change, in seconds of Unix time."""

    size: int | None
    mode: int | None
    time: int | None

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file, as far as the server says."""
        return self.mode is None or stat.S_ISREG(self.mode)

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory, as far as the server says."""
        return self.mode is None or stat.S_ISDIR(self.mode)


@dataclass(frozen=True)
class FilesystemState:
    """What is free for this user. `files_free` None: the filesystem does not count files."""

    bytes_free: int
    files_free: int | None
    read_only: bool


@dataclass(frozen=True)
class Status:
    """An answer that is a number: 0 is success, 1 the end of a file or directory."""

    code: int
    message: str

    OK = 0
    END = 1
    MISSING = 2
    DENIED = 3
    FAILURE = 4


def string(value: bytes | str) -> bytes:
    """A text as packets hold it, its length first."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack(">I", len(raw)) + raw


def with_mode(mode: int) -> bytes:
    """Attributes that hold nothing but a mode. Times are never set: they are the server's."""
    return struct.pack(">II", _PERMISSIONS, mode)


class _Fields:
    """Takes the fields of a packet one by one. Raise Garbled if it ends before."""

    def __init__(self, packet: bytes) -> None:
        self._packet = packet
        self._at = 0

    def number(self) -> int:
        return self._unpack(">I", 4)

    def long(self) -> int:
        return self._unpack(">Q", 8)

    def string(self) -> bytes:
        length = self.number()
        end = self._at + length
        if end > len(self._packet):
            raise Garbled("a text is longer than its packet")
        value = self._packet[self._at : end]
        self._at = end
        return value

    def attributes(self) -> Attributes:
        flags = self.number()
        size = self.long() if flags & _SIZE else None
        if flags & _OWNER:
            self.long()
        mode = self.number() if flags & _PERMISSIONS else None
        time = None
        if flags & _TIMES:
            self.number()
            time = self.number()
        for _ in range(self.number() if flags & _MORE else 0):
            self.string()
            self.string()
        return Attributes(size, mode, time)

    @property
    def left(self) -> bool:
        return self._at < len(self._packet)

    def _unpack(self, form: str, length: int) -> int:
        try:
            (value,) = struct.unpack_from(form, self._packet, self._at)
        except struct.error as error:
            raise Garbled("a packet ends too early") from error
        self._at += length
        return int(value)


def parse_status(packet: bytes) -> Status:
    """The content of a STATUS. Raise Garbled."""
    fields = _Fields(packet)
    code = fields.number()
    message = fields.string().decode("utf-8", "replace") if fields.left else ""
    return Status(code, "".join(letter for letter in message if letter.isprintable())[:100])


def parse_string(packet: bytes) -> bytes:
    """The content of a HANDLE. Raise Garbled."""
    return _Fields(packet).string()


def parse_attributes(packet: bytes) -> Attributes:
    """The content of an ATTRIBUTES. Raise Garbled."""
    return _Fields(packet).attributes()


def parse_names(packet: bytes) -> list[tuple[bytes, Attributes]]:
    """The content of a NAME: the entries of a directory, or some of them. Raise Garbled."""
    fields = _Fields(packet)
    names = []
    for _ in range(fields.number()):
        name = fields.string()
        fields.string()  # the line that `ls -l` would show
        names.append((name, fields.attributes()))
    return names


def parse_extensions(packet: bytes) -> frozenset[str]:
    """The names that follow the number in a VERSION. Raise Garbled."""
    fields = _Fields(packet)
    names = set()
    while fields.left:
        names.add(fields.string().decode("ascii", "replace"))
        fields.string()
    return frozenset(names)


def parse_limits(packet: bytes) -> tuple[int, int]:
    """The longest read and write in the answer to `limits@openssh.com`; 0: it does not say. Raise Garbled."""
    fields = _Fields(packet)
    fields.long()
    return fields.long(), fields.long()


def parse_filesystem(packet: bytes) -> FilesystemState:
    """The answer to `statvfs@openssh.com`. Raise Garbled."""
    fields = _Fields(packet)
    block, fragment = fields.long(), fields.long()
    fields.long()
    fields.long()
    available, files = fields.long(), fields.long()
    fields.long()
    files_available = fields.long()
    fields.long()
    flags = fields.long()
    return FilesystemState(
        available * (fragment or block), files_available if files else None, bool(flags & _READ_ONLY)
    )
