"""Opening replicas, and finding out whether they can be used, without writing to them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from trinity_snap.errors import ObjectMissing, TargetError, TrinitySnapError
from trinity_snap.targets import Target, is_local, local_path, open_target
from trinity_snap.targets.probe import Protection, probe

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy, ReplicaSection

__all__ = ["ReplicaCheck", "check_replicas", "in_threads", "open_replica", "unreachable"]

_CHECK_SECONDS = 180.0

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class ReplicaCheck:
    """Whether a replica can be used. `holds`: `nothing`, `repository` (the first target's), or `another`; None: not known."""

    name: str
    url: str
    usable: bool
    holds: Literal["nothing", "repository", "another"] | None = None
    same_disk: bool = False
    protection: Protection | None = None
    error: str | None = None

    def to_json(self) -> dict[str, object]:
        """As `--json` shows it."""
        return {
            "name": self.name,
            "url": self.url,
            "usable": self.usable,
            "holds": self.holds,
            "same_disk": self.same_disk,
            "protection": None if self.protection is None else self.protection.to_json(),
            "error": self.error,
        }

    def lines(self) -> list[str]:
        """The same for people."""
        if not self.usable:
            return [f"Replica {self.name} cannot be used: {self.error}"]
        has = "the repository" if self.holds == "repository" else "nothing yet"
        lines = [f"Replica {self.name} at {self.url} can be used; it holds {has}."]
        if self.same_disk:
            lines.append(f"Replica {self.name} is on the same disk as the first target, and is lost with it.")
        if self.protection is not None and not self.protection.local:
            lines += self.protection.consequences()
        return lines


def open_replica(policy: Policy, replica: ReplicaSection) -> Target:
    """The target of a replica. A directory is never made. Raise TargetError, UsageError."""
    settings = replica.settings()
    if is_local(settings.url):
        path = local_path(settings.url)
        if not os.path.isdir(path):
            raise TargetError(
                f"There is no directory {path} for the replica {replica.name}.",
                untouched="Nothing was made there: a disk that is not mounted would be mistaken for an empty one.",
                next_step=f"Mount the disk that holds it; if it is to be a new replica, run `mkdir -m 700 {path}`.",
            )
        if is_local(policy.target.url) and _is_same(path, local_path(policy.target.url)):
            raise TargetError(
                f"The directory {path} of the replica {replica.name} is the first target itself.",
                next_step="Give the replica a place of its own in the policy.",
            )
    return open_target(settings)


def unreachable(policy: Policy, replica: ReplicaSection, *, begun: bool) -> str | None:
    """Why the replica cannot be reached, None if it can. If it was `begun` once, it has to hold a repository."""
    try:
        target = open_replica(policy, replica)
        target.get("repository")
    except ObjectMissing:
        return "There is nothing at its place; is its disk mounted?" if begun else None
    except (TrinitySnapError, OSError) as error:
        return str(error)
    return None


def check_replicas(policy: Policy, ours: bytes | None) -> list[ReplicaCheck]:
    """Look at every replica of the policy; `ours` is the first target's `repository` object, None if there is none yet.

    Nothing stays there; in a bucket a small object is put and removed, to see what is allowed.
    """
    found = in_threads(policy.replicas, lambda replica: _check(policy, replica, ours), _CHECK_SECONDS)
    hangs = "It does not answer."
    return [
        found.get(number) or ReplicaCheck(replica.name, replica.settings().url, False, error=hangs)
        for number, replica in enumerate(policy.replicas)
    ]


def in_threads(items: Sequence[_Item], work: Callable[[_Item], _Result], seconds: float) -> dict[int, _Result]:
    """What `work` gives for every item, by its number; those that take longer than `seconds` are left out."""
    results: dict[int, _Result] = {}

    def run(number: int, item: _Item) -> None:
        results[number] = work(item)

    threads = [threading.Thread(target=run, args=one, daemon=True) for one in enumerate(items)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return dict(results)


def _check(policy: Policy, replica: ReplicaSection, ours: bytes | None) -> ReplicaCheck:
    url = replica.settings().url
    try:
        target = open_replica(policy, replica)
        try:
            theirs = target.get("repository")
        except ObjectMissing:
            theirs = None
        if theirs is not None and theirs != ours:
            error = f"{target.url} holds another repository; give the replica a place of its own in the policy."
            return ReplicaCheck(replica.name, target.url, False, "another", error=error)
        protection = probe(target)
    except (TrinitySnapError, OSError) as error:
        return ReplicaCheck(replica.name, url, False, error=str(error))
    holds: Literal["nothing", "repository"] = "nothing" if theirs is None else "repository"
    return ReplicaCheck(replica.name, target.url, True, holds, _same_disk(policy, replica), protection)


def _same_disk(policy: Policy, replica: ReplicaSection) -> bool:
    urls = (policy.target.url, replica.url)
    if not all(map(is_local, urls)):
        return False
    try:
        first, other = (os.stat(local_path(url)).st_dev for url in urls)
    except OSError:
        return False
    return first == other


def _is_same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False
