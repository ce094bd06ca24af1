"""What a change of the policy would cost: recovery points that `forget` would remove."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from trinity_snap.cli.output import plural
from trinity_snap.errors import PolicyError

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy

__all__ = ["points_going"]


def points_going(before: Policy, after: Policy) -> tuple[int | None, str]:
    """How many more points `forget` would remove, here or at a replica, and a sentence on them, empty if there are none.

    None if that cannot be known; the sentence says why.
    """
    from trinity_snap.cli.context import Unlock, open_repository
    from trinity_snap.errors import TrinitySnapError
    from trinity_snap.repository.forget import forget

    if _retentions(before) == _retentions(after):
        return 0, ""
    names = {replica.name for replica in before.replicas} & {replica.name for replica in after.replicas}
    try:
        repository = open_repository(before, Unlock())
        more: set[str] = set()
        for name in (None, *sorted(names)):  # a replica has the same points
            going = []
            for policy in (before, after):
                replica = None if name is None else policy.replica(name)
                rules = partial(policy.retention_for, replica=replica)
                try:
                    going.append(set(forget(repository, rules, dry_run=True).forgotten))
                except PolicyError:  # rules that keep nothing remove nothing
                    going.append(set())
            more |= going[1] - going[0]
    except (TrinitySnapError, OSError) as error:
        reason = error.message if isinstance(error, TrinitySnapError) else str(error)
        return (
            None,
            f"What `forget` keeps changes, and how many recovery points that concerns cannot be said here: {reason}",
        )
    if not more:
        return 0, ""
    stay = "stays" if len(more) == 1 else "stay"
    return len(more), f"The next `forget` would remove {plural(len(more), 'recovery point')} that {stay} as it is now."


def _retentions(policy: Policy) -> tuple[object, ...]:
    """All that decides which points `forget` leaves, here and at replicas."""
    agents = {name: override.retention for name, override in policy.overrides.items()}
    return policy.retention, agents, {replica.name: replica.retention for replica in policy.replicas}
