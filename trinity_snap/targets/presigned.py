"""Objects of a bucket at addresses that somebody else signed: for a host that has no credentials for the store.

Such an address allows one thing, to get one object, and only for a while. It is a secret for that long.
"""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from trinity_snap.errors import ObjectMissing, TargetDenied, TargetError
from trinity_snap.targets.names import check_name
from trinity_snap.targets.protocol import MAX_OBJECT_BYTES, ObjectStat
from trinity_snap.targets.retries import Retries
from trinity_snap.targets.s3_errors import target_error

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

__all__ = ["LONGEST_SECONDS", "PresignedTarget", "Presigning"]

LONGEST_SECONDS = 7 * 86400
"""For how long an address can be signed at most, says the protocol (AWS Signature Version 4)."""

_CONNECT_SECONDS = 10
_READ_SECONDS = 60
_MAX_ERROR_BYTES = 4096
_CODE = re.compile(rb"<Code>([A-Za-z0-9._-]{1,64})</Code>")
_TOTAL = re.compile(r"bytes \d+-\d+/(\d{1,19})")
_REFUSED = {
    "AccessDenied",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestExpired",
    "SignatureDoesNotMatch",
}

_Result = TypeVar("_Result")


@runtime_checkable
class Presigning(Protocol):
    """A target that can sign addresses of its objects for others."""

    def presign(self, name: str, seconds: int) -> str:
        """An address from which anybody can get the object, or ranges of it, for that long from now on."""

    def certificates(self) -> str | None:
        """The certificates (PEM) of the authorities that are to be trusted for these addresses; None: the usual ones."""


