"""Keeping the present state of an agent before it is rolled back, so that the rollback can be undone."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from trinity_snap.agents.model import Source
from trinity_snap.errors import SnapshotError
from trinity_snap.progress import Progress
from trinity_snap.quiesce.journal import Journal
from trinity_snap.quiesce.steps import step
from trinity_snap.rollback.plan import RollbackPlan, RollbackVolume
from trinity_snap.snapshot.local import LocalAgent, LocalSnapshot, can_keep, local_source, write_local
from trinity_snap.snapshot.protocol import Deadline, Prepare
from trinity_snap.snapshot.select import SnapshotPolicy, select_providers

__all__ = ["keep_present"]


def keep_present(plan: RollbackPlan, policy: SnapshotPolicy, progress: Progress) -> LocalSnapshot | None:
    """Snapshot what the plan replaces, whose users are stopped, and keep it. Return the local snapshot; None: there is nothing.

    Raise SnapshotError; then nothing of it stays.
    """
    sources = [_source(volume) for volume in plan.volumes if volume.exists]
    if not sources:
        return None
    run_id = os.urandom(16).hex()
    step("rollback.before-present")
    journal = Journal.start(plan.state_dir, run_id)
    try:
        return _keep(plan, run_id, sources, journal, policy, progress)
    finally:
        journal.end()


def _keep(
    plan: RollbackPlan,
    run_id: str,
    sources: Sequence[Source],
    journal: Journal,
    policy: SnapshotPolicy,
    progress: Progress,
) -> LocalSnapshot:
    providers = select_providers(sources, policy, plan.state_dir)
    unable = [provider for provider in providers if not can_keep(provider.name)]
    if unable:
        name = unable[0].sources[0].name
        raise SnapshotError(
            f"The provider “{unable[0].name}” of {name} cannot keep snapshots, so that a rollback could not be undone.",
            next_step="Set `snapshot: provider: auto`, or use `trinity-snap restore`, which keeps the previous data.",
        )
    try:
        for provider in providers:
            provider.prepare(Prepare(run_id, journal, progress))
        for provider in providers:
            provider.flush()
        created_ns = time.time_ns()
        for provider in providers:
            provider.snapshot(Deadline())
        step("rollback.present-made")
        kept = tuple(one for provider in providers for one in provider.keepable())
        covered = {(tree.kind, tree.name) for one in kept for tree in one.trees if not tree.at}
        missing = [source.name for source in sources if (source.kind, source.name) not in covered]
        if missing:
            raise SnapshotError(
                f"The present state of {', '.join(missing)} cannot be kept, so a rollback could not be undone."
            )
        agent = LocalAgent(plan.agent, "host-crash-consistent", tuple(map(local_source, sources)))
        local = LocalSnapshot(run_id, created_ns, (agent,), kept, before_rollback=plan.id)
        write_local(plan.state_dir, local)
        step("rollback.present-noted")
        for provider in providers:
            provider.keep()
        step("rollback.present-kept")
        return local
    finally:
        for provider in providers:
            provider.release()


def _source(volume: RollbackVolume) -> Source:
    then = volume.source
    assert volume.live is not None
    return Source(
        then.name,
        "path" if then.kind == "path" else "volume",
        Path(volume.live),
        then.destination,
        then.driver,
        then.labels,
        then.options,
    )
