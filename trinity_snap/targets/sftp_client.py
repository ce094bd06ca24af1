"""What can be asked of an SFTP server about files and directories."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress

from trinity_snap.targets.sftp_session import Refused, Session
from trinity_snap.targets.sftp_wire import (
    ATTRIBUTES,
    DATA,
    EXTENDED,
    EXTENDED_REPLY,
    FSTAT,
    FSYNC,
    HARDLINK,
    LIMITS,
    LSTAT,
    MKDIR,
    NAME,
    OPEN,
    OPENDIR,
    POSIX_RENAME,
    READ,
    READDIR,
    READING,
    REMOVE,
    RENAME,
    SETSTAT,
    STATVFS,
    WRITE,
    Attributes,
    FilesystemState,
    Status,
    parse_attributes,
    parse_filesystem,
    parse_limits,
    parse_names,
    parse_string,
    string,
    with_mode,
)

__all__ = ["SftpClient"]

_USUAL_PIECE = 32_768
_LONGEST_PIECE = 255 << 10
_READS_AHEAD = 32
_MOST_ROUNDS = 1 << 18
_MOST_ENTRIES = 1 << 20


class SftpClient(Session):
    """A conversation about files. What sends a request gives its number; what gives an answer waits for it."""

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__(command)
        self._read_bytes = self._write_bytes = _USUAL_PIECE
        if LIMITS in self.extensions:
            with suppress(Refused):
                reading, writing = self.parse(parse_limits, self.answer(self._extended(LIMITS), EXTENDED_REPLY))
                self._read_bytes = min(max(reading, _USUAL_PIECE), _LONGEST_PIECE)
                self._write_bytes = min(max(writing, _USUAL_PIECE), _LONGEST_PIECE)

    # -- requests -----------------------------------------------------------------------------------------------------

    def lstat(self, path: str) -> int:
        """Ask what is at a path. `attributes` has the answer."""
        return self.request(LSTAT, string(path))

    def fstat(self, handle: bytes) -> int:
        """Ask about an open file. `attributes` has the answer."""
        return self.request(FSTAT, string(handle))

    def open(self, path: str, flags: int = READING, mode: int | None = None) -> int:
        """Ask for a file to be opened, made with that mode if it is made. `handle` has the answer.

        Times are never given: they are the server's.
        """
        attributes = struct.pack(">I", 0) if mode is None else with_mode(mode)
        return self.request(OPEN, string(path) + struct.pack(">I", flags) + attributes)

    def mkdir(self, path: str, mode: int) -> int:
        """Ask for a directory."""
        return self.request(MKDIR, string(path) + with_mode(mode))

    def remove(self, path: str) -> int:
        """Ask for a file to be removed."""
        return self.request(REMOVE, string(path))

    def hardlink(self, old: str, new: str) -> int:
        """Ask for a second name, which must be free. Refused by servers that do not know it."""
        return self._extended(HARDLINK, string(old), string(new))

    def rename(self, old: str, new: str) -> int:
        """Ask for another name, which must be free."""
        return self.request(RENAME, string(old) + string(new))

    def replace(self, old: str, new: str) -> int:
        """Ask for another name, whatever has it now. Refused by servers that do not know it."""
        return self._extended(POSIX_RENAME, string(old), string(new))

    def chmod(self, path: str, mode: int) -> int:
        """Ask for another mode."""
        return self.request(SETSTAT, string(path) + with_mode(mode))

    def synchronise(self, handle: bytes) -> int:
        """Ask that what was written be made durable. Refused by servers that do not know it."""
        return self._extended(FSYNC, string(handle))

    def write(self, handle: bytes, offset: int, data: memoryview) -> int:
        """Send a piece of a file, at most `write_bytes` long."""
        return self.request(WRITE, string(handle) + struct.pack(">QI", offset, len(data)), data)

    def _read(self, handle: bytes, offset: int, length: int) -> int:
        return self.request(READ, string(handle) + struct.pack(">QI", offset, length))

    def _extended(self, name: str, *fields: bytes) -> int:
        return self.request(EXTENDED, string(name) + b"".join(fields))

    # -- answers ------------------------------------------------------------------------------------------------------

    @property
    def write_bytes(self) -> int:
        """How much one request may write."""
        return self._write_bytes

    @property
    def can_synchronise(self) -> bool:
        """Whether the server makes files durable when it is asked to."""
        return FSYNC in self.extensions

    def attributes(self, number: int) -> Attributes:
        """The answer to `lstat` or `fstat`."""
        return self.parse(parse_attributes, self.answer(number, ATTRIBUTES))

    def attributes_if_there(self, number: int) -> Attributes | None:
        """The answer to `lstat`, None if nothing is there."""
        try:
            return self.attributes(number)
        except Refused as refused:
            if refused.code != Status.MISSING:
                raise
            return None

    def ask_filesystem(self, path: str) -> int:
        """Ask what room there is. `filesystem` has the answer."""
        return self._extended(STATVFS, string(path))

    def filesystem(self, number: int) -> FilesystemState | None:
        """The answer to `ask_filesystem`, None if the server does not say."""
        try:
            return self.parse(parse_filesystem, self.answer(number, EXTENDED_REPLY))
        except Refused:
            return None

    # -- several requests for one thing --------------------------------------------------------------------------------

    def read(self, handle: bytes, offset: int, length: int) -> bytes:
        """Exactly `length` bytes of a file. Raise EOFError if it ends before."""
        parts: dict[int, bytes] = {}
        asked: dict[int, tuple[int, int]] = {}
        end, at = offset + length, offset
        while at < end or asked:
            while at < end and len(asked) < _READS_AHEAD:
                piece = min(self._read_bytes, end - at)
                asked[self._read(handle, at, piece)] = (at, piece)
                at += piece
            number = next(iter(asked))
            begin, piece = asked.pop(number)
            try:
                part = self.parse(parse_string, self.answer(number, DATA))
            except Refused as refused:
                if refused.code == Status.END:
                    raise EOFError from refused
                raise
            if not 0 < len(part) <= piece:
                raise self.lost("it gives another amount than was asked for")
            parts[begin] = part
            if len(part) < piece:  # it may give less; what is missing is asked for again
                begin, piece = begin + len(part), piece - len(part)
                asked[self._read(handle, begin, piece)] = (begin, piece)
        return b"".join(parts[begin] for begin in sorted(parts))

    def directories(self, paths: Sequence[str]) -> list[dict[bytes, Attributes] | None]:
        """All that is in some directories; None for one that is not there."""
        found: list[dict[bytes, Attributes] | None] = []
        handles: list[bytes | None] = []
        for number in [self.request(OPENDIR, string(path)) for path in paths]:
            try:
                handles.append(self.handle(number))
            except Refused as refused:
                if refused.code != Status.MISSING:
                    raise
                handles.append(None)
        begun = [[] if handle is None else self._ask_entries(handle) for handle in handles]
        for handle, asked in zip(handles, begun, strict=True):
            found.append(None if handle is None else self._entries(handle, asked))
            if handle is not None:
                self.drop(handle)
        return found

    def _ask_entries(self, handle: bytes) -> list[int]:
        return [self.request(READDIR, string(handle)) for _ in range(2)]

    def _entries(self, handle: bytes, asked: list[int]) -> dict[bytes, Attributes]:
        found: dict[bytes, Attributes] = {}
        for _ in range(_MOST_ROUNDS):
            try:
                found.update(self.parse(parse_names, self.answer(asked.pop(0), NAME)))
            except Refused as refused:
                self.forget(*asked)
                if refused.code == Status.END:
                    return found
                raise
            if len(found) > _MOST_ENTRIES:
                break
            asked = asked or self._ask_entries(handle)
        raise self.lost("a directory there does not end")
