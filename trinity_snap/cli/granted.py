"""Reading a restore grant from the standard input, and finding what it is for on this host."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.cli.secrets import forbid_core_dumps
from trinity_snap.errors import GrantError, GrantExpired, TargetDenied, UsageError

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy
    from trinity_snap.repository.grants import Grant, GrantedRepository
    from trinity_snap.targets.protocol import Target
    from trinity_snap.targets.settings import TargetSettings

__all__ = ["check_wishes", "load_or_default", "open_grant", "read_grant", "saying_what_expired"]

_SKEW_SECONDS = 300
_AGAIN = "Make a new grant, with a longer --valid if the time was too short, and restore again: it begins anew."


def read_grant(where: str) -> Grant:
    """The grant on the standard input. Raise UsageError for another place, GrantError, GrantExpired."""
    from trinity_snap.repository.grantform import MAX_GRANT_BYTES, decode_grant

    if where != "-":
        raise UsageError(
            "A grant holds keys, and is read from the standard input only: write `--grant -`.",
            untouched="Nothing was changed.",
            next_step="trinity-snap grant … | ssh root@HOST trinity-snap restore --grant - --yes",
        )
    if sys.stdin.isatty():
        raise UsageError("`--grant -` reads what `trinity-snap grant` writes, through a pipe, and not a terminal.")
    forbid_core_dumps()
    grant = decode_grant(sys.stdin.buffer.read(MAX_GRANT_BYTES + 1))
    now = time.time()
    if now > grant.expires + _SKEW_SECONDS:
        raise GrantExpired(
            f"The grant expired at {_time(grant.expires)}; by this host's clock it is {_time(now)}.",
            untouched="Nothing was changed.",
            next_step="Make a new grant. If this host's clock is wrong, set it.",
        )
    return grant


def check_wishes(
    grant: Grant, agent: str | None, point: str | None, paths: Sequence[str], *, containers: bool
) -> list[str]:
    """The paths to restore: those asked for, else those of the grant. Raise GrantError if it is for something else."""
    of = f"The grant is for recovery point {grant.point.id[:8]} of {grant.point.agent}"
    if agent is not None and agent != grant.point.agent:
        raise _other(f"{of}, not for agent {agent!r:.60}.")
    if point not in (None, "latest") and not grant.point.id.startswith(str(point).lower()):
        raise _other(f"{of}, not for point {point!r:.40}.")
    if not grant.paths:
        return list(paths)
    if containers:
        raise _other(f"{of}, and one for paths has no definition of the container.")
    beyond = [path for path in paths if path not in grant.paths]
    if beyond:
        raise _other(f"{of} and only for {', '.join(grant.paths)}; not for {beyond[0]}.")
    return list(paths or grant.paths)


def load_or_default(path: Path | None) -> tuple[Policy, bool]:
    """The policy, and whether there is one: a fresh host does without. Raise PolicyError."""
    from trinity_snap.policy.load import DEFAULT_PATH, load_policy, parse_policy, policy_path

    found = policy_path(path)
    if found == DEFAULT_PATH and not os.path.lexists(found):
        return parse_policy("", found), False
    return load_policy(found), True


def open_grant(grant: Grant, policy: Policy | None, where: str | None) -> GrantedRepository:
    """What the grant lets us read: at its addresses, else at the target `where` or that of the policy, if there is one.

    Raise UsageError, TargetError, ForeignRepository if another repository is there.
    """
    from trinity_snap.repository.grants import GrantedRepository

    if grant.addresses is not None:
        if where is not None:
            raise UsageError("The grant says where its packs are: leave out --target.")
        return GrantedRepository(grant, _addressed(grant, policy))
    from trinity_snap.targets import open_target

    if where is None and policy is None:
        raise UsageError(
            f"The grant has keys and no addresses, and this host has no policy that says where {grant.target} is here.",
            untouched="Nothing was changed.",
            next_step="Name the repository's directory or URL with --target.",
        )
    target = open_target(_place(policy, where))
    repository = GrantedRepository(grant, target)
    repository.check_target()
    return repository


def _place(policy: Policy | None, where: str | None) -> TargetSettings | str:
    """A replica of the policy by its name, any other place as it is, else the policy's own target."""
    if policy is not None:
        if where is None:
            return policy.target.settings()
        if any(replica.name == where for replica in policy.replicas):
            return policy.replica(where).settings()
    assert where is not None
    return where


def _addressed(grant: Grant, policy: Policy | None) -> Target:
    from trinity_snap.targets.presigned import PresignedTarget

    addresses = grant.addresses or {}
    return PresignedTarget(
        addresses.__getitem__,
        grant.target,
        certificates=grant.certificates,
        proxy=None if policy is None else policy.target.proxy,
        requests=8 if policy is None else policy.target.requests,
    )


@contextmanager
def saying_what_expired(grant: Grant | None, untouched: str) -> Iterator[None]:
    """Say of a store that refuses the grant's addresses what that means. Raise GrantExpired or GrantError."""
    try:
        yield
    except TargetDenied as error:
        if grant is None or grant.addresses is None:
            raise
        if time.time() >= grant.expires - _SKEW_SECONDS:
            raise GrantExpired(
                f"The grant expired at {_time(grant.expires)}, before the restore was done ({error.message.rstrip('.')}).",
                untouched=untouched,
                next_step=_AGAIN,
            ) from error
        raise GrantError(error.message, untouched=untouched, next_step=_AGAIN) from error


def _other(message: str) -> GrantError:
    return GrantError(message, untouched="Nothing was changed.", next_step="Make a grant for that.")


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")
