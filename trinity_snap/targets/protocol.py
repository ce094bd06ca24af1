"""What a storage must offer to hold repositories: six operations on immutable objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from trinity_snap.errors import TargetError

MAX_OBJECT_BYTES = 1 << 30
"""Larger objects do not occur; `get` refuses them, so that a hostile storage cannot fill the memory."""


@dataclass(frozen=True)
class ObjectStat:
    """An object's length, and when the storage got it: Unix time in nanoseconds, by its own clock.

    Not every clock is that fine: S3 stores count whole seconds, cut off.
    """

    size: int
    time_ns: int


class Target(Protocol):
    """A place for objects. Safe to use from several threads, and from several processes and hosts at a time.

    Names are those of `targets.names`; any other raises TargetError before anything is done. Every operation
    raises TargetDenied without permission, and TargetError when the storage fails, with `transient` set if
    trying again may help.
    """

    @property
    def url(self) -> str:
        """Where this is, in the form that `open_target` takes. Holds no secret."""
        ...

    @property
    def parallel_puts(self) -> int:
        """How many objects are best sent at once."""
        ...

    @property
    def parallel_gets(self) -> int:
        """How many objects, or ranges of them, are best read at once."""
        ...

    @property
    def read_ahead_bytes(self) -> int:
        """How long a range may be that is read for several neighbours at once; 0 if reading them singly costs no more."""
        ...

    def put_if_absent(self, name: str, data: bytes | bytearray | memoryview) -> bool:
        """Store an object, durably and all at once.

        True: it is stored, and was not there before. False: there was one already, which is durable and
        untouched. Raise TargetFull if there is no room; then nothing of it is left. Some S3 stores cannot tell, and
        overwrite: no two objects are given the same name, except `repository`, which every target looks up first.
        """
        ...

    def get(self, name: str) -> bytes:
        """The whole object. Raise ObjectMissing if there is none."""
        ...

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`.

        Raise ObjectMissing, or TargetError if the object ends before.
        """
        ...

    def list_prefix(self, prefix: str) -> Iterator[str]:
        """The full names of the objects whose names begin with `prefix`, in any order, each once."""
        ...

    def stat(self, name: str) -> ObjectStat:
        """An object's length and time. Raise ObjectMissing if there is none."""
        ...

    def delete(self, name: str) -> None:
        """Remove an object, durably. One that is not there is no error."""
        ...


def put_new(target: Target, name: str, data: bytes | bytearray | memoryview) -> None:
    """Store an object whose name was drawn at random or is the hash of its bytes, so that nothing can have it already.

    Raise TargetError if the storage says that something has: then it did not take the object, whatever there is.
    """
    if not target.put_if_absent(name, data):
        raise TargetError(
            f"{target.url} did not take {name}: it says that it has an object of that name, which was given a moment ago.",
            untouched="Earlier recovery points are as they were.",
            next_step="Run again. If that happens again, do not rely on this storage before it is known why.",
        )


@runtime_checkable
class KnowsPuts(Protocol):
    """A target that is told with the answer to a put when the storage got the object."""

    def time_of_put(self, name: str) -> int | None:
        """When that was, by the storage's clock, in ns, for an object that was put a moment ago; None if it is not known."""
        ...


def time_of_put(target: Target, name: str) -> int | None:
    """When the storage got an object that was put a moment ago, if it has said so already. Asks nothing."""
    return target.time_of_put(name) if isinstance(target, KnowsPuts) else None


def time_of(target: Target, name: str) -> int:
    """The same; it is asked if it has not said. Raise as `stat` does."""
    known = time_of_put(target, name)
    return target.stat(name).time_ns if known is None else known
