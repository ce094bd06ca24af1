"""A TCP relay that is slow, breaks connections, and looks at the moment before it passes something on."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_BLOCK = 1 << 16


class Wire:
    """Passes bytes between a port of its own and a server.

    `latency` is in seconds for each direction. `before_request` and `before_answer` are called before each block that
    goes on; True: the connection is cut instead, at both ends.
    """

    def __init__(self, server_port: int) -> None:
        self.server_port = server_port
        self.latency = 0.0
        self.before_request: Callable[[], bool] = lambda: False
        self.before_answer: Callable[[], bool] = lambda: False
        self.connections = 0
        self.bytes_sent = 0
        self.most_at_once = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]

    def reset(self) -> None:
        self.latency, self.bytes_sent, self.connections, self.most_at_once = 0.0, 0, 0, 0
        self.before_request = self.before_answer = lambda: False

    def cut(self) -> None:
        """Break all connections that there are."""
        with self._lock:
            broken, self._open = self._open, set()
        for one in broken:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.server_port), 10)
                except OSError:
                    client.close()
                    continue
                server.settimeout(None)
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._lock:
                    self._open |= {client, server}
                    self.connections += 1
                    self.most_at_once = max(self.most_at_once, len(self._open) // 2)
                self._relay(client, server)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _relay(self, client: socket.socket, server: socket.socket) -> None:
        for source, sink, up in ((client, server, True), (server, client, False)):
            blocks: queue.Queue[tuple[float, bytes]] = queue.Queue(1024)
            threading.Thread(target=self._read, args=(source, blocks), daemon=True).start()
            threading.Thread(target=self._write, args=(source, sink, blocks, up), daemon=True).start()

    def _read(self, source: socket.socket, blocks: queue.Queue[tuple[float, bytes]]) -> None:
        block = b"x"
        while block:
            try:
                block = source.recv(_BLOCK)
            except OSError:
                block = b""
            blocks.put((time.monotonic() + self.latency, block))

    def _write(
        self, source: socket.socket, sink: socket.socket, blocks: queue.Queue[tuple[float, bytes]], up: bool
    ) -> None:
        while True:
            due, block = blocks.get()
            if (left := due - time.monotonic()) > 0:
                time.sleep(left)
            if block and (self.before_request if up else self.before_answer)():
                self.cut()
                block = b""
            try:
                sink.sendall(block)
            except OSError:
                block = b""
            if not block:
                break
            if up:
                self.bytes_sent += len(block)
        with self._lock:
            self._open -= {source, sink}
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        while block := blocks.get()[1] if not blocks.empty() else b"":  # its reader may wait for room
            pass


@contextmanager
def wire_to(server_port: int) -> Iterator[Wire]:
    """A relay before a server; `port` is what to use as the server's."""
    wire = Wire(server_port)
    threading.Thread(target=wire.serve, daemon=True).start()
    try:
        yield wire
    finally:
        wire.close()
