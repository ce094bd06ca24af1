"""What most commands begin with: the policy, the repository opened, a check for root."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.errors import IntegrityError, TrinitySnapError, UsageError

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy
    from trinity_snap.repository.repository import Repository


@dataclass(frozen=True)
class Unlock:
    """How the operator opens the identity: another file than the policy's, and where its wrapping's key is."""

    identity: Path | None = None
    passphrase_file: Path | None = None
    trinity_key_file: Path | None = None


def load(path: Path | None) -> Policy:
    """The policy that is in force. Raise PolicyError."""
    from trinity_snap.policy.load import load_policy

    return load_policy(path)


def open_repository(policy: Policy, unlock: Unlock) -> Repository:
    """The repository of the policy, opened with an identity, and with the host key where there is one.

    Without any identity it is opened with the host key alone; what needs an identity then says so.
    """
    from trinity_snap.cli.secrets import open_identity
    from trinity_snap.repository.identity import load_host_key
    from trinity_snap.repository.repository import Repository
    from trinity_snap.targets import open_target

    path = unlock.identity or policy.keys.identity
    identity = None if path is None else open_identity(path, unlock.passphrase_file, unlock.trinity_key_file)
    host_key = policy.keys.host_key
    host = load_host_key(host_key) if identity is None or host_key.exists() else None
    return Repository.open(open_target(policy.target.settings()), host=host, identity=identity)


def is_damaged(repository: Repository) -> bool:
    """Whether a point that could not be read is damaged or forged, and not only sealed to somebody else."""
    for point_id, _ in repository.unreadable_points:
        try:
            repository.read_point(point_id)
        except IntegrityError:
            return True
        except TrinitySnapError:
            continue
    return False


def require_root(what: str) -> None:
    """Raise UsageError unless this process is root's."""
    if os.geteuid() != 0:
        raise UsageError(
            f"`trinity-snap {what}` needs root: it reads and writes the files of every agent.",
            untouched="Nothing was done.",
            next_step="Run it with sudo.",
        )
