"""How a fleet run is shown while it goes on, on standard error: a table on a terminal, and elsewhere one JSON line per event."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from trinity_snap.cli.output import safe, seconds
from trinity_snap.report.times import timestamp

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from trinity_snap.fleet import HostResult
    from trinity_snap.fleet.outcomes import Watcher

_ROWS = 15


@contextmanager
def watching(*, quiet: bool) -> Iterator[Watcher]:
    """Whoever is told. The table goes away in the end; what remains is the answer on the standard output."""
    if quiet:
        yield QuietWatcher()
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.live import Live

        table = TableWatcher(Console(stderr=True))
        with Live(table, console=table.console, transient=True, refresh_per_second=4):
            yield table
    else:
        yield LineWatcher()


class QuietWatcher:
    """Says nothing."""

    def begin(self, action: str, run_id: str, hosts: int) -> None:
        """Say nothing."""

    def host_started(self, host: str) -> None:
        """Say nothing."""

    def host_ended(self, result: HostResult) -> None:
        """Say nothing."""

    def note(self, sentence: str, hosts: Iterable[str] = ()) -> None:
        """Say nothing."""


class LineWatcher:
    """One JSON object in a line for every event, as docs/json.md has it."""

    def begin(self, action: str, run_id: str, hosts: int) -> None:
        """The run begins."""
        self._write("begin", action=action, run_id=run_id, hosts=hosts)

    def host_started(self, host: str) -> None:
        """A host is at work."""
        self._write("host-started", host=host)

    def host_ended(self, result: HostResult) -> None:
        """A line for every agent, and one for the host."""
        for agent in result.agents:
            kept = {key: agent[key] for key in ("agent", "outcome", "point", "consistency", "error") if key in agent}
            self._write("agent", host=result.host, **kept)
        self._write(
            "host-ended", host=result.host, outcome=result.outcome, message=result.message, exit_code=result.exit_code,
            duration_seconds=None if result.duration_seconds is None else round(result.duration_seconds, 3),
        )  # fmt: skip

    def note(self, sentence: str, hosts: Iterable[str] = ()) -> None:
        """The sentence."""
        self._write("note", message=sentence, hosts=sorted(hosts))

    def _write(self, event: str, **more: object) -> None:
        line = json.dumps({"time": timestamp(datetime.now(UTC)), "event": event, **more})
        with suppress(OSError):  # nobody reads it any more, and the work goes on
            sys.stderr.write(line + "\n")
            sys.stderr.flush()


class TableWatcher:
    """The hosts at work with their times, and what is through, agent by agent, above them."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._title = ""
        self._hosts = 0
        self._ended: dict[str, str] = {}
        self._working: dict[str, float] = {}

    def begin(self, action: str, run_id: str, hosts: int) -> None:
        """The run begins."""
        self._title, self._hosts = f"{action} {run_id[:8]}", hosts

    def host_started(self, host: str) -> None:
        """A host is at work."""
        self._working[host] = time.monotonic()

    def host_ended(self, result: HostResult) -> None:
        """Its agents and its outcome, above the table."""
        self._working.pop(result.host, None)
        self._ended[result.host] = result.outcome
        for agent in result.agents:
            words = [str(agent.get(key) or "") for key in ("agent", "outcome", "consistency", "error")]
            self._print("  ".join([result.host, *filter(None, words)]))
        took = "" if result.duration_seconds is None else f" in {seconds(result.duration_seconds)}"
        self._print(f"{result.host}: {result.outcome}{took}{f'. {result.message}' if result.message else ''}")

    def note(self, sentence: str, hosts: Iterable[str] = ()) -> None:
        """The sentence, above the table."""
        self._print(sentence)

    def _print(self, line: str) -> None:
        with suppress(OSError):
            self.console.print(safe(line), markup=False, highlight=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table as it is now, for the library."""
        from rich.text import Text

        if not self._title:
            yield Text("Reading the inventory")
            return
        working = sorted(self._working.items(), key=lambda item: item[1])
        counts = [
            f"{sum(one == name for one in self._ended.values())} {name}" for name in sorted(set(self._ended.values()))
        ]
        summary = ", ".join([f"{len(self._ended)} of {self._hosts} hosts through", *counts])
        yield Text(f"{self._title}: {summary}")
        for host, since in working[:_ROWS]:
            yield Text(f"  {safe(host)}  {seconds(time.monotonic() - since)}")
        if len(working) > _ROWS:
            yield Text(f"  and {len(working) - _ROWS} more")
