"""Mode `stop`: shutting agents down, and starting exactly those again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trinity_snap.quiesce.containers import PauseFailed, look, start_again, stop
from trinity_snap.quiesce.journal import Journal, StoppedContainer
from trinity_snap.quiesce.steps import step

if TYPE_CHECKING:
    from docker import DockerClient

_THREADS = 16
# What Docker takes besides, on a host with much to do.
_SLACK_SECONDS = 15.0
_KILL_SECONDS = 3.0
START_SECONDS = 30.0
_AGAIN_SECONDS = 0.1


@dataclass
class Stop:
    """One agent's container that is to shut down.

    `is_clean` says that it rests after a clean shutdown; if not, `failure` says why not, or it was like that
    before. `stopped_at` and `over_at` are monotonic seconds. `stuck` says why it could not be started again.
    """

    agent: str
    container: str
    name: str = ""
    started_at: str = ""
    asked: bool = False
    is_stopped: bool = False
    is_clean: bool = False
    failure: str = ""
    stopped_at: float = 0.0
    over_at: float = 0.0
    stuck: str = ""

    @property
    def seconds(self) -> float:
        """For how long it did not run because of this run."""
        return max(0.0, self.over_at - self.stopped_at) if self.is_stopped else 0.0


class Stops:
    """All containers of a run that are to shut down, side by side. What does not run is left as it is."""

    def __init__(self, client: DockerClient, journal: Journal, stops: Sequence[Stop], seconds: float) -> None:
        self.stops = stops
        self._client = client
        self._journal = journal
        self._seconds = seconds

    @property
    def longest_seconds(self) -> float:
        """How long stopping everything can take at most."""
        return -(-len(self.stops) // _THREADS) * (self._seconds + _SLACK_SECONDS)

    def stop(self, called_off: Callable[[], bool]) -> None:
        """Shut everything down. One for which that fails has its `failure` set, and runs on or was killed."""
        if not self.stops:
            return
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(self._look, self.stops))
            asked = [each for each in self.stops if each.asked]
            if asked:
                self._journal.stopping(
                    [StoppedContainer(each.container, each.started_at) for each in asked],
                    time.time() + self.longest_seconds - _SLACK_SECONDS + _KILL_SECONDS,
                )
                step("stop-noted")
                list(pool.map(lambda each: self._stop(each, called_off), asked))
                step("all-stopped")

    def start(self) -> None:
        """Start what was stopped. What cannot be started says why in `stuck`."""
        asked = [each for each in self.stops if each.asked]
        if asked:
            until = time.monotonic() + START_SECONDS
            with ThreadPoolExecutor(_THREADS) as pool:
                list(pool.map(lambda each: self._start(each, until), asked))
            step("all-started")

    def _look(self, each: Stop) -> None:
        try:
            found = look(self._client, each.container)
        except PauseFailed as error:
            each.failure = f"Docker does not say how it is: {error}"
            return
        if found is None or found.state == "paused":
            return
        each.name, each.started_at = found.name, found.started_at
        if found.state == "stopped":
            each.is_clean = not found.was_killed
        elif found.removes_itself:
            each.failure = "it is removed when it stops (`docker run --rm`), and was only paused"
        else:
            each.asked = True

    def _stop(self, each: Stop, called_off: Callable[[], bool]) -> None:
        if called_off():
            return
        each.stopped_at = time.monotonic()
        try:
            stop(self._client, each.container, self._seconds)
            found = look(self._client, each.container)
        except PauseFailed as error:
            each.failure = f"Docker did not stop it: {error}"
            return
        each.is_stopped = found is None or found.state == "stopped"
        if found is None:
            each.failure = "it was removed meanwhile"
        elif not each.is_stopped:
            each.failure = "somebody else started it again at once"
        elif found.was_killed:
            each.failure = f"it did not shut down within {self._seconds:g} s, or in another way had to be killed"
        else:
            each.is_clean = True
        step("first-stopped")

    def _start(self, each: Stop, until: float) -> None:
        while True:
            try:
                start_again(self._client, each.container, each.started_at)
            except PauseFailed as error:
                # One container may need another's network, which is started at the same time.
                if time.monotonic() < until:
                    time.sleep(_AGAIN_SECONDS)
                    continue
                each.stuck = str(error)
                return
            each.over_at = time.monotonic()
            self._journal.started_again(each.container, "run")
            step("first-started")
            return
