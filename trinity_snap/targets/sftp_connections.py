"""Connections to one server that threads take turns with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from trinity_snap.targets.sftp_client import SftpClient
from trinity_snap.targets.sftp_session import ConnectionLost

__all__ = ["Connections"]


class Connections:
    """Makes connections when they are wanted, at most so many at a time, and keeps those that are good."""

    def __init__(self, connect: Callable[[], SftpClient], most: int) -> None:
        self._connect = connect
        self._free = threading.BoundedSemaphore(most)
        self._idle: list[SftpClient] = []

    @contextmanager
    def one(self) -> Iterator[SftpClient]:
        """A connection for this thread alone. Raise ConnectionLost if there is none to be had."""
        with self._free:
            client = self._take()
            try:
                yield client
            except Exception:  # whatever its user met, the connection is between two packets
                self._keep(client)
                raise
            except BaseException:  # it may have happened in the middle of a packet
                client.close()
                raise
            self._keep(client)

    def _keep(self, client: SftpClient) -> None:
        with suppress(ConnectionLost):
            if not client.closed:
                client.settle()
                self._idle.append(client)

    def _take(self) -> SftpClient:
        while True:
            try:
                client = self._idle.pop()
            except IndexError:
                return self._connect()
            if client.alive():
                return client
            client.close()

    def close(self) -> None:
        """End the connections that nobody uses."""
        while self._idle:
            with suppress(IndexError):
                self._idle.pop().close()
