"""Putting an object into a directory of an SFTP server: written, made durable, and only then named."""

from __future__ import annotations

import re
import secrets
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

from trinity_snap.errors import TargetError, TargetFull
from trinity_snap.targets.sending import Bandwidth
from trinity_snap.targets.sftp_client import SftpClient
from trinity_snap.targets.sftp_errors import refusal_error
from trinity_snap.targets.sftp_session import Refused
from trinity_snap.targets.sftp_wire import CREATE, EXCLUSIVE, WRITING, Attributes, Status

__all__ = ["TEMPORARY", "Gone", "Put", "Putter", "below"]

TEMPORARY = ".tmp"
ABANDONED_SECONDS = 3600
"""A temporary file that nothing was written to for so long belongs to nobody. Were its writer alive after all, it would
find it gone when it names it, and write it again."""

_WRITES_AHEAD = 64


def below(root: str, name: str) -> str:
    """The path of what has that name in the target; of the target itself for an empty name."""
    if not name:
        return root
    return name if root == "." else f"{root}/{name}"


class Gone(Exception):
    """The temporary file, or a directory, was removed by somebody. Begin again."""


@dataclass
class Put:
    """One object on its way. `named` says that an attempt whose answer was lost may have given it its name.

    `temporary` is where the last attempt wrote, if it broke off. `renaming`: the server makes no hard links here.
    """

    name: str
    data: memoryview
    doing: str
    named: bool = False
    temporary: str = ""
    renaming: bool = False


