"""After a run: what it stored at the first target goes to the replicas, with the agents and the host long since let go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trinity_snap.progress import NullProgress, Progress
from trinity_snap.quiesce.steps import step

if TYPE_CHECKING:
    from trinity_snap.backup.result import RunResult
    from trinity_snap.policy.schema import Policy

__all__ = ["replicate_after"]


def replicate_after(policy: Policy, result: RunResult, progress: Progress | None) -> None:
    """Bring the replicas up to date that the policy wants after every run, and add what came of it to `result`.

    Nothing that goes wrong here changes what became of the agents. Raise nothing that replication can expect.
    """
    from trinity_snap.replication.run import replicate

    names = [replica.name for replica in policy.replicas if replica.after_backup]
    if not names or (result.error is not None and result.outcome == "failed"):
        return
    step("before-replication")
    made = [agent for agent in result.agents if agent.point is not None]
    stored = sum(agent.bytes_stored for agent in made)
    result.replicas = replicate(policy, names, progress, limited=True, made=(len(made), stored))
    for replica in result.replicas:
        if replica.outcome != "done":
            (progress or NullProgress()).note(replica.sentence())
