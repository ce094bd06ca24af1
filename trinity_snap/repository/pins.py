"""The recipients that a host is pinned to: its own copy of their public keys, whatever the repository says.

The list of recipients in a repository is authentic by the host secret. So the storage cannot change it, but somebody who
stole that secret and can write to the target can. Pins are compared by whole public keys: the ids of recipients are
short enough to be imitated. A file of pins is one JSON object, which anybody may read:

    {"format": "trinity-snap pins", "version": 1, "created", "recipients": [{"id", "label", "public"}, …], "next": […]}
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trinity_snap.errors import IntegrityError, KeyFileError, RecipientsMismatch
from trinity_snap.repository.documents import base64_field, created_now, hex_field, to_base64
from trinity_snap.repository.identity import MAX_LABEL_CHARACTERS, read_key_file, write_key_file
from trinity_snap.repository.keys import RECIPIENT_ID_BYTES, Recipient

__all__ = ["Pins", "load_pins", "named", "save_pins"]

_MAX_RECIPIENTS = 16


@dataclass(frozen=True)
class Pins:
    """Whom a host seals to: `recipients`, and while they are being exchanged, `next`, those to come (empty: none)."""

    recipients: tuple[Recipient, ...]
    next: tuple[Recipient, ...] = ()

    def accepts(self, listed: Iterable[Recipient]) -> bool:
        """Whether a list will do: all of `recipients` or all of `next` are in it, and nobody who is in neither."""
        there, now, later = set(listed), set(self.recipients), set(self.next)
        return there <= now | later and (there >= now or (bool(later) and there >= later))

    def check(self, listed: Collection[Recipient]) -> None:
        """Raise RecipientsMismatch unless `accepts`, naming both sets and the difference."""
        if self.accepts(listed):
            return
        known = {*self.recipients, *self.next}
        strangers = [one for one in listed if one not in known]
        missing = [one for one in self.recipients if one not in set(listed)]
        told = [
            f"The recipients of the repository are {named(listed, known)}; this host is pinned to {named(self.recipients)}"
            + (f", or next {named(self.next)}." if self.next else "."),
            f"Not pinned: {named(strangers, known)}." if strangers else "",
            f"Pinned, and not in the repository: {named(missing)}." if missing else "",
        ]
        raise RecipientsMismatch(
            " ".join(filter(None, told)),
            untouched="Nothing was sealed and nothing was written.",
            next_step=(
                "If you changed the recipients, bring the change to an end: `trinity-snap key pin FILE …` on this host, or "
                "`key add` and `key retire` where the identity is. If you did not, somebody who has this host's key can "
                "write to its target (docs/operations.md, “Recipients that do not match”)."
            ),
        )


def named(recipients: Iterable[Recipient], beside: Collection[Recipient] = ()) -> str:
    """Recipients for people: id and label; the whole SHA-256 of a key that has the id of another one in `beside`."""
    return ", ".join(_name(one, beside) for one in recipients) or "nobody"


def _name(recipient: Recipient, beside: Collection[Recipient]) -> str:
    imitates = any(one.id == recipient.id and one != recipient for one in beside)
    shown = f"SHA-256 {hashlib.sha256(recipient.public).hexdigest()}" if imitates else recipient.id
    return f"{shown} ({recipient.label[:60]})" if recipient.label else shown


def save_pins(path: Path, pins: Pins) -> None:
    """Write a file of pins at once and durably, in the place of one that is there. Raise KeyFileError."""
    for group in (pins.recipients, pins.next):
        if len(set(group)) != len(group):
            raise KeyFileError("The same recipient was given twice.", untouched="Nothing was changed.")
        if len(group) > _MAX_RECIPIENTS:
            raise KeyFileError(f"At most {_MAX_RECIPIENTS} recipients can be pinned.", untouched="Nothing was changed.")
    if not pins.recipients:
        raise KeyFileError("At least one recipient must be pinned.", untouched="Nothing was changed.")
    content: dict[str, object] = {
        "format": "trinity-snap pins",
        "version": 1,
        "created": created_now(),
        "recipients": [_to_json(one) for one in pins.recipients],
        "next": [_to_json(one) for one in pins.next],
    }
    write_key_file(path, content, mode=0o644, overwrite=True)


def load_pins(path: Path) -> Pins:
    """Read a file of pins. Raise KeyFileError if it is missing or damaged."""
    content = read_key_file(path, "pins", private=False)
    try:
        pins = Pins(_recipients(content, "recipients"), _recipients(content, "next"))
        if not pins.recipients:
            raise IntegrityError("it pins nobody")
    except (IntegrityError, KeyFileError) as error:
        raise KeyFileError(
            f"{path} is damaged: {str(error).rstrip('.')}.",
            next_step="Write it anew with `trinity-snap key pin FILE …`.",
        ) from error
    return pins


def _to_json(recipient: Recipient) -> dict[str, str]:
    return {
        "id": recipient.id,
        "label": recipient.label[:MAX_LABEL_CHARACTERS],
        "public": to_base64(recipient.public),
    }


def _recipients(content: Mapping[str, object], key: str) -> tuple[Recipient, ...]:
    members = content.get(key, [])
    if not isinstance(members, list):
        raise IntegrityError(f"its {key} are no list")
    found = []
    for member in members:
        if not isinstance(member, dict) or not isinstance(member.get("label", ""), str):
            raise IntegrityError("one of its recipients is not as it should be")
        recipient = Recipient(base64_field(member, "public"), member.get("label", ""))
        if recipient.id_bytes != hex_field(member, "id", RECIPIENT_ID_BYTES):
            raise IntegrityError("the id of a recipient does not belong to its public key")
        found.append(recipient)
    return tuple(found)
