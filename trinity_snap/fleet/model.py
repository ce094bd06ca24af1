"""What became of a fleet run: one outcome per host, and what that makes of the whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from trinity_snap.errors import GuaranteeNotMet, LeftQuiesced, SomeFailed

Outcome = Literal["done", "failed", "unreachable", "unknown", "not-started"]
OUTCOMES: tuple[Outcome, ...] = ("done", "failed", "unreachable", "unknown", "not-started")


@dataclass
class HostResult:
    """One host.

    `done` and `failed` are what the host itself said. `unreachable`: nothing was begun there, because no connection could be
    made. `unknown`: something was begun, and the connection or Ansible ended before the host answered. `not-started`: it was
    not its turn.
    `answer` is the JSON of the command on the host. `recovery` says what was done about a host that was `unknown` or where
    something was left quiesced, and `recovered` whether that worked.
    """

    host: str
    outcome: Outcome = "not-started"
    message: str | None = None
    changed: bool = False
    exit_code: int | None = None
    duration_seconds: float | None = None
    recovery: str | None = None
    recovered: bool = False
    answer: dict[str, object] = field(default_factory=dict)

    @property
    def agents(self) -> list[dict[str, object]]:
        """The agents in the host's answer, if there are any; of a drill, its drills."""
        found = self.answer.get("agents", self.answer.get("drills"))
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

    @property
    def left_quiesced(self) -> bool:
        """Whether the host itself said that something was left quiesced."""
        return self.exit_code == LeftQuiesced.exit_code

    def to_json(self) -> dict[str, object]:
        """The host as `--json` has it."""
        return {
            "host": self.host,
            "outcome": self.outcome,
            "message": self.message,
            "changed": self.changed,
            "exit_code": self.exit_code,
            "duration_seconds": None if self.duration_seconds is None else round(self.duration_seconds, 3),
            "recovery": self.recovery,
            "recovered": self.recovered,
            "answer": self.answer,
        }


@dataclass
class FleetResult:
    """A whole fleet run. `stopped` is the sentence on why hosts are left that were not begun, `signal` what interrupted it."""

    action: str
    run_id: str
    started: str
    hosts: list[HostResult] = field(default_factory=list)
    duration_seconds: float = 0.0
    stopped: str | None = None
    signal: int | None = None

    def count(self, outcome: Outcome) -> int:
        """How many hosts ended so."""
        return sum(host.outcome == outcome for host in self.hosts)

    @property
    def outcome(self) -> str:
        """`done`, `some-failed`, `failed` (no host is done), `stopped` (the threshold was passed), or `interrupted`."""
        if self.signal is not None:
            return "interrupted"
        if self.stopped is not None:
            return "stopped"
        if all(host.outcome == "done" for host in self.hosts):
            return "done"
        return "some-failed" if self.count("done") else "failed"

    def exit_code(self) -> int:
        """The exit code of the command. That something was left quiesced outweighs everything else."""
        codes = {host.exit_code for host in self.hosts if host.outcome != "done"}
        if any(host.left_quiesced and not host.recovered for host in self.hosts):
            return LeftQuiesced.exit_code
        if self.signal is not None:
            return 128 + self.signal
        if self.outcome == "done":
            return 0
        if codes == {GuaranteeNotMet.exit_code}:
            return GuaranteeNotMet.exit_code
        return SomeFailed.exit_code if self.count("done") else 1

    def to_json(self) -> dict[str, object]:
        """The run as `--json` has it."""
        return {
            "action": self.action,
            "run_id": self.run_id,
            "started": self.started,
            "outcome": self.outcome,
            "duration_seconds": round(self.duration_seconds, 3),
            "counts": {outcome: self.count(outcome) for outcome in OUTCOMES},
            "stopped": self.stopped,
            "hosts": [host.to_json() for host in self.hosts],
        }
