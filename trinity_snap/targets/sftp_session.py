"""One conversation with an SFTP server, through OpenSSH's own client.

`ssh -s HOST sftp` brings the operator's `~/.ssh/config`, `known_hosts`, agents, certificates and jump hosts, and does
the ciphering in a process of its own. Here are only the packets that go through it: requests are sent without
waiting for the answers to those before them, and every answer is found by its number.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from trinity_snap.targets.sftp_wire import (
    CLOSE,
    HANDLE,
    INIT,
    STATUS,
    VERSION,
    Garbled,
    Status,
    parse_extensions,
    parse_status,
    parse_string,
    string,
)

__all__ = ["ConnectionLost", "Refused", "Session"]

_LONGEST_PACKET = 1 << 20
_UNANSWERED = 128
_PATIENCE_SECONDS = 300

_Parsed = TypeVar("_Parsed")


class ConnectionLost(Exception):
    """The connection could not be made, broke, or brought nonsense. `said` is what ssh wrote about it."""

    def __init__(self, reason: str, said: str = "", *, began: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.said = said
        self.began = began


class Refused(Exception):
    """The server did not do what it was asked for."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.code = status.code
        self.message = status.message


class Session:
    """A connection, for one thread at a time. Every method raises ConnectionLost; answers raise Refused."""

    def __init__(self, command: Sequence[str]) -> None:
        ours, its = socket.socketpair()
        try:
            self._process = subprocess.Popen(  # a session of its own has no terminal to ask on
                command,
                stdin=its.fileno(),
                stdout=its.fileno(),
                stderr=subprocess.PIPE,
                env=os.environ | {"LC_ALL": "C", "SSH_ASKPASS_REQUIRE": "never"},
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise ConnectionLost(f"{command[0]} cannot be run: {error.strerror}", began=False) from error
        finally:
            its.close()
        self._socket = ours
        self.patience(_PATIENCE_SECONDS)
        self._next = 0
        self._waiting: set[int] = set()
        self._forgotten: set[int] = set()
        self._answers: dict[int, tuple[int, bytes]] = {}
        self._handles: set[bytes] = set()
        self._began = False
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    @property
    def extensions(self) -> frozenset[str]:
        """The extensions that the server offers."""
        return self._extensions

    def _begin(self) -> None:
        self._transmit(struct.pack(">IBI", 5, INIT, 3))
        kind, version, packet = self._receive()
        if kind != VERSION:
            raise self.lost("it does not answer as an SFTP server does")
        if version != 3:
            raise self.lost("it does not know version 3 of SFTP")
        self._began = True
        try:
            self._extensions = parse_extensions(packet)
        except Garbled as error:
            raise self.lost(str(error)) from error

    def patience(self, seconds: int) -> None:
        """Set how long the server may take for an answer, or for taking what is sent, before it counts as gone."""
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", seconds, 0))

    # -- requests and answers -----------------------------------------------------------------------------------------

    def request(self, kind: int, *fields: bytes | memoryview) -> int:
        """Send a request, and give its number, with which its answer is to be had."""
        while len(self._waiting) + len(self._forgotten) >= _UNANSWERED:
            self._take()
        self._next = (self._next + 1) & 0xFFFFFFFF
        number = self._next
        length = 5 + sum(len(field) for field in fields)
        header = struct.pack(">IBI", length, kind, number)
        if len(fields) and isinstance(fields[-1], memoryview):  # data: not copied
            self._transmit(header + b"".join(fields[:-1]))
            self._transmit(fields[-1])
        else:
            self._transmit(header + b"".join(fields))
        self._waiting.add(number)
        return number

    def forget(self, *numbers: int) -> None:
        """Do not wait for these answers, whatever they are."""
        for number in numbers:
            self._answers.pop(number, None)
            if number in self._waiting:
                self._waiting.discard(number)
                self._forgotten.add(number)

    def answer(self, number: int, wanted: int = STATUS) -> bytes:
        """The content of the answer to a request, of the kind that is `wanted`. A STATUS must be success."""
        while number not in self._answers:
            if number not in self._waiting:
                raise self.lost("an answer is missing")
            self._take()
        kind, packet = self._answers.pop(number)
        if kind == STATUS:
            status = self.parse(parse_status, packet)
            if status.code != Status.OK or wanted != STATUS:
                raise Refused(status)
        elif kind != wanted:
            raise self.lost("it answers something else than it was asked for")
        return packet

    def handle(self, number: int) -> bytes:
        """The answer to a request that opened something, to be given to `drop`."""
        handle = self.parse(parse_string, self.answer(number, HANDLE))
        self._handles.add(handle)
        return handle

    def drop(self, *handles: bytes) -> None:
        """Close what is open, without waiting."""
        for handle in handles:
            self._handles.discard(handle)
            self.forget(self.request(CLOSE, string(handle)))

    def close_file(self, handle: bytes) -> None:
        """Close what is open, and wait until that is done."""
        self._handles.discard(handle)
        self.answer(self.request(CLOSE, string(handle)))

    def parse(self, parse: Callable[[bytes], _Parsed], packet: bytes) -> _Parsed:
        """What `parse` makes of a packet. Nonsense ends the connection."""
        try:
            return parse(packet)
        except Garbled as error:
            raise self.lost(str(error)) from error

    # -- the connection -----------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Give up all that was begun: answers are passed over when they come, files that are open are closed."""
        for kind, packet in self._answers.values():
            if kind == HANDLE:
                self.forget(self.request(CLOSE, packet))
        self._answers.clear()
        self.forget(*list(self._waiting))
        self.drop(*list(self._handles))

    def alive(self) -> bool:
        """Whether the connection can be used as far as is known, without asking the server."""
        with suppress(ConnectionLost):
            while not self.closed and self._readable():
                if not self._forgotten:
                    return False  # it has ended, or speaks unasked
                self._take()
            return not self.closed and self._process.poll() is None
        return False

    @property
    def closed(self) -> bool:
        """Whether the connection was ended or found broken."""
        return self._socket.fileno() < 0

    def close(self) -> str:
        """End the connection and give what ssh wrote, or the end of it."""
        self._socket.close()
        said = self._said()
        for hint in (0, signal.SIGTERM, signal.SIGKILL):  # it ends by itself, as a rule
            self._process.send_signal(hint)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(2)
                break
        said += self._said()
        if self._process.stderr is not None:
            self._process.stderr.close()
        return said[-4000:]

    def lost(self, reason: str) -> ConnectionLost:
        """The error that says why the connection is of no use any more. It is ended."""
        return ConnectionLost(reason, self.close(), began=self._began)

    def _ended(self, reason: str) -> ConnectionLost:
        if not self.closed:
            with suppress(subprocess.TimeoutExpired):  # ssh is about to say why
                self._process.wait(5)
        return self.lost(reason)

    def _readable(self) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def _said(self) -> str:
        """What ssh has written by now. A jump host's ssh may hold the pipe open for longer, so nobody waits for its end."""
        pipe = self._process.stderr
        if pipe is None or pipe.closed:
            return ""
        os.set_blocking(pipe.fileno(), False)
        with suppress(OSError):
            return (os.read(pipe.fileno(), 1 << 16) or b"").decode("utf-8", "replace")
        return ""

    def _transmit(self, data: bytes | memoryview) -> None:
        try:
            self._socket.sendall(data)
        except BlockingIOError as error:
            raise self.lost("the server takes nothing any more") from error
        except OSError as error:
            raise self._ended("the connection broke") from error

    def _take(self) -> None:
        """Take one answer from the connection, and put it where it is looked for."""
        kind, number, packet = self._receive()
        if number in self._forgotten:
            self._forgotten.discard(number)
            if kind == HANDLE:
                self.forget(self.request(CLOSE, packet))
        elif number in self._waiting:
            self._waiting.discard(number)
            self._answers[number] = (kind, packet)
        else:
            raise self.lost("it answers what was not asked")

    def _receive(self) -> tuple[int, int, bytes]:
        """Kind, number (of the version, in the first) and content of the next packet."""
        length, kind, number = struct.unpack(">IBI", self._exactly(9))
        if not 5 <= length <= _LONGEST_PACKET:
            raise self.lost("it sends what is no packet of SFTP")
        return kind, number, self._exactly(length - 5)

    def _exactly(self, length: int) -> bytes:
        parts: list[bytes] = []
        while length:
            try:
                part = self._socket.recv(length, socket.MSG_WAITALL)
            except BlockingIOError as error:
                raise self.lost("the server does not answer any more") from error
            except OSError as error:
                raise self._ended("the connection broke") from error
            if not part:
                raise self._ended("the connection ended")
            parts.append(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
