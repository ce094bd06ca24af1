"""A bucket of an S3-compatible store as a target.

An object is sent in one request, with `If-None-Match: *` and the MD5 of its bytes, so that it is there whole, once, or
not at all, and gets its time when it is complete: objects end far below the 5 GiB from which a store wants several
parts. That the store has it is confirmed by what the store says of it afterwards:

- the tag in its answer is the MD5 of what was sent. That is all for packs and the index, of which there is much; whatever
  else is sent (points, sessions, recipients) is looked up in the list too, length and tag, before it counts as stored;
- where tags are something else (encryption by a key service), the first object is read back, if that is allowed, and
  from then on every object's length in the list counts, besides the MD5 that the store had to check.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from trinity_snap.errors import ObjectMissing, TargetError, UsageError
from trinity_snap.targets.names import check_name, check_prefix, is_object_name
from trinity_snap.targets.protocol import MAX_OBJECT_BYTES, ObjectStat
from trinity_snap.targets.retries import Retries
from trinity_snap.targets.s3_client import make_client
from trinity_snap.targets.s3_errors import code_of, status_of, target_error
from trinity_snap.targets.s3_lock import no_lock, retention_of_puts
from trinity_snap.targets.sending import Bandwidth, Body
from trinity_snap.targets.settings import TargetSettings, split_bucket_url, without_password

_MAX_PAGES = 1 << 15
_UNLISTED = ("packs/", "index/", "sessions/")
_UNCONDITIONAL = {"NotImplemented", "InvalidArgument", "InvalidRequest"}

_Result = TypeVar("_Result")
_Listed = tuple[int, str, int | None]
_TIMES = 256


class S3Target:
    """A target in a bucket, below a prefix. Times are the store's own, in whole seconds on most of them.

    A store that ignores `If-None-Match` overwrites what has the same name; honest writers never use a name twice, and
    for `repository`, the one name that is not unique, the list is asked first. See `probe`.
    """

    def __init__(self, settings: TargetSettings, *, retries: Retries | None = None) -> None:
        try:
            self._bucket, prefix = split_bucket_url(settings.url)
        except ValueError as error:
            raise UsageError(f"{without_password(settings.url)!r} is not a target: {error}.") from error
        self._root = f"{prefix}/" if prefix else ""
        self._settings = settings
        self._retries = retries or Retries()
        self._bandwidth = None if settings.bandwidth_bytes is None else Bandwidth(settings.bandwidth_bytes)
        self._conditional = True
        self._tags_are_md5: bool | None = None
        self._lock = threading.Lock()
        self._times: dict[str, int] = {}
        self._client = make_client(settings)
        self._client.meta.events.register("before-send.s3.PutObject", _before_send)

    def __repr__(self) -> str:
        return f"S3Target({self.url!r})"

    @property
    def url(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self._bucket}/{self._root}".rstrip("/")

    @property
    def bucket(self) -> str:
        """The name of the bucket."""
        return self._bucket

    @property
    def root(self) -> str:
        """What the key of every object begins with: nothing, or the prefix and a slash."""
        return self._root

    @property
    def settings(self) -> TargetSettings:
        """How it is reached, and what is asked of it."""
        return self._settings

    @property
    def parallel_puts(self) -> int:
        """Half of the requests that may go on at once."""
        return max(1, self._settings.requests // 2)

    @property
    def parallel_gets(self) -> int:
        """All the requests that may go on at once."""
        return self._settings.requests

    @property
    def read_ahead_bytes(self) -> int:
        """A whole pack of usual length: stores are paid, and wait, by the request."""
        return 20 << 20

    # -- the six operations -----------------------------------------------------------------------------------------

    def put_if_absent(self, name: str, data: bytes | bytearray | memoryview) -> bool:
        """Store an object; False if there is one already, as far as the store can tell.

        Raise TargetFull, TargetDenied, TargetError.
        """
        key = self._root + check_name(name)
        with memoryview(data) as whole, whole.cast("B") if whole.nbytes else memoryview(b"") as view:
            digest = hashlib.md5(view, usedforsecurity=False)
            doing = f"{name} cannot be stored in {self.url}"
            md5 = digest.digest()
            return self.run(doing, lambda attempt: self._put(name, key, view, md5, attempt), of_object=False)

    def get(self, name: str) -> bytes:
        """The whole object. Raise ObjectMissing, TargetDenied, TargetError."""
        key = self._root + check_name(name)
        return self.run(f"{name} cannot be read from {self.url}", lambda _: self._get(name, key))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes of the object from `offset`.

        Raise ObjectMissing, TargetDenied, TargetError.
        """
        key = self._root + check_name(name)
        if offset < 0 or not 0 <= length <= MAX_OBJECT_BYTES:
            raise TargetError(f"{name} has no {length} bytes from {offset}; no object has.")
        if not length:
            if offset > self.stat(name).size:
                raise TargetError(f"{name} in {self.url} ends before byte {offset}.")
            return b""
        wanted = (offset, length)
        return self.run(f"{name} cannot be read from {self.url}", lambda _: self._get(name, key, wanted))

    def list_prefix(self, prefix: str) -> Iterator[str]:
        """The names of all objects that begin with `prefix`; whatever else lies there is passed over."""
        check_prefix(prefix)
        return self._list(prefix)

    def stat(self, name: str) -> ObjectStat:
        """An object's length, and the time that the store gave it, by the store's clock.

        Raise ObjectMissing, TargetDenied, TargetError.
        """
        key = self._root + check_name(name)
        doing = f"{name} cannot be looked at in {self.url}"
        answer = self.run(doing, lambda _: self._client.head_object(Bucket=self._bucket, Key=key))
        size, time = answer.get("ContentLength"), answer.get("LastModified")
        if not isinstance(size, int) or time is None:
            raise TargetError(f"{doing}: the store does not say how long and how old it is.")
        return ObjectStat(size, _ns(time))

    def time_of_put(self, name: str) -> int | None:
        """When the store got an object that was put by this a moment ago, by its clock, in ns; None if it did not say."""
        with self._lock:
            return self._times.get(check_name(name))

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is no error. Raise TargetDenied, TargetError."""
        key = self._root + check_name(name)
        doing = f"{name} cannot be removed from {self.url}"
        with suppress(ObjectMissing):
            self.run(doing, lambda _: self._client.delete_object(Bucket=self._bucket, Key=key))

    # -- addresses for others -----------------------------------------------------------------------------------------

    def presign(self, name: str, seconds: int) -> str:
        """An address from which anybody can get the object for that long. Raise TargetDenied without credentials."""
        wanted = {"Bucket": self._bucket, "Key": self._root + check_name(name)}
        doing = f"No address of {name} in {self.url} can be signed"
        address: str = self.run(
            doing, lambda _: self._client.generate_presigned_url("get_object", Params=wanted, ExpiresIn=seconds)
        )
        return address

    def certificates(self) -> str | None:
        """What is in `ca_file`. Raise TargetError if it cannot be read."""
        path = self._settings.ca_file
        try:
            return None if path is None else path.read_text("ascii", "replace")
        except OSError as error:
            raise TargetError(f"The file {path} (target.ca_file) cannot be read: {error.strerror}.") from error

    # -- requests -----------------------------------------------------------------------------------------------------

    @property
    def client(self) -> Any:  # boto3 makes the class of its clients at run time
        """The client that the requests go through."""
        return self._client

    def run(self, doing: str, operation: Callable[[int], _Result], *, of_object: bool = True) -> _Result:
        """What `operation(number of the attempt)` gives back, tried again while what fails may pass.

        Raise TargetError and the kinds of it, its sentence beginning with `doing`; ObjectMissing only if `of_object`.
        """
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError

        def attempt(number: int) -> _Result:
            try:
                return operation(number)
            except (BotoCoreError, ClientError, HTTPError, OSError, RecursionError, ValueError) as error:
                raise target_error(error, doing, self.url, of_object=of_object) from error

        return self._retries.run(attempt)

    def _put(self, name: str, key: str, data: memoryview, md5: bytes, attempt: int) -> bool:
        from botocore.exceptions import ClientError

        # An earlier attempt may have arrived although its answer did not.
        if (attempt or name == "repository" or not self._conditional) and (there := self._find(key)) is not None:
            return attempt > 0 and self._is_ours(name, key, there, data, md5)
        options: dict[str, str] = {}
        if self._conditional:
            options["IfNoneMatch"] = "*"
        if self._settings.storage_class is not None and name.startswith("packs/"):
            options["StorageClass"] = self._settings.storage_class
        lock = retention_of_puts(self._settings)
        try:
            answer = self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=Body(data, self._bandwidth),
                ContentMD5=_base64(md5),
                **options,
                **lock,
            )
        except ClientError as error:
            if status_of(error) == 412:
                if not attempt:
                    return False
                if (there := self._find(key)) is None:
                    raise self._not_listed(name, transient=True) from error
                return self._is_ours(name, key, there, data, md5)
            if self._conditional and code_of(error) in _UNCONDITIONAL and status_of(error) in (400, 501):
                self._conditional = False
                return self._put(name, key, data, md5, attempt)
            if lock and status_of(error) in (400, 501) and code_of(error) in _UNCONDITIONAL:
                raise no_lock(f"{name} cannot be stored in {self.url}", self._bucket) from error
            raise
        listed_ns = self._confirm(name, key, data, md5, _tag(answer))
        self._note_time(name, _answered_ns(answer) if listed_ns is None else listed_ns)
        return True

    def _note_time(self, name: str, time_ns: int | None) -> None:
        if time_ns is not None:
            with self._lock:
                self._times[name] = time_ns
                for old in list(self._times)[:-_TIMES]:
                    del self._times[old]

    def _confirm(self, name: str, key: str, data: memoryview, md5: bytes, tag: str) -> int | None:
        """Raise TargetError unless the store has just those bytes. Return since when, if it was asked."""
        if tag == md5.hex():
            self._tags_are_md5 = True
            if name.startswith(_UNLISTED):
                return None
        elif self._tags_are_md5 is not False:
            self._read_back(name, key, data)
        there = self._find(key)
        if there is None or there[0] != len(data) or (self._tags_are_md5 and there[1] != md5.hex()):
            raise self._not_listed(name, transient=there is None)
        return there[2]

    def _not_listed(self, name: str, *, transient: bool) -> TargetError:
        return TargetError(
            f"{name} was sent to {self.url}, which took it, and does not list it as it was sent.",
            next_step="See how the store is, and what lies between this host and the store.",
            transient=transient,
        )

    def _read_back(self, name: str, key: str, data: memoryview) -> None:
        """Find out whether a tag that is not the MD5 means damage. Raise TargetError if it does."""
        from botocore.exceptions import ClientError

        with self._lock:
            if self._tags_are_md5 is False:
                return
            try:
                good = self._get(name, key) == data
            except ClientError as error:
                if status_of(error) != 403:
                    raise
                good = True  # a host that may only write
            if not good:
                with suppress(TargetError):
                    self.delete(name)
                raise TargetError(
                    f"{self.url} gives back other bytes for {name} than were sent.",
                    untouched="Earlier recovery points are as they were.",
                    next_step="Do not rely on this store before it is known why; look at its disks and its memory.",
                )
            self._tags_are_md5 = False

    def _is_ours(self, name: str, key: str, there: _Listed, data: memoryview, md5: bytes) -> bool:
        """Whether what has the name is what an earlier attempt sent."""
        from botocore.exceptions import ClientError

        size, tag, _ = there
        if size != len(data):
            return False
        if tag == md5.hex():
            return True
        if self._tags_are_md5:
            return False
        try:
            return self._get(name, key) == data
        except ClientError as error:
            if status_of(error) != 403:
                raise
            return True  # a host that may only write; nobody else draws that name

    def _find(self, key: str) -> _Listed | None:
        """Length, tag and time of an object as the list has them, or None. Needs no right to read the object."""
        answer = self._client.list_objects_v2(Bucket=self._bucket, Prefix=key, MaxKeys=2)
        for found in answer.get("Contents", ()):
            if found.get("Key") == key:
                time = found.get("LastModified")
                return int(found.get("Size", -1)), _tag(found), None if time is None else _ns(time)
        return None

    def _get(self, name: str, key: str, wanted: tuple[int, int] | None = None) -> bytes:
        from botocore.exceptions import ClientError

        options = {} if wanted is None else {"Range": f"bytes={wanted[0]}-{wanted[0] + wanted[1] - 1}"}
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=key, **options)
        except ClientError as error:
            if wanted is not None and status_of(error) == 416:
                raise TargetError(f"{name} in {self.url} ends before byte {wanted[0]}.") from error
            raise
        body = answer["Body"]
        try:
            size = answer.get("ContentLength")
            if not isinstance(size, int) or size < 0:
                raise TargetError(f"{self.url} does not say how long {name} is.")
            if wanted is not None and (size != wanted[1] or not _begins_at(answer, wanted[0])):
                raise TargetError(f"{self.url} has no {wanted[1]} bytes of {name} from {wanted[0]} on.")
            if size > MAX_OBJECT_BYTES:
                raise TargetError(f"{name} in {self.url} has {size} bytes, more than any object of a repository has.")
            data: bytes = body.read(size + 1)
        finally:
            body.close()
        if len(data) != size:
            raise TargetError(f"{name} came from {self.url} only in part.", transient=True)
        return data

    def _list(self, prefix: str) -> Iterator[str]:
        token, last = None, ""
        for _ in range(_MAX_PAGES):
            answer = self._list_page(prefix, token)
            for found in answer.get("Contents", ()):
                key = str(found.get("Key", ""))
                if key <= last:  # lists are in order: this one goes round in circles
                    raise TargetError(f"The list of {self.url} is out of order.", next_step="See how the store is.")
                last = key
                name = key[len(self._root) :]
                if key.startswith(self._root + prefix) and is_object_name(name):
                    yield name
            if not answer.get("IsTruncated"):
                return
            token = answer.get("NextContinuationToken")
            if not token:
                raise TargetError(f"The list of {self.url} breaks off.", next_step="See how the store is.")
        raise TargetError(f"The list of {self.url} does not end.", next_step="See how the store is.")

    def _list_page(self, prefix: str, token: str | None) -> Mapping[str, Any]:
        options = {} if token is None else {"ContinuationToken": token}
        answer: Mapping[str, Any] = self.run(
            f"{self.url} cannot be listed",
            lambda _: self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._root + prefix, **options),
            of_object=False,
        )
        return answer


def _begins_at(answer: Mapping[str, Any], offset: int) -> bool:
    # Some stores answer 200 where they should say 206; what they give is said beside it.
    return str(answer.get("ContentRange", "bytes 0-")).startswith(f"bytes {offset}-")


def _ns(time: datetime) -> int:
    return int(time.timestamp() * 1000) * 1_000_000


def _answered_ns(answer: Mapping[str, Any]) -> int | None:
    """When a request was answered, by the clock of whoever did."""
    said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        return None if said is None else _ns(parsedate_to_datetime(said))
    except ValueError:
        return None


def _tag(answer: Mapping[str, Any]) -> str:
    return str(answer.get("ETag", "")).strip('"').lower()


def _base64(digest: bytes) -> str:
    import base64

    return base64.b64encode(digest).decode("ascii")


def _before_send(request: Any, **_: object) -> None:  # what boto3 is about to send
    """Count what is read from now on as sent, and do not ask whether it may be sent: that costs a round trip."""
    request.headers.pop("Expect", None)
    if isinstance(request.body, Body):
        request.body.sending = True