class PresignedTarget:
    """The reading side of a target, at signed addresses. Whatever needs more than to get an object is denied.

    `address_of` gives the address of an object; `where` is what errors call the store. No error and no log has an address.
    """

    def __init__(
        self,
        address_of: Callable[[str], str],
        where: str,
        *,
        certificates: str | None = None,
        proxy: str | None = None,
        requests: int = 8,
        retries: Retries | None = None,
    ) -> None:
        self._address_of = address_of
        self._where = where
        self._certificates = certificates
        self._proxy = proxy
        self._requests = requests
        self._retries = retries or Retries()
        self._pools: dict[str, PoolManager] = {}

    def __repr__(self) -> str:
        return f"PresignedTarget({self._where!r})"

    @property
    def url(self) -> str:
        """Where the objects are, as the grant says it."""
        return self._where

    @property
    def parallel_puts(self) -> int:
        """Nothing can be put."""
        return 1

    @property
    def parallel_gets(self) -> int:
        """All the requests that may go on at once."""
        return self._requests

    @property
    def read_ahead_bytes(self) -> int:
        """As for a bucket: a whole pack of usual length."""
        return 20 << 20

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes of the object from `offset`. Raise ObjectMissing, TargetDenied, TargetError."""
        if offset < 0 or not 0 <= length <= MAX_OBJECT_BYTES:
            raise TargetError(f"{name} has no {length} bytes from {offset}; no object has.")
        if not length:
            return b""

        def get(response: BaseHTTPResponse) -> bytes:
            headers = response.headers
            if headers.get("Content-Length") != str(length) or not _begins_at(headers, offset):
                raise TargetError(f"{self._where} has no {length} bytes of {name} from {offset} on.")
            return self._body(response, name, length)

        return self._request(name, offset, length, get)

    def get(self, name: str) -> bytes:
        """The whole object."""
        return self.get_range(name, 0, self.stat(name).size)

    def stat(self, name: str) -> ObjectStat:
        """The length of an object; its time is not known (0), as only getting is allowed."""

        def total(response: BaseHTTPResponse) -> int:
            found = _TOTAL.fullmatch(response.headers.get("Content-Range", ""))
            if found is None:
                raise TargetError(f"{self._where} does not say how long {name} is.")
            return int(found[1])

        return ObjectStat(self._request(name, 0, 1, total), 0)

    def put_if_absent(self, name: str, data: bytes | bytearray | memoryview) -> bool:
        """Denied."""
        raise self._only_get()

    def list_prefix(self, prefix: str) -> Iterator[str]:
        """Denied."""
        raise self._only_get()

    def delete(self, name: str) -> None:
        """Denied."""
        raise self._only_get()

    def _only_get(self) -> TargetDenied:
        return TargetDenied(f"The addresses in {self._where} allow only to get objects.", untouched="Nothing was done.")

    # -- requests -----------------------------------------------------------------------------------------------------

    def _request(self, name: str, offset: int, length: int, use: Callable[[BaseHTTPResponse], _Result]) -> _Result:
        """What `use` makes of the answer to a request for a range, tried again while what fails may pass."""
        address = self._address_of(check_name(name))
        doing = f"{name} cannot be read from {self._where}"
        headers = {"Range": f"bytes={offset}-{offset + length - 1}", "Accept-Encoding": "identity"}

        def attempt(number: int) -> _Result:
            from urllib3.exceptions import HTTPError

            try:
                response = self._pool(address).request(
                    "GET", address, headers=headers, preload_content=False, redirect=False, retries=False
                )
                try:
                    if response.status not in (200, 206):
                        raise self._refused(response, doing, name)
                    result = use(response)
                except BaseException:
                    response.close()
                    raise
                response.drain_conn() if length == 1 else response.release_conn()
                return result
            except (HTTPError, OSError, ValueError) as error:
                # Not chained: what the library says quotes the address.
                raise self._failed(error, doing) from None

        return self._retries.run(attempt)

    def _body(self, response: BaseHTTPResponse, name: str, length: int) -> bytes:
        data = response.read(length, decode_content=False)
        if len(data) != length:
            raise TargetError(f"{name} came from {self._where} only in part.", transient=True)
        return data

    def _refused(self, response: BaseHTTPResponse, doing: str, name: str) -> TargetError:
        status = response.status
        found = _CODE.search(response.read(_MAX_ERROR_BYTES, decode_content=False))
        code = found[1].decode() if found else ""
        if status in (401, 403) or code in _REFUSED:
            return TargetDenied(
                f"{doing}: the store does not accept the grant's address any more ({status}{f' {code}' if code else ''}): it has "
                "expired, or whoever signed it lost the right to read.",
                next_step="Make a new grant, with a longer --valid.",
            )
        if status == 404:
            return ObjectMissing(f"{doing}: there is no such object.")
        if 300 <= status < 400:
            return TargetError(f"{doing}: the store sends us elsewhere ({status}), where a grant does not lead.")
        return target_error(_Answered(code, status), doing, self._where)

    def _failed(self, error: Exception, doing: str) -> TargetError:
        found = target_error(error, doing, self._where)
        return TargetError(
            found.message,
            next_step="See the network between this host and the store, and whose certificate answers there.",
            transient=found.transient,
        )

    def _pool(self, address: str) -> PoolManager:
        parts = urlsplit(address)
        place = f"{parts.scheme}://{parts.netloc}"
        pool = self._pools.get(place)
        if pool is None:
            pool = self._pools[place] = self._make_pool(parts.scheme, parts.hostname or "")
        return pool

    def _make_pool(self, scheme: str, host: str) -> PoolManager:
        import urllib3

        logging.getLogger("urllib3").setLevel(logging.ERROR)  # it logs addresses
        proxy = self._proxy
        if proxy is None and not proxy_bypass(host):
            proxy = getproxies_environment().get(scheme)
        timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS)
        context = self._trust() if scheme == "https" else None
        if proxy is None:
            return urllib3.PoolManager(maxsize=self._requests, timeout=timeout, ssl_context=context)
        return urllib3.ProxyManager(proxy, maxsize=self._requests, timeout=timeout, ssl_context=context)

    def _trust(self) -> ssl.SSLContext:
        if self._certificates is not None:
            return ssl.create_default_context(cadata=self._certificates)
        import certifi

        context = ssl.create_default_context()
        context.load_verify_locations(certifi.where())  # a fresh host may have none
        return context


class _Answered(Exception):
    """An answer of a store in the form in which boto3 has it."""

    def __init__(self, code: str, status: int) -> None:
        super().__init__(status)
        self.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


def _begins_at(headers: Mapping[str, str], offset: int) -> bool:
    # As in a bucket: some stores answer 200 where they should say 206.
    return headers.get("Content-Range", "bytes 0-").startswith(f"bytes {offset}-")
