"""Which lists of recipients a host believes: those that its pins allow, and none older than one that it has seen."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trinity_snap.durable import make_directory_durably, write_file_durably
from trinity_snap.errors import KeyFileError, RecipientsMismatch
from trinity_snap.repository.keys import Recipient
from trinity_snap.repository.pins import Pins, load_pins, save_pins
from trinity_snap.repository.recipients import RecipientList

__all__ = ["Trust"]


@dataclass(frozen=True)
class Trust:
    """`pins` is the file of the pins, None if there are none; in `state` the host remembers what it has seen."""

    pins: Path | None
    state: Path

    def load(self) -> Pins | None:
        """The pins, None if this host has none. Raise KeyFileError if they are missing or damaged."""
        return None if self.pins is None else load_pins(self.pins)

    def check(self, listed: RecipientList, repository_id: bytes) -> None:
        """Believe a list and remember its generation, or raise RecipientsMismatch. Raise KeyFileError or OSError.

        Where this process may not write, as on a control node without root, nothing is remembered.
        """
        seen = self.seen(repository_id)
        if listed.generation < seen:
            raise RecipientsMismatch(
                f"The repository's list of recipients is of generation {listed.generation}, and this host has seen "
                f"generation {seen}: the storage hides or has lost a later list, or is an older copy.",
                untouched="Nothing was sealed and nothing was written.",
                next_step=(
                    "If you put an older copy of the repository there, look at `trinity-snap key list` and run "
                    "`trinity-snap key accept`. If you did not, do not trust the storage."
                ),
            )
        pins = self.load()
        if pins is not None:
            pins.check(listed.recipients)
        if listed.generation > seen:
            with suppress(PermissionError):
                self.accept(listed, repository_id)

    def seen(self, repository_id: bytes) -> int:
        """The largest generation that this host has seen; -1 if it remembers none."""
        try:
            generation = json.loads(self._memory(repository_id).read_bytes())["generation"]
        except (OSError, ValueError, LookupError, TypeError):
            return -1
        return generation if isinstance(generation, int) and not isinstance(generation, bool) else -1

    def accept(self, listed: RecipientList, repository_id: bytes) -> None:
        """Remember this list as the latest, even if it is older than one that was seen. Raise RecipientsMismatch, OSError."""
        pins = self.load()
        if pins is not None:
            pins.check(listed.recipients)
        path = self._memory(repository_id)
        make_directory_durably(path.parent)
        write_file_durably(path, json.dumps({"generation": listed.generation}).encode() + b"\n")

    def widen(self, recipients: Iterable[Recipient]) -> None:
        """Allow a list of just these besides the present one, before the repository gets it. Raise KeyFileError."""
        pins = self.load()
        if pins is not None and self.pins is not None:
            save_pins(self.pins, Pins(pins.recipients, tuple(dict.fromkeys(recipients))))

    def settle(self, listed: RecipientList, repository_id: bytes) -> None:
        """Pin what the repository has now, after a change from here. Raise RecipientsMismatch if the pins forbid it."""
        self.check(listed, repository_id)
        if self.pins is not None:
            save_pins(self.pins, Pins(listed.recipients))

    def pin(self, pins: Pins) -> None:
        """Pin these. Raise KeyFileError, also if the policy has no place for pins."""
        if self.pins is None:
            raise KeyFileError(
                "The policy has no place for pins.",
                untouched="Nothing was changed.",
                next_step="Write `pins: recipients.pins` under `keys:` in it, then run this again.",
            )
        save_pins(self.pins, pins)

    def _memory(self, repository_id: bytes) -> Path:
        return self.state / "recipients" / f"{repository_id.hex()}.json"
