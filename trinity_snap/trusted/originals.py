"""A bucket as honest writers left it: of every object the oldest version that is authentic, whatever was put over it.

Honest writers give every name once. What came later under the same name, or took the object away, is not theirs, but for
deletions by the trusted side itself, which nothing tells from anybody else's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from trinity_snap.errors import ObjectMissing, TargetError
from trinity_snap.targets.protocol import ObjectStat
from trinity_snap.targets.s3 import S3Target
from trinity_snap.targets.s3_versions import Version, list_versions, read_version

__all__ = ["Judge", "Originals"]

Judge = Callable[[str, bytes], bool]
"""Whether these bytes are those that an honest writer stored under that name."""


class Originals:
    """A target to read from.

    Objects that were deleted are there for whoever knows their names; of those only what was deleted at or after
    `deleted_since` is listed.
    """

    def __init__(self, target: S3Target, *, deleted_since: datetime | None = None) -> None:
        self.target = target
        self.versions = list_versions(target)
        self.judge: Judge = lambda name, data: True
        self._deleted_since = deleted_since
        self._chosen: dict[str, Version] = {}

    @property
    def url(self) -> str:
        """That of the bucket."""
        return self.target.url

    @property
    def parallel_puts(self) -> int:
        """As at the bucket; nothing can be put here."""
        return self.target.parallel_puts

    @property
    def parallel_gets(self) -> int:
        """As at the bucket."""
        return self.target.parallel_gets

    @property
    def read_ahead_bytes(self) -> int:
        """As at the bucket."""
        return self.target.read_ahead_bytes

    def is_plain(self, name: str) -> bool:
        """Whether an object has one version, which everybody reads; also if there is no such object."""
        versions = self.versions.get(name, [])
        return not versions or (len(versions) == 1 and not versions[0].marker)

    def is_listed(self, name: str) -> bool:
        """Whether the object counts as being there, and not as deleted by the trusted side."""
        versions = self.versions.get(name)
        if not versions or all(version.marker for version in versions):
            return False
        if not versions[0].marker:
            return True
        return self._deleted_since is not None and versions[0].time >= self._deleted_since

    def original(self, name: str) -> Version:
        """The oldest version that is authentic, the oldest of all if none is. Raise ObjectMissing, TargetError."""
        chosen = self._chosen.get(name)
        if chosen is None:
            kept = [version for version in self.versions.get(name, []) if not version.marker]
            if not kept:
                raise ObjectMissing(f"There is no {name} in {self.url}.")
            chosen = kept[-1]
            if len(kept) > 1:
                chosen = next((one for one in reversed(kept) if self.is_right(one)), chosen)
            self._chosen[name] = chosen
        return chosen

    def is_right(self, version: Version) -> bool:
        """Whether the bytes of a version are authentic. Raise TargetError if they cannot be read."""
        try:
            return self.judge(version.name, read_version(self.target, version))
        except ObjectMissing:
            return False

    def choose(self, version: Version) -> None:
        """Take that version of its object for the original."""
        self._chosen[version.name] = version

    def forget(self) -> None:
        """Choose anew from now on: there is a better judge."""
        self._chosen = {}

    # -- the six operations -----------------------------------------------------------------------------------------

    def get(self, name: str) -> bytes:
        """The whole object. Raise ObjectMissing, TargetDenied, TargetError."""
        return self.target.get(name) if self.is_plain(name) else read_version(self.target, self.original(name))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`. Raise ObjectMissing, TargetDenied, TargetError."""
        if self.is_plain(name):
            return self.target.get_range(name, offset, length)
        data = self.get(name)
        if offset < 0 or length < 0 or offset + length > len(data):
            raise TargetError(f"{name} in {self.url} has no {length} bytes from {offset} on.")
        return data[offset : offset + length]

    def list_prefix(self, prefix: str) -> Iterator[str]:
        """The names of the objects that are there."""
        return iter([name for name in self.versions if name.startswith(prefix) and self.is_listed(name)])

    def stat(self, name: str) -> ObjectStat:
        """An object's length, and when it was stored. Raise ObjectMissing."""
        version = self.original(name)
        return ObjectStat(version.size, int(version.time.timestamp() * 1000) * 1_000_000)

    def put_if_absent(self, name: str, data: bytes | bytearray | memoryview) -> bool:
        """Raise TargetError: this is for reading."""
        raise TargetError(f"{name} cannot be stored among the originals of {self.url}.")

    def delete(self, name: str) -> None:
        """Raise TargetError: this is for reading."""
        raise TargetError(f"{name} cannot be removed from the originals of {self.url}.")
