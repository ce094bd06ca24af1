"""What holds for one agent, its overrides applied: plain values, for the rooms that carry a policy out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["none", "pause", "hooks", "stop"]

Paths = Literal["all", "declared"]

DEFAULT_BEFORE = "~/.trinity/pre-snapshot"
DEFAULT_AFTER = "~/.trinity/post-snapshot"


@dataclass(frozen=True)
class HookSettings:
    """The commands that a shell in the agent's container runs before and after the snapshot, and their time limit.

    The default commands are files that an agent may have or not have; any other command must be there.
    """

    before: str = DEFAULT_BEFORE
    after: str = DEFAULT_AFTER
    timeout_seconds: float = 30.0


@dataclass(frozen=True)
class QuiesceSettings:
    """How one agent holds still. `drain_seconds` is for how long to wait until it is idle; None: not at all."""

    mode: Mode = "pause"
    hooks: HookSettings = HookSettings()
    drain_seconds: float | None = None


@dataclass(frozen=True)
class AgentSettings:
    """What holds for one agent, its overrides applied."""

    exclude: tuple[str, ...]
    quiesce: QuiesceSettings = QuiesceSettings()
    paths: Paths = "all"
