"""Keeping a run's snapshots on this host, for `trinity-snap rollback`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trinity_snap.errors import SnapshotError
from trinity_snap.quiesce.steps import step
from trinity_snap.snapshot.local import LocalAgent, LocalSnapshot, remove_local, write_local
from trinity_snap.snapshot.protocol import Provider

__all__ = ["keep_locally"]


def keep_locally(
    state_dir: Path, run_id: str, created_ns: int, agents: Sequence[LocalAgent], providers: Sequence[Provider]
) -> list[str]:
    """Keep the snapshots of these agents, as far as their providers can. Return the agents that have none, with the reason.

    An agent is in a local snapshot with everything that it owns, or not at all. Raise SnapshotError; then nothing is kept.
    """
    kept = [one for provider in providers for one in provider.keepable()]
    covered = {(tree.kind, tree.name) for one in kept for tree in one.trees if not tree.at}
    provider_of: dict[tuple[str, str], str] = {
        (source.kind, source.name): provider.name for provider in providers for source in provider.sources
    }
    left_out = []
    whole = []
    for agent in agents:
        missing = [source for source in agent.sources if (source.kind, source.name) not in covered]
        if missing:
            name = provider_of.get((missing[0].kind, missing[0].name), "?")
            left_out.append(f"{agent.name} (the provider “{name}” of {missing[0].name} cannot keep snapshots)")
        else:
            whole.append(agent)
    if not whole:
        return left_out
    snapshot = LocalSnapshot(run_id, created_ns, tuple(whole), tuple(kept))
    step("before-keep")
    write_local(state_dir, snapshot)
    step("keep-noted")
    try:
        for provider in providers:
            provider.keep()
    except (SnapshotError, OSError):
        remove_local(state_dir, snapshot)
        raise
    step("kept")
    return left_out
