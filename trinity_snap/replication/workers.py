"""Work shared out among threads that die with the process, so that one that hangs keeps nobody from ending."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["for_all"]

_Item = TypeVar("_Item")


def for_all(items: Sequence[_Item], work: Callable[[_Item], None], workers: int) -> None:
    """Call `work` for every item, so many at once. Raise the first thing that any raised; no more are begun then."""
    waiting = iter(items)
    lock = threading.Lock()
    failures: list[BaseException] = []

    def run() -> None:
        while True:
            with lock:
                if failures:
                    return
                try:
                    item = next(waiting)
                except StopIteration:
                    return
            try:
                work(item)
            except BaseException as error:  # handed to the thread that waits
                failures.append(error)
                return

    number = min(workers, len(items))
    threads = [threading.Thread(target=run, name=f"copy-{one}", daemon=True) for one in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
