"""What most commands begin with: the policy, the repository opened, a check for root."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.errors import IdentityNeeded, IntegrityError, TrinitySnapError, UsageError

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy
    from trinity_snap.repository.keys import Identity
    from trinity_snap.repository.repository import Repository
    from trinity_snap.repository.trust import Trust
    from trinity_snap.targets.settings import TargetSettings


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


def open_repository(policy: Policy, unlock: Unlock, replica: str | None = None) -> Repository:
    """The repository of the policy, opened with an identity, and with the host key where there is one.

    `replica` is the name of the one to read from, instead of the first target. Raise IdentityNeeded on a host that has none,
    with what can be done instead.
    """
    from trinity_snap.repository.identity import has_host_key, load_host_key
    from trinity_snap.repository.repository import Repository
    from trinity_snap.targets import open_target

    identity = find_identity(policy, unlock)
    if identity is None:
        raise identity_needed(policy)
    host_key = policy.keys.host_key
    host = load_host_key(host_key) if has_host_key(host_key) else None
    target = open_target(_place(policy, replica))
    return Repository.open(target, host=host, identity=identity, trust=trust_of(policy) if replica is None else None)


def find_identity(policy: Policy, unlock: Unlock) -> Identity | None:
    """The identity that the operator named, else the one of the policy's command, else that of its file; None without."""
    from trinity_snap.cli.secrets import identity_from, open_identity

    if unlock.identity is None and policy.keys.identity_command:
        place = Path.cwd() if policy.path is None else policy.path.parent
        return identity_from(policy.keys.identity_command, place, unlock.passphrase_file, unlock.trinity_key_file)
    path = unlock.identity or policy.keys.identity
    return None if path is None else open_identity(path, unlock.passphrase_file, unlock.trinity_key_file)


def open_keyless(policy: Policy, replica: str | None = None) -> Repository:
    """The repository of the policy, opened with the host key alone: what a host without an identity can do."""
    from trinity_snap.repository.identity import load_host_key
    from trinity_snap.repository.repository import Repository
    from trinity_snap.targets import open_target

    host = load_host_key(policy.keys.host_key)
    target = open_target(_place(policy, replica))
    return Repository.open(target, host=host, trust=trust_of(policy) if replica is None else None)


def _place(policy: Policy, replica: str | None) -> TargetSettings:
    """Where to read. A replica may have an older list of recipients than this host saw, and no run seals to it."""
    return (policy.target if replica is None else policy.replica(replica)).settings()


def open_somehow(policy: Policy, unlock: Unlock) -> Repository:
    """The repository, opened with the host key where there is one; else, as on a control node, with an identity."""
    from trinity_snap.repository.identity import has_host_key

    if unlock.identity is None and has_host_key(policy.keys.host_key):
        return open_keyless(policy)
    return open_repository(policy, unlock)


def trust_of(policy: Policy) -> Trust:
    """Which lists of recipients are believed here."""
    from trinity_snap.repository.trust import Trust

    return Trust(policy.keys.pins, policy.state.directory)


def identity_needed(policy: Policy) -> IdentityNeeded:
    """The error for what only an identity can do, on a host that has none: it says who has one."""
    who = ""
    if policy.keys.pins is not None and policy.keys.pins.exists():
        from trinity_snap.repository.pins import load_pins, named

        who = f" Those of {named(load_pins(policy.keys.pins).recipients)} do."
    return IdentityNeeded(
        f"Only an identity opens recovery points, and this host has none.{who}",
        untouched="Nothing was changed.",
        next_step=(
            "Do this where an identity is, with a policy that names it and the same target, or give one with --identity. "
            "docs/operations.md, “Sealed hosts”, has the ways to restore onto this host."
        ),
    )


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
