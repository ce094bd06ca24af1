"""What to protect, how agents hold still, and where to: the policy of one host.

`load_policy` is the way in. Importing this package is quick; the schema comes with the first
policy that is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trinity_snap.policy.load import DEFAULT_PATH, load_policy, policy_path

if TYPE_CHECKING:
    from trinity_snap.policy.schema import AgentSettings, Policy

__all__ = ["DEFAULT_PATH", "AgentSettings", "Policy", "load_policy", "policy_path"]


def __getattr__(name: str) -> object:
    if name in ("AgentSettings", "Policy"):
        from trinity_snap.policy import schema

        return getattr(schema, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
