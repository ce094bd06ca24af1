"""What of a source a run takes: the policy's `exclude`, and where it says so only what the agent declares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from trinity_snap.snapshot.protocol import SourceKey, source_key
from trinity_snap.trinity.declared import Declared, left_out, read_declared
from trinity_snap.trinity.naming import DESTINATIONS

if TYPE_CHECKING:
    from trinity_snap.agents import Source
    from trinity_snap.policy.schema import Policy
    from trinity_snap.snapshot.view import SourceView

__all__ = ["Selections"]


class Selections:
    """The selections of one run. What an agent declares is looked up once, so that all passes agree."""

    def __init__(self, policy: Policy, note: Callable[[str], None]) -> None:
        self._policy = policy
        self._note = note
        self._declared: dict[SourceKey, Declared] = {}

    def exclude(self, agent: str, source: Source, view: SourceView) -> Sequence[str]:
        """What is left out of a source, as the engine takes it."""
        settings = self._policy.for_agent(agent)
        if settings.paths == "all" or source.kind != "volume" or source.destination != DESTINATIONS["workspace"]:
            return settings.exclude
        declared = self._declared.get(source_key(source))
        if declared is None:
            declared = self._declared[source_key(source)] = read_declared(view.open)
            if declared.why:
                self._note(f"{agent}: all of {source.name} is backed up, as {declared.why}.")
        return (*settings.exclude, left_out(declared.patterns)) if declared.patterns else settings.exclude

    def patterns(self, source: Source) -> tuple[str, ...]:
        """The patterns of what was taken, if that is not all of it."""
        return self._declared.get(source_key(source), Declared()).patterns
