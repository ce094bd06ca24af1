"""What `forget`, `prune` and `hold` have in common: doing the same at replicas, and telling what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from trinity_snap.cli.context import Unlock, open_repository
from trinity_snap.errors import SomeFailed, UsageError

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy
    from trinity_snap.repository.repository import Repository
    from trinity_snap.trusted.replicas import AtReplica

_Report = TypeVar("_Report")


def chosen_replicas(policy: Policy, target: str | None, *, all_targets: bool) -> list[str]:
    """The names of the replicas that are to follow the first target. Raise UsageError."""
    if target is not None:
        if all_targets:
            raise UsageError("--target and --all-targets exclude each other: give one of them.")
        policy.replica(target)
    return [replica.name for replica in policy.replicas] if all_targets else []


def do_at_replicas(
    policy: Policy, unlock: Unlock, names: Sequence[str], work: Callable[[str, Repository], _Report]
) -> list[AtReplica[_Report]]:
    """Do the same at each of these replicas; one that is down or refuses does not keep the others from it."""
    if not names:
        return []
    from trinity_snap.trusted.replicas import at_replicas

    return at_replicas(names, lambda name: open_repository(policy, unlock, name), work)


def replicas_answer(
    results: Sequence[AtReplica[_Report]], answer: Callable[[_Report], Mapping[str, object]]
) -> list[dict[str, object]]:
    """As `--json` shows it."""
    return [
        {
            "name": one.name,
            "error": None if one.error is None else str(one.error),
            "result": None if one.report is None else dict(answer(one.report)),
        }
        for one in results
    ]


def replica_lines(results: Sequence[AtReplica[_Report]], lines: Callable[[_Report], Iterable[str]]) -> Iterator[str]:
    """The same for people."""
    for one in results:
        if one.report is None:
            yield f"Replica {one.name}: {one.error}"
        elif told := list(lines(one.report)):
            yield f"Replica {one.name}:"
            yield from (f"  {line}" for line in told)


def replicas_code(results: Sequence[AtReplica[_Report]]) -> int:
    """The exit code: 10 if something failed at a replica."""
    return SomeFailed.exit_code if any(one.error is not None for one in results) else 0
