"""How long work tells the outside what it is doing; the command line decides what becomes of it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives progress. Every method may be called from any thread."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A new stage begins; `total` is its expected amount (bytes unless `name` says otherwise), if known."""

    def advance(self, amount: int, what: str = "") -> None:
        """`amount` more of the stage is done; `what` names the thing being worked on."""

    def note(self, message: str) -> None:
        """A sentence that the operator should see and that is no error."""


class NullProgress:
    """Progress that nobody watches."""

    def stage(self, name: str, total: int | None = None) -> None:
        """Ignore the stage."""

    def advance(self, amount: int, what: str = "") -> None:
        """Ignore the advance."""

    def note(self, message: str) -> None:
        """Ignore the note."""
