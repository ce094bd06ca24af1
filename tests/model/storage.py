"""A storage in memory with a clock of its own, and actors whose every operation on it waits to be let through."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from trinity_snap.errors import ObjectMissing, TargetError
from trinity_snap.targets import ObjectStat


class Dead(BaseException):
    """The actor's process is gone: nothing that handles errors may handle this."""


@dataclass
class Storage:
    """Objects with the times that the storage gave them. Every operation is atomic; `now_ns` only goes on when told."""

    now_ns: int = 1_700_000_000 * 10**9
    objects: dict[str, tuple[bytes, int]] = field(default_factory=dict)

    def put_if_absent(self, name: str, data: bytes | bytearray | memoryview) -> bool:
        if name in self.objects:
            return False
        self.now_ns += 1000
        self.objects[name] = (bytes(data), self.now_ns)
        return True

    def get(self, name: str) -> bytes:
        if name not in self.objects:
            raise ObjectMissing(f"There is no {name}.")
        return self.objects[name][0]

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        data = self.get(name)
        if offset + length > len(data):
            raise TargetError("too short")
        return data[offset : offset + length]

    def list_prefix(self, prefix: str) -> Iterator[str]:
        return iter([name for name in self.objects if name.startswith(prefix)])

    def stat(self, name: str) -> ObjectStat:
        return ObjectStat(len(self.get(name)), self.objects[name][1])

    def delete(self, name: str) -> None:
        self.objects.pop(name, None)

    url = "memory:"
    parallel_puts = 1
    parallel_gets = 1
    read_ahead_bytes = 0


@dataclass
class Operation:
    """What an actor wants done: `what` is the method's name."""

    what: str
    name: str
    do: Callable[[], Any]
    answer: queue.SimpleQueue[tuple[Any, BaseException | None]] = field(default_factory=queue.SimpleQueue)


class Actor:
    """A process of its own, which gets no further than to its next operation unless `step` lets it.

    It is its own target. `work` is called with it in a thread; what it returns is `result`, what it raises is `error`.
    """

    url = "memory:"
    parallel_puts = 1
    parallel_gets = 1
    read_ahead_bytes = 0

    def __init__(self, kind: str, storage: Storage, work: Callable[[Actor], Any]) -> None:
        self.kind = kind
        self.storage = storage
        self.clock_offset_ns = 0
        self.clock_jumped = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.finished = False
        self.dead = False
        self.pending: Operation | None = None
        self.renewals = 0
        self.shipped_again = 0
        self.looked = False
        self.saw_session = False  # that its session is there, when this last looked around
        self.seen: dict[str, frozenset[bytes]] = {}  # what was fenced when this last looked around
        self._events: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(work,), name=kind, daemon=True)
        self._thread.actor = self  # type: ignore[attr-defined]  # found again by the clock
        self._thread.start()
        self._await()

    def _run(self, work: Callable[[Actor], Any]) -> None:
        try:
            self.result = work(self)
        except BaseException as error:
            self.error = error
        self._events.put(None)

    def _await(self) -> None:
        """Wait until the actor asks for its next operation, or has ended."""
        self.pending = self._events.get(timeout=60)
        if self.pending is None:
            self.finished = True
            self._thread.join(60)

    def step(self) -> Operation | None:
        """Let the next operation through. Return it, or None if the actor has ended."""
        operation = self.pending
        if operation is None:
            return None
        try:
            operation.answer.put((operation.do(), None))
        except Exception as error:
            operation.answer.put((None, error))
        self._await()
        return operation

    def kill(self) -> Operation | None:
        """End it where it is. Return the operation that it was about to do."""
        operation, self.dead = self.pending, True
        while self.pending is not None:
            self.pending.answer.put((None, Dead()))
            self._await()
        return operation

    def _ask(self, what: str, name: str, do: Callable[[], Any]) -> Any:
        operation = Operation(what, name, do)
        self._events.put(operation)
        result, error = operation.answer.get()
        if error is not None:
            raise error
        return result

    def put_if_absent(self, name: str, data: bytes | bytearray | memoryview) -> bool:
        kept = bytes(data)
        return bool(self._ask("put", name, lambda: self.storage.put_if_absent(name, kept)))

    def get(self, name: str) -> bytes:
        return bytes(self._ask("get", name, lambda: self.storage.get(name)))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return bytes(self._ask("get", name, lambda: self.storage.get_range(name, offset, length)))

    def list_prefix(self, prefix: str) -> Iterator[str]:
        return iter(self._ask("list", prefix, lambda: list(self.storage.list_prefix(prefix))))

    def stat(self, name: str) -> ObjectStat:
        found: ObjectStat = self._ask("stat", name, lambda: self.storage.stat(name))
        return found

    def delete(self, name: str) -> None:
        self._ask("delete", name, lambda: self.storage.delete(name))


def clock_of_actor() -> int:
    """The clock of the machine that the calling actor runs on: the storage's, and as much wrong as the test says."""
    actor: Actor | None = getattr(threading.current_thread(), "actor", None)
    return actor.storage.now_ns + actor.clock_offset_ns if actor is not None else 0
