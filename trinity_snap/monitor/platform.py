"""What is wrong with the host's own data, the pseudo-agent `platform`, that can be seen at any moment: paths and dumps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from trinity_snap.agents.model import PLATFORM_AGENT
from trinity_snap.monitor.conditions import Condition
from trinity_snap.trinity.platform import stale_dumps

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy

__all__ = ["of_platform"]


def of_platform(policy: Policy, now: datetime) -> Iterator[Condition]:
    """Paths that the policy names and that are not there, and Trinity's own dumps that are too old."""
    paths = policy.platform.paths
    missing = [str(path) for path in paths if not os.path.lexists(path)]
    if missing:
        yield Condition(
            "missing", PLATFORM_AGENT, "critical",
            f"{' and '.join(missing)} of `platform.paths` {'is' if len(missing) == 1 else 'are'} not there, and so in no backup.",
            "Mount what it is on, restore it (`trinity-snap restore platform`), or mend the policy.",
        )  # fmt: skip
    dumps = stale_dumps(paths, now)
    if dumps:
        yield Condition(
            "dumps",
            PLATFORM_AGENT,
            "warning",
            " ".join(dumps),
            "See in the log of Trinity's backend why it makes none.",
        )
