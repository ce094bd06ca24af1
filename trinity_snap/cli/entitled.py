"""Asking, before something is done, whether the Trinity that the policy names includes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy, ReplicaSection
    from trinity_snap.repository.retention import RetentionRules

__all__ = ["require_at", "require_fleet_restore", "require_for_init", "rules_of"]


def require_at(policy: Policy, target: str | None, names: Sequence[str]) -> None:
    """For removing: at the first target and these replicas, or at the one replica `target`. Raise NotEntitled."""
    from trinity_snap.trinity.entitlements import require, uses_of_places

    replicas = [policy.replica(name).url for name in ([target] if target else names)]
    require(policy, uses_of_places(replicas if target else [policy.target.url, *replicas]))


def rules_of(
    policy: Policy, section: ReplicaSection | None = None, *, dry_run: bool
) -> Callable[[str], RetentionRules]:
    """The policy's rules by agent, which raise NotEntitled where they may only be looked at; points by name need none."""

    def rules(agent: str) -> RetentionRules:
        if not dry_run:
            from trinity_snap.trinity.entitlements import Use, require

            require(policy, [Use.RETENTION])
        return policy.retention_for(agent, section)

    return rules


def require_for_init(path: Path, target: str | None) -> None:
    """For a new repository: by the policy that is there already, if one is. Raise NotEntitled, PolicyError."""
    from trinity_snap.policy.load import load_policy
    from trinity_snap.trinity.entitlements import require, uses_of_places

    if path.exists():
        policy = load_policy(path)
        require(policy, uses_of_places([target or policy.target.url]))


def require_fleet_restore() -> None:
    """For restoring a fleet: by the policy of this machine, the control node, if it has one. Raise NotEntitled, PolicyError."""
    from trinity_snap.policy.load import load_policy, policy_path
    from trinity_snap.trinity.entitlements import Use, require

    if policy_path().exists():
        require(load_policy(), [Use.FLEET_RESTORE])
