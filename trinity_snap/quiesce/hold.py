"""Pausing many containers at once, and resuming exactly those that were paused."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trinity_snap.agents.model import HeldContainer
from trinity_snap.quiesce.containers import PauseFailed, pause, resume
from trinity_snap.quiesce.events import Event, held_seconds
from trinity_snap.quiesce.journal import Journal
from trinity_snap.quiesce.steps import step

if TYPE_CHECKING:
    from docker import DockerClient

_THREADS = 16
_RETRY_SECONDS = 5.0
_AGAIN_SECONDS = 0.01


@dataclass
class Grip:
    """One container of a hold: when its pause was asked for, and when it was surely over (monotonic seconds)."""

    container: HeldContainer
    asked_at: float | None = None
    over_at: float | None = None
    paused: bool = False
    disturbed: bool = False
    failure: str = ""

    @property
    def longest_seconds(self) -> float:
        """The longest that the container can have been held."""
        return self.over_at - self.asked_at if self.asked_at is not None and self.over_at is not None else 0.0


class Hold:
    """All containers of one run that are to hold still.

    `pause` and `resume` work in parallel. What is paused already, stopped or gone when its turn comes is
    left as it is. `resume` may be called while `pause` still waits for Docker: what gets paused late is
    resumed at once.
    """

    def __init__(self, client: DockerClient, containers: Sequence[HeldContainer], journal: Journal) -> None:
        self.grips = [Grip(container) for container in containers]
        self._client = client
        self._journal = journal
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(max(1, min(_THREADS, len(containers))))
        self._pausing: list[Future[None]] = []

    def begin_pausing(self, until: float) -> None:
        """Start to pause everything; what Docker fails to pause is tried again until then (monotonic seconds)."""
        self._pausing = [self._pool.submit(self._pause, grip, until) for grip in self.grips]

    def wait_until_paused(self, until: float) -> bool:
        """Wait until everything is paused, or has failed; False if it is not by then (monotonic seconds)."""
        return not wait(self._pausing, max(0.0, until - time.monotonic())).not_done

    def resume(self) -> None:
        """Resume everything that this hold paused. What cannot be resumed has its `failure` set and stays `paused`."""
        self._over.set()
        if not self._pausing:
            for grip in self.grips:
                self._journal.resumed(grip.container.id, "run")
        # In the order of pausing, so that nobody is held for much longer than the others.
        order = sorted((grip for grip in self.grips if grip.paused), key=lambda grip: grip.asked_at or 0.0)
        with ThreadPoolExecutor(max(1, min(_THREADS, len(order)))) as pool:
            list(pool.map(self._resume, order))
        wait(self._pausing)
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(self._resume, [grip for grip in self.grips if grip.paused]))
        self._pool.shutdown()

    def held_seconds(self, events: Sequence[Event]) -> dict[str, float]:
        """How long each container (id) that was asked to pause was held: by Docker's account, at most the longest."""
        longest = {grip.container.id: grip.longest_seconds for grip in self.grips if grip.asked_at is not None}
        told = held_seconds(events, longest)
        return {container: min(max(0.0, told.get(container, most)), most) for container, most in longest.items()}

    def _pause(self, grip: Grip, until: float) -> None:
        answer = ""
        has_failed = False
        while not answer and not self._over.is_set():
            grip.asked_at = time.monotonic()
            try:
                answer = pause(self._client, grip.container.id)
                if answer == "already paused" and has_failed:
                    answer = "paused"  # by the try before, of which Docker said that it had failed
                grip.failure = ""
            except PauseFailed as error:
                # runc gives up on a container whose processes wait for a busy disk, and lets it run on.
                grip.failure = str(error)
                has_failed = True
                if time.monotonic() > until:
                    break
                time.sleep(_AGAIN_SECONDS)
        if answer == "paused" or grip.failure:
            # After a failure it may yet get paused: it is resumed with the others.
            grip.paused = True
            if answer:
                step("first-paused")
            if self._over.is_set():
                self._resume(grip)
        else:
            grip.over_at = time.monotonic()
            self._journal.resumed(grip.container.id, "run")

    def _resume(self, grip: Grip) -> None:
        until = time.monotonic() + _RETRY_SECONDS
        failed_to_pause = bool(grip.failure)
        while grip.paused:
            try:
                answer = resume(self._client, grip.container.id)
            except PauseFailed as error:
                if time.monotonic() > until:
                    grip.failure = str(error)
                    return
                time.sleep(0.05)
                continue
            grip.paused = False
            grip.over_at = time.monotonic()
            grip.disturbed = answer != "resumed" and not failed_to_pause
            self._journal.resumed(grip.container.id, "run")
            step("first-resumed")
