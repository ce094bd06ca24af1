"""New recipients for old ones. What was sealed to an old one stays readable for whoever has it; nothing later does.

Where recipients are pinned, the pins allow the new list before the repository has it, and only that list afterwards, so
that an interruption leaves a host that goes on.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.durable import fsync_directory
from trinity_snap.setup.home import OPERATOR, RECOVERY

if TYPE_CHECKING:
    from trinity_snap.repository.identity import Wrap
    from trinity_snap.repository.keys import Identity, Recipient
    from trinity_snap.repository.recipients import RecipientList
    from trinity_snap.repository.repository import Repository


@dataclass(frozen=True)
class Rotated:
    """Who joined and who left, by recipient id. `unreadable_sessions` are those that the new one cannot open."""

    added: str
    retired: tuple[str, ...]
    recovery_words: tuple[str, ...] = ()
    unreadable_sessions: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """As `--json` shows it."""
        return {
            "added": self.added,
            "retired": list(self.retired),
            "recovery_words": list(self.recovery_words) or None,
            "unreadable_sessions": list(self.unreadable_sessions),
        }


def rotate_identity(repository: Repository, identity: Identity, path: Path, *, wrap: Wrap | None) -> Rotated:
    """Put a new identity in the place of `identity`, whose file is at `path`.

    The new one is on disk beside the old before it becomes a recipient, and the old is retired last, so that an
    interruption leaves at least one that works. Raise KeyFileError, WrongKey or TargetError.
    """
    from trinity_snap.repository.identity import save_identity
    from trinity_snap.repository.keys import generate_identity
    from trinity_snap.repository.recipients import add_recipient, retire_recipient

    new = generate_identity(OPERATOR)
    old = identity.recipient.id
    beside = path.with_name(f"{path.name}.new")
    save_identity(beside, new, OPERATOR, wrap=wrap, overwrite=True)
    retired: tuple[str, ...] = ()
    with _pinned(repository, joining=[new.recipient], leaving=[old]):
        added = add_recipient(repository.target, repository.host, identity, new.recipient)
        os.rename(beside, path)
        fsync_directory(path.parent)
        if any(one.id == old for one in added.recipients):
            retire_recipient(repository.target, repository.host, old)
            retired = (old,)
    return Rotated(new.recipient.id, retired, unreadable_sessions=added.unreadable_sessions)


def rotate_recovery(repository: Repository, identity: Identity) -> tuple[Rotated, list[str]]:
    """Make a new recovery identity a recipient. Return its words, and the ids that `retire` is then to be given.

    The old recovery recipients are retired only when the caller has shown the words: see `retire`.
    """
    from trinity_snap.repository.identity import identity_to_words
    from trinity_snap.repository.keys import generate_identity
    from trinity_snap.repository.recipients import current_recipients

    old = [one.id for one in current_recipients(repository.target, repository.host).recipients if one.label == RECOVERY]
    new = generate_identity(RECOVERY)
    added = add(repository, identity, new.recipient)
    rotated = Rotated(new.recipient.id, tuple(old), tuple(identity_to_words(new)), added.unreadable_sessions)
    return rotated, old


def add(repository: Repository, identity: Identity, recipient: Recipient) -> RecipientList:
    """Make somebody a recipient of everything that `identity` opens. Raise as `add_recipient`, and RecipientsMismatch."""
    from trinity_snap.repository.recipients import add_recipient

    with _pinned(repository, joining=[recipient]):
        return add_recipient(repository.target, repository.host, identity, recipient)


def retire(repository: Repository, recipient_ids: Collection[str]) -> RecipientList:
    """Stop sealing to these recipients. Raise UsageError if one is none, or the last; RecipientsMismatch."""
    from trinity_snap.repository.recipients import current_recipients, retire_recipient

    with _pinned(repository, leaving=recipient_ids):
        for recipient_id in recipient_ids:
            retire_recipient(repository.target, repository.host, recipient_id)
    return current_recipients(repository.target, repository.host)


@contextmanager
def _pinned(
    repository: Repository, *, joining: Collection[Recipient] = (), leaving: Collection[str] = ()
) -> Iterator[None]:
    """Keep the pins of this machine, if it has any, in step with a change of the repository's recipients.

    A list that is not believed to begin with is not built upon: it may have a stranger in it.
    """
    from trinity_snap.repository.recipients import current_recipients

    trust = repository.trust
    if trust is None:
        yield
        return
    before = repository.believed_recipients()
    pins = trust.load()
    trust.widen([one for one in before.recipients if one.id not in leaving] + list(joining))
    try:
        yield
    finally:
        after = current_recipients(repository.target, repository.host)
        if pins is not None and set(after.recipients) == set(before.recipients):
            trust.pin(pins)
        else:
            trust.settle(after, repository.id)
