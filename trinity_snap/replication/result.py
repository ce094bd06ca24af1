"""What came of a replication, in the words and the JSON of `replicate --json` (docs/json.md)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

__all__ = ["Outcome", "ReplicaResult"]

Outcome = Literal["done", "incomplete", "behind", "busy", "failed"]


@dataclass
class ReplicaResult:
    """One replica's part.

    `outcome`: `done` (it has all that the first target has); `incomplete` (something there is damaged, `damaged` says what, and
    points that may need it were kept back); `behind` (the time was up; the next replication goes on); `busy` (another
    process is at it); `failed`. Counts are None where they are not known.
    """

    name: str
    url: str
    outcome: Outcome = "failed"
    points: int = 0
    objects: int = 0
    bytes: int = 0
    points_behind: int | None = None
    bytes_behind: int | None = None
    points_waiting: int = 0
    damaged: list[dict[str, str]] = field(default_factory=list)
    duration_seconds: float = 0.0
    error: str | None = None

    @property
    def good(self) -> bool:
        """Whether nothing went wrong; one that is only not yet there is good, too."""
        return self.outcome in ("done", "behind", "busy")

    def sentence(self) -> str:
        """What became of it, for people."""
        if self.outcome == "done":
            return f"Replica {self.name} is up to date."
        reason = f" {self.error}" if self.error else ""
        return {
            "busy": f"Replica {self.name}: another process replicates to it at the moment.",
            "behind": f"Replica {self.name} is not up to date yet.{reason}",
            "incomplete": f"Replica {self.name} does not have everything.{reason}",
            "failed": f"Replica {self.name} is not up to date: {self.error}",
        }[self.outcome]

    def to_json(self) -> dict[str, object]:
        """The JSON form."""
        return asdict(self)
