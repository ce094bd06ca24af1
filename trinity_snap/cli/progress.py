"""Progress on the standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from trinity_snap.cli.output import safe, size
from trinity_snap.progress import NullProgress, Progress

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

_LINE_SECONDS = 10.0


@contextmanager
def watched(*, quiet: bool) -> Iterator[Progress]:
    """The progress to hand to long work: nobody watches if `quiet`."""
    if quiet:
        yield NullProgress()
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[amount]}", markup=False),
            TimeElapsedColumn(),
        )
        with RichProgress(*columns, console=Console(stderr=True), transient=True) as bar:
            yield BarProgress(bar)
    else:
        yield LineProgress()


class _Counting:
    """Counts the amount of the present stage."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._name = ""
        self._total: int | None = None
        self._done = 0

    def _begin(self, name: str, total: int | None) -> None:
        with self._lock:
            self._name, self._total, self._done = name, total, 0

    def _add(self, amount: int) -> None:
        with self._lock:
            self._done += amount

    def _amount(self) -> str:
        in_bytes = "(" not in self._name
        done = size(self._done) if in_bytes else str(self._done)
        if not self._total:
            return done
        total = size(self._total) if in_bytes else str(self._total)
        return f"{done} of {total} ({min(100, 100 * self._done // self._total)} %)"


class LineProgress(_Counting):
    """A line at the start of a stage, and every ten seconds while it goes on."""

    def __init__(self) -> None:
        super().__init__()
        self._next = time.monotonic() + _LINE_SECONDS

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage."""
        self._begin(name, total)
        self._next = time.monotonic() + _LINE_SECONDS
        self._write(name)

    def advance(self, amount: int, what: str = "") -> None:
        """Count, and say so if the last line is old."""
        self._add(amount)
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _LINE_SECONDS
            self._write(f"{self._name}: {self._amount()}{f', {what}' if what else ''}")

    def note(self, message: str) -> None:
        """Print the sentence."""
        self._write(message)

    def _write(self, line: str) -> None:
        with suppress(OSError):  # nobody reads it any more (a terminal that went away), and the work goes on
            sys.stderr.write(safe(line) + "\n")
            sys.stderr.flush()


class BarProgress(_Counting):
    """A bar for the present stage."""

    def __init__(self, bar: RichProgress) -> None:
        super().__init__()
        self._bar = bar
        self._task = bar.add_task("", total=None, amount="")

    def stage(self, name: str, total: int | None = None) -> None:
        """Begin a stage with an empty bar."""
        self._begin(name, total)
        self._bar.reset(self._task, description=safe(name), total=total, amount="")

    def advance(self, amount: int, what: str = "") -> None:
        """Move the bar."""
        self._add(amount)
        self._bar.update(self._task, advance=amount, amount=self._amount())

    def note(self, message: str) -> None:
        """Print the sentence above the bar."""
        with suppress(OSError):
            self._bar.console.print(safe(message), markup=False, highlight=False)
