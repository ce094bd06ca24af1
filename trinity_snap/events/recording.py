"""What a run says of itself when it ends, as an event: one method for each kind of run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from trinity_snap.errors import TrinitySnapError
from trinity_snap.report.times import timestamp

if TYPE_CHECKING:
    from trinity_snap.backup.result import RunResult
    from trinity_snap.replication import ReplicaResult

__all__ = ["Recording"]

_SENTENCE = 500


class Recording:
    """One run while it goes on. `what` is its kind: backup, restore, rollback, verify, drill, prune, replicate, repair, recover.

    `event` is what the journal gets; None as long as nobody said how the run ended.
    """

    def __init__(self, what: str, host: str) -> None:
        self.what = what
        self.host = host
        self.started = timestamp(datetime.now(UTC))
        self.event: dict[str, object] | None = None
        self._began = time.monotonic()

    def ended(self, outcome: str = "done", **besides: object) -> None:
        """It ended. `outcome`: `done`, `downgraded`, `some-failed`, `failed`, `interrupted`; `besides` is kept as it is."""
        self.event = {
            "time": timestamp(datetime.now(UTC)),
            "event": self.what,
            "host": self.host,
            "outcome": outcome,
            "started": self.started,
            "duration_seconds": round(time.monotonic() - self._began, 3),
            **besides,
        }

    def failed(self, error: BaseException) -> None:
        """It ended with an error."""
        known = isinstance(error, TrinitySnapError)
        sentence = str(error) if known else f"{type(error).__name__}: {error}"
        self.ended("failed", error=sentence[:_SENTENCE], kind=type(error).__name__, held=_left_quiesced(error))

    def interrupted(self) -> None:
        """Somebody stopped it."""
        self.ended("interrupted", error="It was interrupted.")

    def backup(self, result: RunResult, *, whole: bool) -> None:
        """A backup ended; `whole`: it was of all agents of the host."""
        error = result.error or {}
        self.ended(
            result.outcome,
            run_id=result.run_id,
            created=result.created,
            whole=whole and result.error is None,
            agents=[
                {
                    "agent": agent.agent,
                    "outcome": agent.outcome,
                    "point": agent.point,
                    "files": agent.files,
                    "bytes": agent.bytes,
                    "stored": agent.bytes_stored,
                    "pause": round(agent.pause_seconds, 6),
                    "seconds": agent.duration_seconds,
                    "consistency": agent.consistency,
                    "error": _short(agent.error),
                }
                for agent in result.agents
            ],
            error=_short(error.get("message")),
            kind=error.get("error"),
            held=error.get("exit_code") == 11,
            left_behind=len(result.left_behind),
            replicas=_replicas(result.replicas),
        )

    def drills(self, drills: Iterable[Mapping[str, object]]) -> None:
        """Drills ended; each as the repository keeps it."""
        kept = [dict(one) for one in drills]
        good = all(one.get("outcome") == "proved" for one in kept)
        self.ended("done" if good else "some-failed", drills=kept)

    def replicated(self, results: Iterable[ReplicaResult]) -> None:
        """A replication ended."""
        replicas = _replicas(results)
        good = all(one["outcome"] == "done" for one in replicas)
        self.ended("done" if good else "some-failed", replicas=replicas)


def _replicas(results: Iterable[ReplicaResult]) -> list[dict[str, object]]:
    return [{"replica": one.name, "outcome": one.outcome, "error": _short(one.error)} for one in results]


def _short(text: object) -> str | None:
    return None if text is None else str(text)[:_SENTENCE]


def _left_quiesced(error: BaseException) -> bool:
    return isinstance(error, TrinitySnapError) and error.exit_code == 11
