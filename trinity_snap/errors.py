"""Every error of trinity-snap, each with the exit code that the command returns for it.

TrinitySnapError                1   something failed
├── UsageError                  2   wrong usage
│   └── PolicyError             2   a policy that cannot be used
├── HostBusy                    3   another run holds the host
├── SomeFailed                 10   some agents or replicas failed, others did not
├── LeftQuiesced               11   a container could not be resumed
├── GuaranteeNotMet            12   done, with a weaker guarantee than the policy asks for
├── NotEntitled                20   the edition of Trinity does not include this
├── TrinityError                1   Trinity's API did not do what it was asked
│   ├── TrinityUnreachable      1   it does not answer
│   └── TrinityRefused          1   it answered with a refusal
├── IntegrityError             90   something read is not what was written
│   └── SessionDamaged         90   the key of a run, without which nothing of it opens
├── DockerUnavailable           1   no Docker daemon, or no permission to talk to it
├── AgentMissing                2   no agent of that name
├── PointMissing                2   no such recovery point
├── PointAmbiguous              2   a prefix that fits several recovery points
├── KeyFileError                1   a key is missing, unreadable, too openly readable, or the wrong one
│   ├── WrongKey                1   a key that does not open this repository
│   ├── IdentityNeeded          1   only an identity can do that
│   └── RecipientsMismatch      1   the repository is not sealed to whom this host seals
├── RepositoryError             1
│   ├── RepositoryMissing       1   nothing there
│   ├── RepositoryExists        1   there is one already
│   └── ForeignRepository       1   another host's, or another format
├── GrantError                  1   a restore grant is none, or is for something else
│   └── GrantExpired            1   a restore grant whose time is over
├── RemovalRefused              2   a forget or prune that might remove what is needed, and was not begun
├── SnapshotError               1   a snapshot could not be made, mounted or removed
├── RestoreError                1   a restore that could not be completed
│   └── RestoreRefused          2   a restore that would harm something, and was not begun
└── TargetError                 1   the storage answered with an error
    ├── ObjectMissing           1   no object of that name
    ├── TargetFull              1   no space left
    └── TargetDenied            1   no permission
"""

from __future__ import annotations

from typing import ClassVar


class TrinitySnapError(Exception):
    """What happened, what was left untouched, and what to do next, for an operator to read.

    `message` says what happened and to what. `untouched` and `next_step`, when given, are whole sentences.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, untouched: str = "", next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.untouched = untouched
        self.next_step = next_step

    def __str__(self) -> str:
        rest = " ".join(part for part in (self.untouched, self.next_step) if part)
        between = "\n" if "\n" in self.message else " "
        return f"{self.message}{between}{rest}" if rest else self.message

    def to_json(self) -> dict[str, object]:
        """The error as the `--json` output shows it: kind, sentences and exit code."""
        return {
            "error": type(self).__name__,
            "message": self.message,
            "untouched": self.untouched,
            "next_step": self.next_step,
            "exit_code": self.exit_code,
        }


class UsageError(TrinitySnapError):
    """The command was called in a way that makes no sense."""

    exit_code = 2


class PolicyError(UsageError):
    """A policy that cannot be read or does not follow the schema."""


class HostBusy(TrinitySnapError):
    """Another run holds this host.

    `undoes_first` says that it is one which undoes what dead runs left before it does anything of its own.
    """

    exit_code = 3

    def __init__(self, message: str, *, untouched: str = "", next_step: str = "", undoes_first: bool = False) -> None:
        super().__init__(message, untouched=untouched, next_step=next_step)
        self.undoes_first = undoes_first


class SomeFailed(TrinitySnapError):
    """Some agents or replicas failed while others succeeded."""

    exit_code = 10


class LeftQuiesced(TrinitySnapError):
    """A container could not be resumed."""

    exit_code = 11


class GuaranteeNotMet(TrinitySnapError):
    """The work was done, with a weaker guarantee than asked for."""

    exit_code = 12


class NotEntitled(TrinitySnapError):
    """The edition of Trinity does not include this."""

    exit_code = 20


class TrinityError(TrinitySnapError):
    """Trinity's API did not do what it was asked."""


class TrinityUnreachable(TrinityError):
    """Trinity does not answer, or not with what it should."""


class TrinityRefused(TrinityError):
    """Trinity refused. `status` is the HTTP status code, `detail` its own words."""

    def __init__(self, message: str, *, status: int, detail: str = "", next_step: str = "") -> None:
        super().__init__(message, next_step=next_step)
        self.status = status
        self.detail = detail


class IntegrityError(TrinitySnapError):
    """Something read from a repository is not what was written to it."""

    exit_code = 90


class SessionDamaged(IntegrityError):
    """The object `name`, which holds the key of a run, is missing or damaged, and so nothing that the run wrote opens."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason


class DockerUnavailable(TrinitySnapError):
    """There is no Docker daemon, or it may not be used."""


class AgentMissing(TrinitySnapError):
    """There is no agent of that name."""

    exit_code = 2


class PointMissing(TrinitySnapError):
    """There is no such recovery point."""

    exit_code = 2


class PointAmbiguous(TrinitySnapError):
    """Several recovery points begin like this."""

    exit_code = 2


class KeyFileError(TrinitySnapError):
    """A key file is missing, damaged or readable by others."""


class WrongKey(KeyFileError):
    """A key that does not belong to this repository."""


class IdentityNeeded(KeyFileError):
    """Only an identity can do that, and none was given."""


class RecipientsMismatch(KeyFileError):
    """The recipients in the repository are not those that this host seals to."""


class RepositoryError(TrinitySnapError):
    """A repository cannot be used."""


class RepositoryMissing(RepositoryError):
    """There is no repository at the target."""


class RepositoryExists(RepositoryError):
    """There is a repository at the target already."""


class ForeignRepository(RepositoryError):
    """The repository belongs to another host, or has a format that this version does not know."""


class GrantError(TrinitySnapError):
    """A restore grant that is none, is damaged, or is for something else."""


class GrantExpired(GrantError):
    """A restore grant whose time is over."""


class RemovalRefused(TrinitySnapError):
    """Something would be removed that may be needed; nothing was."""

    exit_code = 2


class SnapshotError(TrinitySnapError):
    """A snapshot could not be made, read or removed."""


class RestoreError(TrinitySnapError):
    """A restore could not be completed."""


class RestoreRefused(RestoreError):
    """A restore that would harm something was not begun."""

    exit_code = 2


class TargetError(TrinitySnapError):
    """The storage answered with an error. `transient` says whether another try may help."""

    def __init__(self, message: str, *, untouched: str = "", next_step: str = "", transient: bool = False) -> None:
        super().__init__(message, untouched=untouched, next_step=next_step)
        self.transient = transient


class ObjectMissing(TargetError):
    """There is no object of that name."""


class TargetFull(TargetError):
    """The storage has no space left."""


class TargetDenied(TargetError):
    """The storage refused permission."""