class Putter:
    """Puts objects into one target, from any thread, and knows which directories it has seen to."""

    def __init__(self, root: str, bandwidth: Bandwidth | None) -> None:
        self._root = root
        self._bandwidth = bandwidth
        self._seen_to: frozenset[str] = frozenset()
        self._swept = False
        self._renaming = False

    def put(self, client: SftpClient, put: Put) -> bool:
        """Store an object; False if there is one already.

        Raise Gone to be called again, TargetError, and what SftpClient raises.
        """
        final, temporary = below(self._root, put.name), below(self._root, f"{TEMPORARY}/{secrets.token_hex(16)}")
        if put.temporary:
            client.forget(client.remove(put.temporary))
        put.temporary = temporary
        new = [one for one in (TEMPORARY, *_directories(put.name)) if one not in self._seen_to]
        making = {path: client.mkdir(path, 0o700) for path in (below(self._root, one) for one in new)}
        parents = {_parent(one) for one in (put.name, *new)} if client.can_synchronise else set()
        opening = [client.open(below(self._root, one)) for one in sorted(parents)]
        looking = client.lstat(final)
        creating = client.open(temporary, WRITING | CREATE | EXCLUSIVE, 0o400)
        there = client.attributes_if_there(looking)
        if there is not None:
            client.forget(creating)
            removing = client.remove(temporary)
            _wait(client, [*self._make_durable(client, opening), removing])
            return put.named and _same(client, final, there, put.data)
        try:
            handle = client.handle(creating)
        except Refused as refused:
            raise self._gone(client, making, refused) from refused
        try:
            self._write(client, handle, put)
        except Refused as refused:  # asked before the room that was taken is free again
            state = client.filesystem(client.ask_filesystem(self._root))
            error = refusal_error(refused, put.doing, state, len(put.data))
            self._discard(client, handle, temporary)
            raise error from refused
        except TargetError:
            self._discard(client, handle, temporary)
            raise
        named = self._name(client, put, handle, temporary, opening, making)
        self._seen_to |= frozenset(new)
        return named

    def _write(self, client: SftpClient, handle: bytes, put: Put) -> None:
        """Write the object to its temporary file, durably. Raise TargetError if the server has another length of it."""
        if not self._swept:
            self._swept = True
            with suppress(Refused):
                self._sweep(client, handle)
        pending: deque[int] = deque()
        for offset in range(0, len(put.data), client.write_bytes):
            piece = put.data[offset : offset + client.write_bytes]
            if self._bandwidth is not None:
                self._bandwidth.wait_for(len(piece))
            pending.append(client.write(handle, offset, piece))
            if len(pending) > _WRITES_AHEAD:
                client.answer(pending.popleft())
        if client.can_synchronise:
            pending.append(client.synchronise(handle))
        else:  # such servers may do at the same time what they are asked one after the other
            while pending:
                client.answer(pending.popleft())
        measuring = client.fstat(handle)
        for number in pending:
            client.answer(number)
        size = client.attributes(measuring).size
        if size != len(put.data):
            raise TargetError(
                f"{put.doing}: {len(put.data)} bytes were sent, the server took them, and has {size}.",
                next_step="See that server's disk and its logs.",
                transient=True,
            )
        if not client.can_synchronise:
            client.close_file(handle)  # what it did not write before, it writes now, or says so

    def _name(
        self, client: SftpClient, put: Put, handle: bytes, temporary: str, opening: list[int], making: dict[str, int]
    ) -> bool:
        """Give the temporary file its name in one step. False if that is taken. Raise Gone, TargetError."""
        final = below(self._root, put.name)
        before, put.named = put.named, True
        renaming = put.renaming or self._renaming
        if client.can_synchronise and put.data:
            # The same byte once more: the object's time is that of its naming, even if this host slept before it.
            client.forget(client.write(handle, len(put.data) - 1, put.data[-1:]))
        naming = client.rename(temporary, final) if renaming else client.hardlink(temporary, final)
        durable = self._make_durable(client, opening)
        looking = client.lstat(final)
        room = client.ask_filesystem(self._root)  # before what was written is free again
        removing = client.remove(temporary)
        if client.can_synchronise:
            client.drop(handle)
        try:
            client.answer(naming)
        except Refused as refused:
            put.named = before
            _wait(client, [removing])
            if (there := client.attributes_if_there(looking)) is not None:
                return before and _same(client, final, there, put.data)
            error = refusal_error(refused, put.doing, client.filesystem(room))
            if refused.code == Status.MISSING:
                raise self._gone(client, making, refused) from refused
            if renaming or isinstance(error, TargetFull):
                raise error from refused
            put.renaming = True
            raise Gone from refused
        client.forget(room)
        self._renaming = renaming
        _wait(client, [*durable, removing])
        there = client.attributes_if_there(looking)
        if there is None or there.size != len(put.data):
            raise TargetError(
                f"{put.doing}: the server took it, and does not show it as it was sent.",
                next_step="See that server's disk and its logs.",
                transient=there is None,
            )
        return True

    def _make_durable(self, client: SftpClient, opening: list[int]) -> list[int]:
        """Ask that names in directories be made durable: a server that opens directories as files, as OpenSSH's does, can."""
        handles = []
        for number in opening:
            with suppress(Refused):
                handles.append(client.handle(number))
        asked = [client.synchronise(handle) for handle in handles]
        client.drop(*handles)
        return asked

    def _gone(self, client: SftpClient, making: dict[str, int], refused: Refused) -> Gone | Refused:
        """What to raise for a refusal: if a directory is missing, why it could not be made, else Gone to make it anew."""
        if refused.code != Status.MISSING:
            return refused
        self._seen_to = frozenset()
        for path, number in making.items():
            try:
                client.answer(number)
            except Refused as why:
                if why.code != Status.MISSING and client.attributes_if_there(client.lstat(path)) is None:
                    return why
        return Gone()

    def _discard(self, client: SftpClient, handle: bytes, temporary: str) -> None:
        client.drop(handle)
        with suppress(Refused):
            client.answer(client.remove(temporary))

    def _sweep(self, client: SftpClient, handle: bytes) -> None:
        """Remove what writers left that died; `handle` is of a file that was made just now. A host may have no right to."""
        now = client.attributes(client.fstat(handle)).time
        (entries,) = client.directories([below(self._root, TEMPORARY)])
        for raw, attributes in (entries or {}).items():
            old = now is not None and attributes.time is not None and now - attributes.time > ABANDONED_SECONDS
            if old and attributes.is_file and re.fullmatch(rb"[0-9a-f]{32}", raw):
                client.answer(client.remove(below(self._root, f"{TEMPORARY}/{raw.decode()}")))


def _directories(name: str) -> list[str]:
    """The directories that hold an object, from the outermost."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[: length + 1]) for length in range(len(parts))]


def _parent(name: str) -> str:
    return name.rpartition("/")[0]


def _wait(client: SftpClient, asked: list[int]) -> None:
    """Wait until that is done, or refused: what a server cannot make durable, or a host may not remove."""
    for number in asked:
        with suppress(Refused):
            client.answer(number)


def _same(client: SftpClient, path: str, there: Attributes, data: memoryview) -> bool:
    """Whether what has the name is what an earlier attempt sent."""
    if there.size != len(data):
        return False
    handle = client.handle(client.open(path))
    try:
        return client.read(handle, 0, len(data)) == data
    except EOFError:
        return False
