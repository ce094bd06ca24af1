"""Replication as a policy says it: every replica in a thread of its own, so that one that is down delays only itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from trinity_snap.errors import TrinitySnapError
from trinity_snap.progress import NullProgress, Progress
from trinity_snap.replication.copying import Copied, Needs, bring_up_to_date
from trinity_snap.replication.places import open_replica
from trinity_snap.replication.result import Outcome, ReplicaResult
from trinity_snap.replication.state import exclusively, read_state, write_state
from trinity_snap.report.times import timestamp
from trinity_snap.targets import open_target

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy, ReplicaSection

__all__ = ["STALL_SECONDS", "replicate"]

STALL_SECONDS = 900.0
"""A replica at which nothing moves for so long is given up. Requests to a store are tried again for some ten minutes."""

_LARGEST_PACK_BYTES = 64 << 20
_GRACE_SECONDS = 60.0


class _TimeIsUp(Exception):
    """The time limit was reached, or the replica was given up."""


def replicate(
    policy: Policy,
    names: Sequence[str] = (),
    progress: Progress | None = None,
    *,
    needs: Needs | None = None,
    despite_damage: bool = False,
    anew: bool = False,
    limited: bool = False,
    made: tuple[int, int] = (0, 0),
    stall_seconds: float = STALL_SECONDS,
) -> list[ReplicaResult]:
    """Bring the replicas of those names, or all, up to date, and return what came of each, in the order of the policy.

    `needs` and `despite_damage` are as for `bring_up_to_date`. `anew`: a replica that is empty although it was not may be
    begun anew. `limited`: the policy's time limits hold. `made`: how many points, of how many bytes, a run has just
    added to the first target, for what is said of a replica that is down. Raise UsageError for a name that is not known.
    """
    chosen = [policy.replica(name).name for name in names] or [replica.name for replica in policy.replicas]
    tasks = [
        _Task(policy, replica, progress or NullProgress(), needs, despite_damage, anew)
        for replica in policy.replicas
        if replica.name in chosen
    ]
    if tasks and progress is not None:
        progress.stage(f"replicating to {', '.join(task.replica.name for task in tasks)}")
    for task in tasks:
        task.thread.start()
    for task in tasks:
        task.wait(task.replica.time_limit_seconds if limited else None, stall_seconds)
    return [task.settle(made) for task in tasks]


class _Task:
    """One replica. The thread changes `result`, and nothing more once it was given up."""

    def __init__(
        self,
        policy: Policy,
        replica: ReplicaSection,
        progress: Progress,
        needs: Needs | None,
        despite_damage: bool,
        anew: bool,
    ) -> None:
        self.replica = replica
        self.thread = threading.Thread(target=self._run, name=f"replicate-{replica.name}", daemon=True)
        self._policy = policy
        self._progress = progress
        self._needs = needs
        self._despite_damage = despite_damage
        self._result = ReplicaResult(replica.name, replica.settings().url)
        self._copied = Copied()
        self._state = read_state(policy.state.directory, replica.name, self._result.url)
        self._may_be_new = anew or not self._state.begun
        self._began = datetime.now(UTC)
        self._started = self._moved = time.monotonic()
        self._stop = threading.Event()
        self._hangs = False
        self._failure: BaseException | None = None

    # -- in the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with exclusively(self._policy.state.directory, self.replica.name) as alone:
                self._result.outcome = self._bring() if alone else "busy"
        except _TimeIsUp:
            self._result.outcome = "behind"
            self._result.error = (
                f"The time limit of {self.replica.time_limit} was reached; the next replication goes on."
            )
        except (TrinitySnapError, OSError) as error:
            self._result.error = str(error)
        except BaseException as error:  # handed to the thread that waits
            self._failure = error

    def _bring(self) -> Outcome:
        target = open_replica(self._policy, self.replica)
        bring_up_to_date(
            open_target(self._policy.target.settings()),
            target,
            self._copied,
            self,
            needs=self._needs,
            despite_damage=self._despite_damage,
            may_be_new=self._may_be_new,
            look=self._look,
        )
        if not self._copied.damaged and not self._copied.points_waiting:
            return "done"
        self._result.error = _incomplete(self._copied, self._policy.target.url)
        return "incomplete"

    def _look(self) -> None:
        self._moved = time.monotonic()
        if self._stop.is_set():
            raise _TimeIsUp

    def stage(self, name: str, total: int | None = None) -> None:
        """All replicas share one stage."""

    def advance(self, amount: int, what: str = "") -> None:
        """Something moved."""
        self._moved = time.monotonic()
        if not self._hangs:
            self._progress.advance(amount, self.replica.name)

    def note(self, message: str) -> None:
        """Hand the sentence on."""
        self._progress.note(message)

    # -- outside ----------------------------------------------------------------------------------------------------

    def wait(self, limit_seconds: float | None, stall_seconds: float) -> None:
        """Return when the thread has ended, or is given up."""
        rate = self.replica.bandwidth_bytes
        stall = max(stall_seconds, 0 if rate is None else 4 * _LARGEST_PACK_BYTES / rate)
        while True:
            self.thread.join(0.2)
            now = time.monotonic()
            if not self.thread.is_alive():
                return
            over = None if limit_seconds is None else now - self._started - limit_seconds
            if over is not None and over > 0:
                self._stop.set()
            if now - self._moved > stall or (over is not None and over > _GRACE_SECONDS):
                self._stop.set()
                self._hangs = True
                return

    def settle(self, made: tuple[int, int]) -> ReplicaResult:
        """The result as it stands, which is remembered. Raise what no program expects."""
        if self._failure is not None:
            raise self._failure
        copied = self._copied
        result = replace(
            self._result,
            points=copied.points,
            objects=copied.objects,
            bytes=copied.bytes,
            points_behind=copied.points_behind,
            bytes_behind=copied.bytes_behind,
            points_waiting=copied.points_waiting,
            damaged=[{"name": name, "reason": reason} for name, reason in sorted(copied.damaged.items())],
            duration_seconds=round(time.monotonic() - self._started, 3),
        )
        if self._hangs:
            result.outcome = "failed"
            result.error = f"{result.url} does not answer; it was left alone."
        if result.outcome != "busy":
            self._remember(result, made)
        return result

    def _remember(self, result: ReplicaResult, made: tuple[int, int]) -> None:
        before, now = self._state, timestamp(self._began)
        if result.outcome == "done":
            result.points_behind = result.bytes_behind = 0
        else:
            if result.points_behind is None:
                result.points_behind = (before.points_behind or 0) + made[0]
            if result.bytes_behind is None:
                result.bytes_behind = (before.bytes_behind or 0) + made[1]
        state = replace(
            before,
            last_attempt=now,
            outcome=result.outcome,
            error=result.error,
            points_behind=result.points_behind,
            bytes_behind=result.bytes_behind,
            behind_since=before.behind_since or now,
        )
        if self._copied.points_behind is not None:
            state = replace(state, begun=True)
        if result.outcome == "done":
            state = replace(state, last_success=now, behind_since=None)
        try:
            write_state(self._policy.state.directory, self.replica.name, state)
        except OSError as error:
            self._progress.note(f"What came of the replication to {self.replica.name} could not be kept: {error}.")


def _incomplete(copied: Copied, url: str) -> str:
    """What an operator has to know of damage at the first target."""
    names = sorted(copied.damaged)
    sentence = f"{len(names)} objects at {url} are damaged and were not copied: {', '.join(names[:3])}" if names else ""
    sentence += " and more." if len(names) > 3 else "." if names else ""
    if copied.points_waiting:
        sentence += (
            f" {copied.points_waiting} new recovery points are kept back, because they may need what is damaged or missing. "
            "`trinity-snap replicate --identity FILE` finds out which really do; with --despite-damage all are copied."
        )
    return f"{sentence} Run `trinity-snap verify --read-data`.".strip()
