"""A directory on an SFTP server as a target.

An object is written to a temporary file in `.tmp/`, made durable (`fsync@openssh.com`), and then linked to its name
(`hardlink@openssh.com`) in one step that fails if the name is taken, so that what has a name is whole. Where there are
no hard links, a RENAME gives the name, which version 3 of the protocol refuses if it is taken. What a dead writer
left is recognised by its age on the server's clock.

Requests that need not wait for each other's answers are sent together: a put takes three round trips, whatever its
length. Each connection serves one thread at a time.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

from trinity_snap.errors import ObjectMissing, TargetError, UsageError
from trinity_snap.targets.names import FLAT_KINDS, check_name, check_prefix, is_object_name
from trinity_snap.targets.protocol import MAX_OBJECT_BYTES, ObjectStat
from trinity_snap.targets.retries import Retries
from trinity_snap.targets.sending import Bandwidth
from trinity_snap.targets.settings import TargetSettings, without_password
from trinity_snap.targets.sftp_address import split_sftp_url
from trinity_snap.targets.sftp_client import SftpClient
from trinity_snap.targets.sftp_command import known_hosts_of, ssh_command
from trinity_snap.targets.sftp_connections import Connections
from trinity_snap.targets.sftp_errors import connection_error, refusal_error
from trinity_snap.targets.sftp_put import Gone, Put, Putter, below
from trinity_snap.targets.sftp_session import ConnectionLost, Refused
from trinity_snap.targets.sftp_wire import STAT, Attributes, Status, string

__all__ = ["SftpTarget"]

_ATTEMPTS = 3
_DIRECTORIES_AT_ONCE = 60

_Result = TypeVar("_Result")


class SftpTarget:
    """A target in a directory of an SFTP server, reached through OpenSSH's client. Times are the server's, in whole seconds.

    Nothing is asked of the server before the first operation, except to make the directory, if `create` says so.
    """

    def __init__(self, settings: TargetSettings, *, create: bool = False, retries: Retries | None = None) -> None:
        try:
            self._address = split_sftp_url(settings.url)
        except ValueError as error:
            raise UsageError(f"{without_password(settings.url)!r} is not a target: {error}.") from error
        command = ssh_command(settings, self._address)
        self._known_hosts = known_hosts_of(settings)
        self._requests = settings.requests
        self._retries = retries or Retries()
        self._connections = Connections(lambda: SftpClient(command), settings.requests)
        self._there = False
        bandwidth = None if settings.bandwidth_bytes is None else Bandwidth(settings.bandwidth_bytes)
        self._putter = Putter(self._address.path, bandwidth)
        weakref.finalize(self, self._connections.close)
        if create:
            self._there = True
            self.run(f"{self.url} cannot be made", self._make)
            self._there = False

    def __repr__(self) -> str:
        return f"SftpTarget({self.url!r})"

    @property
    def url(self) -> str:
        """`sftp://[user@]host[:port]/path`."""
        return self._address.url

    @property
    def root(self) -> str:
        """The directory, as the server is asked for it."""
        return self._address.path

    @property
    def parallel_puts(self) -> int:
        """Half of the connections that there may be."""
        return max(1, self._requests // 2)

    @property
    def parallel_gets(self) -> int:
        """All the connections that there may be."""
        return self._requests

    @property
    def read_ahead_bytes(self) -> int:
        """Some segments: each get waits for two round trips."""
        return 8 << 20

    # -- the six operations -------------------------------------------------------------------------------------------

    def put_if_absent(self, name: str, data: bytes | bytearray | memoryview) -> bool:
        """Store an object durably, as far as the server lets one see to that; False if there is one already.

        Raise TargetFull, TargetDenied, TargetError.
        """
        check_name(name)
        doing = f"{name} cannot be stored in {self.url}"
        with memoryview(data) as whole, whole.cast("B") if whole.nbytes else memoryview(b"") as view:
            put = Put(name, view, doing)
            for _ in range(_ATTEMPTS):
                try:
                    return self.run(doing, lambda client: self._putter.put(client, put))
                except Gone:  # swept before it had its name, or a directory was removed
                    self._there = False
        raise TargetError(f"{doing}: its temporary file is removed by somebody each time.", transient=True)

    def get(self, name: str) -> bytes:
        """The whole object. Raise ObjectMissing, TargetDenied, TargetError."""
        path = self._at(check_name(name))
        return self.run(f"{name} cannot be read from {self.url}", lambda client: self._get(client, name, path))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes of the object from `offset`.

        Raise ObjectMissing, TargetDenied, TargetError.
        """
        path = self._at(check_name(name))
        if offset < 0 or not 0 <= length <= MAX_OBJECT_BYTES:
            raise TargetError(f"{name} has no {length} bytes from {offset}; no object has.")
        doing = f"{name} cannot be read from {self.url}"
        return self.run(doing, lambda client: self._get(client, name, path, (offset, length)))

    def list_prefix(self, prefix: str) -> Iterator[str]:
        """The names of all objects that begin with `prefix`; whatever else lies there is passed over."""
        check_prefix(prefix)
        return self._list(prefix)

    def stat(self, name: str) -> ObjectStat:
        """An object's length, and the time of its last byte by the server's clock.

        Raise ObjectMissing, TargetDenied, TargetError.
        """
        path = self._at(check_name(name))
        doing = f"{name} cannot be looked at in {self.url}"

        def look(client: SftpClient) -> ObjectStat:
            there = self._look(client, name, client.lstat(path))
            if there.size is None or there.time is None:
                raise TargetError(f"{doing}: the server does not say how long and how old it is.")
            return ObjectStat(there.size, there.time * 10**9)

        return self.run(doing, look)

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is no error. Raise TargetDenied, TargetError."""
        path = self._at(check_name(name))

        def remove(client: SftpClient) -> None:
            opening = client.open(path.rpartition("/")[0] or ".") if client.can_synchronise else None
            removing = client.remove(path)
            try:
                client.answer(removing)
            except Refused as refused:
                if refused.code != Status.MISSING:
                    raise
            if opening is not None:
                with suppress(Refused):
                    client.answer(client.synchronise(client.handle(opening)))

        self.run(f"{name} cannot be removed from {self.url}", remove)

    # -- what goes through connections --------------------------------------------------------------------------------

    def run(self, doing: str, operation: Callable[[SftpClient], _Result]) -> _Result:
        """What `operation(client)` gives back, tried again while what fails may pass.

        Raise TargetError and the kinds of it, its sentence beginning with `doing`.
        """

        def attempt(_: int) -> _Result:
            try:
                with self._connections.one() as client:
                    try:
                        if not self._there:
                            self._look_for_root(client, doing)
                        return operation(client)
                    except Refused as refused:
                        state = client.filesystem(client.ask_filesystem(self.root))
                        raise refusal_error(refused, doing, state) from refused
            except ConnectionLost as lost:
                raise connection_error(lost, doing, self._address, self._known_hosts) from lost

        return self._retries.run(attempt)

    def _at(self, name: str) -> str:
        return below(self.root, name)

    def _look_for_root(self, client: SftpClient, doing: str) -> None:
        there = client.attributes_if_there(client.request(STAT, string(self.root)))
        if there is None:
            raise TargetError(
                f"{doing}: there is no directory {self.root} there.",
                next_step="Mount the disk that holds it on that server, or make a repository with `trinity-snap init`.",
            )
        if not there.is_directory:
            raise TargetError(f"{doing}: {self.root} is no directory there.", next_step="Correct `target.url`.")
        self._there = True

    def _make(self, client: SftpClient) -> None:
        """Make the root and what it is in."""
        parts = self.root.split("/")
        paths = ["/".join(parts[: length + 1]) for length in range(len(parts))]
        making = {path: client.mkdir(path, 0o700) for path in paths if path not in ("", ".")}
        for path, number in making.items():
            try:
                client.answer(number)
            except Refused:
                if client.attributes_if_there(client.lstat(path)) is None:
                    raise

    def _look(self, client: SftpClient, name: str, number: int) -> Attributes:
        """What an `lstat` found. Raise ObjectMissing, TargetError if it is no file."""
        there = client.attributes_if_there(number)
        if there is None:
            raise ObjectMissing(f"There is no {name} in {self.url}.")
        if not there.is_file:
            raise TargetError(f"{name} in {self.url} is not a regular file, so it is no object of a repository.")
        return there

    def _get(self, client: SftpClient, name: str, path: str, wanted: tuple[int, int] | None = None) -> bytes:
        looking, opening = client.lstat(path), client.open(path)
        size = self._look(client, name, looking).size
        if size is None:
            raise TargetError(f"{self.url} does not say how long {name} is.")
        offset, length = (0, size) if wanted is None else wanted
        if offset + length > size:
            raise TargetError(f"{name} in {self.url} has {size} bytes, and {length} from {offset} were asked for.")
        if length > MAX_OBJECT_BYTES:
            raise TargetError(f"{name} in {self.url} has {size} bytes, more than any object of a repository has.")
        try:
            return client.read(client.handle(opening), offset, length)
        except EOFError as error:
            raise TargetError(f"{name} in {self.url} became shorter while it was read.") from error

    def _list(self, prefix: str) -> Iterator[str]:
        if "repository".startswith(prefix):
            with suppress(ObjectMissing):
                self.stat("repository")
                yield "repository"
        kind = prefix.split("/")[0] if prefix else ""
        directories = [one for one in FLAT_KINDS if not prefix or kind == one]
        if not prefix or kind == "packs":
            (packs,) = self._scan(["packs"])
            for name in sorted(f"packs/{one}" for one in packs):
                if len(name) == 8 and (name.startswith(prefix) or prefix.startswith(f"{name}/")):
                    directories.append(name)
        for begin in range(0, len(directories), _DIRECTORIES_AT_ONCE):
            some = directories[begin : begin + _DIRECTORIES_AT_ONCE]
            for directory, entries in zip(some, self._scan(some), strict=True):
                for entry, attributes in entries.items():
                    name = f"{directory}/{entry}"
                    if name.startswith(prefix) and is_object_name(name) and attributes.is_file:
                        yield name

    def _scan(self, directories: list[str]) -> list[dict[str, Attributes]]:
        """What is in directories of the target, nothing if they are not there."""

        def scan(client: SftpClient) -> list[dict[bytes, Attributes] | None]:
            found = client.directories([self._at(one) for one in directories])
            if None in found:
                self._look_for_root(client, doing)
            return found

        doing = f"{self.url} cannot be listed"
        scanned = self.run(doing, scan)
        return [{os.fsdecode(raw): what for raw, what in (one or {}).items()} for one in scanned]
