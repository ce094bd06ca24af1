"""Targets that fail on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from trinity_snap.targets import ObjectStat, Target

_Result = TypeVar("_Result")


class Crash(BaseException):
    """The process is gone: nothing that handles errors may handle this."""


@dataclass
class CrashingTarget:
    """Passes everything on, and crashes before or after operation `at` (from 0); from then on every call crashes."""

    inner: Target
    at: int = 1 << 60
    after: bool = False
    operations: list[str] = field(default_factory=list)
    dead: bool = False

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def parallel_puts(self) -> int:
        return self.inner.parallel_puts

    @property
    def parallel_gets(self) -> int:
        return self.inner.parallel_gets

    @property
    def read_ahead_bytes(self) -> int:
        return self.inner.read_ahead_bytes

    def _run(self, what: str, operation: Callable[[], _Result]) -> _Result:
        if self.dead:
            raise Crash
        number = len(self.operations)
        self.operations.append(what)
        if number == self.at and not self.after:
            self.dead = True
            raise Crash
        try:
            return operation()
        finally:
            if number == self.at:
                self.dead = True
                raise Crash  # in the place of an error, too

    def put_if_absent(self, name: str, data: bytes | bytearray | memoryview) -> bool:
        return self._run(f"put {name}", lambda: self.inner.put_if_absent(name, data))

    def get(self, name: str) -> bytes:
        return self._run(f"get {name}", lambda: self.inner.get(name))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self._run(f"get {name}", lambda: self.inner.get_range(name, offset, length))

    def list_prefix(self, prefix: str) -> Iterator[str]:
        return iter(self._run(f"list {prefix}", lambda: list(self.inner.list_prefix(prefix))))

    def stat(self, name: str) -> ObjectStat:
        return self._run(f"stat {name}", lambda: self.inner.stat(name))

    def delete(self, name: str) -> None:
        self._run(f"delete {name}", lambda: self.inner.delete(name))
