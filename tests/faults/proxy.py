"""A proxy in front of an S3 store that is slow, forgetful or malicious on demand, and counts."""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Request:
    """What arrived, and its number from 0."""

    number: int
    method: str
    path: str
    length: int
    headers: dict[str, str]
    body: bytes = b""  # only a short one

    @property
    def is_list(self) -> bool:
        return "list-type=2" in self.path


@dataclass(frozen=True)
class Answer:
    """What to say instead of asking the store."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def refusal(status: int, code: str) -> Answer:
    """An error as S3 stores have them."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>words of the store</Message></Error>"
    return Answer(status, body.encode(), {"Content-Type": "application/xml"})


DROP = "drop the connection before the store is asked"
LOSE = "ask the store, and drop the connection instead of answering"
TRUNCATE = "give half of the answer's body"
FLIP = "change a bit of what is sent to the store"
FLIP_ANSWER = "change a bit of what the store gives"

Rule = Callable[[Request], "Answer | str | None"]


class Proxy:
    """What the proxy does (`rule` says for each request what goes wrong, `latency` is in seconds) and what it saw."""

    def __init__(self, store: str) -> None:
        self.store = urlsplit(store)
        self.address = ""
        self.rule: Rule = lambda request: None
        self.latency = 0.0
        self.requests: list[Request] = []
        self.most_at_once: dict[str, int] = {}
        self._now: dict[str, int] = {}
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Begin to count anew."""
        self.requests, self.most_at_once = [], {}

    def count(self, method: str, part: str = "") -> int:
        return sum(request.method == method and part in request.path for request in self.requests)

    def begin(self, handler: BaseHTTPRequestHandler, body: bytes) -> Request:
        with self._lock:
            method = handler.command
            request = Request(
                len(self.requests),
                method,
                handler.path,
                len(body),
                dict(handler.headers.items()),
                body if len(body) < 4096 else b"",
            )
            self.requests.append(request)
            self._now[method] = self._now.get(method, 0) + 1
            self.most_at_once[method] = max(self.most_at_once.get(method, 0), self._now[method])
            return request

    def end(self, request: Request) -> None:
        with self._lock:
            self._now[request.method] -= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 20
    proxy: Proxy

    def log_message(self, *_: object) -> None:
        pass

    def do_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = self.proxy.begin(self, body)
        try:
            time.sleep(self.proxy.latency)
            self._serve(request, body)
        except OSError:
            self.close_connection = True
        finally:
            self.proxy.end(request)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = do_any  # noqa: N815  # the library's names

    def _serve(self, request: Request, body: bytes) -> None:
        fault = self.proxy.rule(request)
        if fault == DROP:
            self.close_connection = True
            return
        if isinstance(fault, Answer):
            self._answer(fault.status, {"Content-Length": str(len(fault.body)), **fault.headers}, fault.body)
            return
        if fault == FLIP:
            body = body[:-1] + bytes([body[-1] ^ 1])
        store = self.proxy.store
        assert store.hostname is not None
        connection = http.client.HTTPConnection(store.hostname, store.port, timeout=60)
        try:
            connection.request(request.method, request.path, body, dict(self.headers.items()))
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        if fault == LOSE:
            self.close_connection = True
            return
        kept = {key: value for key, value in response.getheaders() if key.lower() not in _HOP}
        if request.method != "HEAD":
            kept["Content-Length"] = str(len(data))
        if fault == TRUNCATE:
            data = data[: len(data) // 2]
            self.close_connection = True
        if fault == FLIP_ANSWER:
            data = data[:-1] + bytes([data[-1] ^ 1])
        self._answer(response.status, kept, data)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


_HOP = {"connection", "transfer-encoding", "keep-alive"}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@contextmanager
def proxy_before(store: str, tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """A proxy in front of a store; `address` is what to use as the store's."""
    proxy = Proxy(store)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": proxy}))
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    proxy.address = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
