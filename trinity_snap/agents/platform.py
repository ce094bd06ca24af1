"""The pseudo-agent `platform`: paths of the host that the policy names."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

from trinity_snap.agents.model import PLATFORM_AGENT, Agent, NotCovered, Source


def platform_agent(paths: Sequence[Path]) -> Agent:
    """Make the pseudo-agent. A path that is missing, or neither file nor directory, is reported as not covered."""
    sources: list[Source] = []
    not_covered: list[NotCovered] = []
    for path in dict.fromkeys(paths):
        why = _why_not(path, [source.path for source in sources])
        if why:
            not_covered.append(NotCovered("path", str(path), why))
        else:
            sources.append(Source(str(path), "path", path, str(path)))
    return Agent(
        name=PLATFORM_AGENT,
        container_id=None,
        container_name="",
        state="running",
        sources=tuple(sources),
        not_covered=tuple(not_covered),
        rule=PLATFORM_AGENT,
    )


def _why_not(path: Path, earlier: Sequence[Path]) -> str:
    if not path.is_absolute():
        return "it is not an absolute path"
    for parent in path.parents:
        if parent in earlier:
            return f"it is already backed up as part of {parent}"
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        return "it is neither a directory nor a regular file"
    return ""
