"""To whom a repository is sealed: the lists of recipients, and the session keys sealed to them.

`docs/format.md`, sections 4 and 5. Nothing that a list says is ever changed: a later list with a larger
generation takes its place, and carries on the histories of those who joined late.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from trinity_snap.errors import (
    ForeignRepository,
    IntegrityError,
    KeyFileError,
    ObjectMissing,
    RepositoryMissing,
    UsageError,
    WrongKey,
)
from trinity_snap.repository.documents import (
    base64_field,
    check_header,
    created_now,
    hex_field,
    sign_document,
    split_document,
    to_base64,
    verify_document,
)
from trinity_snap.repository.keys import (
    INFO_PREFIX,
    RECIPIENT_ID_BYTES,
    REPOSITORY_ID_BYTES,
    SEAL_OVERHEAD_BYTES,
    SESSION_ID_BYTES,
    SESSION_KEY_BYTES,
    HostSecret,
    Identity,
    Recipient,
)
from trinity_snap.targets.protocol import Target, put_new

Entry = dict[str, object]
"""One recipient as a list has it: `id`, `label`, `public`, `host_secret`, perhaps `history`."""

_ATTEMPTS = 8
_HISTORY_KEY_BYTES = 32
_HISTORY_NONCE = bytes(12)
_MAX_GENERATION = (1 << 53) - 1


@dataclass(frozen=True)
class RecipientList:
    """A list of recipients. `name` is that of its object.

    `damaged` names the lists that were passed over because they are damaged or forged: the storage may be
    hiding a later list. `unreadable_sessions`, after `add_recipient`, names the sessions that the new
    recipient cannot open, because the identity that was used to add it could not.
    """

    name: str
    generation: int
    recipients: tuple[Recipient, ...]
    entries: tuple[Entry, ...]
    damaged: tuple[str, ...] = ()
    unreadable_sessions: tuple[str, ...] = ()


def recipient_entries(host: HostSecret, recipients: Iterable[Recipient]) -> list[Entry]:
    """What a list says of each recipient, with the host secret sealed to it.

    Raise KeyFileError if there is none, if one is there twice, or if a public key is not usable.
    """
    entries = [_entry(host, recipient) for recipient in recipients]
    if not entries:
        raise KeyFileError("A repository needs at least one recipient, or nobody could ever open it.")
    if len({entry["id"] for entry in entries}) != len(entries):
        raise KeyFileError("The same recipient was given twice.")
    return entries


def open_host_secret(payload: Mapping[str, object], identity: Identity) -> HostSecret:
    """The host secret, from the payload of a `repository` or `recipients` document.

    The caller MUST then verify the document with the MAC key of what this returns. Raise WrongKey if the
    identity is none of the recipients, IntegrityError if the document is damaged.
    """
    repository_id = hex_field(payload, "id", REPOSITORY_ID_BYTES)
    for recipient, entry in _parse_entries(payload):
        if recipient.id == identity.recipient.id:
            sealed = base64_field(entry, "host_secret")
            secret = identity.open(sealed, _info("host-secret", repository_id, recipient.id_bytes))
            if len(secret) != 32:
                raise IntegrityError("The sealed host secret has a wrong length.")
            return HostSecret(secret, repository_id)
    raise WrongKey(
        f"The identity {identity.recipient.id} is no recipient of the repository {repository_id.hex()}.",
        next_step="Use the identity or the recovery words that were made for this repository.",
    )


def current_recipients(target: Target, host: HostSecret, first: bytes | None = None) -> RecipientList:
    """The list with the largest generation among the authentic ones: to whom new sessions are sealed.

    `first` is the object `repository`, which never changes, if it was read before. Raise RepositoryMissing,
    ForeignRepository if the repository is another one than the host's, IntegrityError if its first list is damaged.
    """
    lists, damaged = _all_lists(target, host, first)
    newest = min(lists, key=lambda one: (-one.generation, one.name))
    return _with(newest, damaged=damaged)


def session_history(target: Target, host: HostSecret, identity: Identity) -> dict[bytes, bytes]:
    """Session id → session key of the sessions that were there before the identity became a recipient.

    Where lists differ, that of the earliest generation is believed; see `session_histories`.
    """
    return {session_id: keys[0] for session_id, keys in session_histories(target, host, identity).items()}


def session_histories(target: Target, host: HostSecret, identity: Identity) -> dict[bytes, tuple[bytes, ...]]:
    """As `session_history`, with all the keys that the lists say of a session, the earliest generation's first.

    They differ only if somebody who has the host secret added a list with a history of their own. A history that cannot
    be opened is passed over.
    """
    history: dict[bytes, tuple[bytes, ...]] = {}
    lists, _ = _all_lists(target, host)
    for entry in (entry for one in sorted(lists, key=lambda one: one.generation) for entry in one.entries):
        if entry["id"] == identity.recipient.id and "history" in entry:
            try:
                opened = _open_history(base64_field(entry, "history"), host.repository_id, identity)
            except (IntegrityError, WrongKey):
                continue
            for session_id, key in opened.items():
                if key not in (known := history.get(session_id, ())):
                    history[session_id] = (*known, key)
    return history


def add_recipient(target: Target, host: HostSecret, identity: Identity, recipient: Recipient) -> RecipientList:
    """Make somebody a recipient of later sessions and, through a history, of all that `identity` can open.

    Adding one that is a recipient already completes its history. Sessions that begin meanwhile are seen to as
    well. Raise WrongKey if `identity` is not a recipient itself, KeyFileError for an unusable public key.
    """
    lists, _ = _all_lists(target, host)
    if not any(entry["id"] == identity.recipient.id for one in lists for entry in one.entries):
        raise WrongKey(
            f"The identity {identity.recipient.id} is no recipient of this repository, and cannot add one.",
            untouched="Nothing was changed.",
        )
    keys = session_history(target, host, identity)
    given: set[bytes] = set()
    for _ in range(_ATTEMPTS):
        current = current_recipients(target, host)
        needed, unreadable = _sessions_without(target, host, identity, recipient, keys)
        listed = any(entry["id"] == recipient.id for entry in current.entries)
        if listed and needed.keys() <= given:
            return _with(current, unreadable_sessions=tuple(unreadable))
        entry = _entry(host, recipient)
        if needed:
            entry["history"] = to_base64(_seal_history(needed, host.repository_id, recipient))
        entries = [other for other in current.entries if other["id"] != recipient.id]
        _put_list(target, host, current.generation + 1, [*entries, entry])
        given = set(needed)
    raise KeyFileError(
        f"Recipient {recipient.id} could not be added: somebody else changes the recipients too.",
        next_step="Try again.",
    )


def retire_recipient(target: Target, host: HostSecret, recipient_id: str) -> RecipientList:
    """Stop sealing to a recipient. What was sealed to it before stays readable for whoever has its identity.

    Raise UsageError if there is no such recipient, or if it is the last one.
    """
    for attempt in range(_ATTEMPTS):
        current = current_recipients(target, host)
        entries = [entry for entry in current.entries if entry["id"] != recipient_id]
        if len(entries) == len(current.entries):
            if attempt:
                return current
            raise UsageError(
                f"{recipient_id} is not a recipient of this repository.",
                untouched="Nothing was changed.",
                next_step="`trinity-snap key list` shows them: the first column names them, not the label.",
            )
        if not entries:
            raise UsageError(
                f"{recipient_id} is the last recipient: nobody could open a later recovery point.",
                untouched="Nothing was changed.",
                next_step="Add another recipient first.",
            )
        _put_list(target, host, current.generation + 1, entries)
    raise KeyFileError(
        f"Recipient {recipient_id} could not be retired: somebody else changes the recipients too.",
        next_step="Try again.",
    )


def seal_session(
    session_key: bytes,
    repository_id: bytes,
    session_id: bytes,
    recipients: Sequence[Recipient],
    mac_key: bytes,
) -> bytes:
    """The `sessions/…` document: the session key, sealed to every recipient.

    Raise KeyFileError for an unusable public key.
    """
    if not recipients:
        raise KeyFileError("A session must be sealed to at least one recipient.")
    keys = {
        recipient.id: to_base64(
            recipient.seal(session_key, _info("session", repository_id, session_id, recipient.id_bytes))
        )
        for recipient in recipients
    }
    payload = {"repository": repository_id.hex(), "session": session_id.hex(), "keys": keys}
    return sign_document("session", payload, mac_key)


def open_session(
    data: bytes,
    repository_id: bytes,
    session_id: bytes,
    identity: Identity,
    mac_key: bytes,
    history: Mapping[bytes, bytes],
) -> bytes:
    """The session key from a `sessions/…` document, which must be authentic and that of this session.

    `history` (see `session_history`) serves for sessions sealed before the identity was a recipient. Raise
    WrongKey if the identity was no recipient of it at all, IntegrityError if the document is damaged, forged
    or another session's.
    """
    keys = _session_keys(data, repository_id, session_id, mac_key)
    recipient = identity.recipient
    if recipient.id in keys:
        info = _info("session", repository_id, session_id, recipient.id_bytes)
        session_key = identity.open(base64_field(keys, recipient.id), info)
    elif session_id in history:
        session_key = history[session_id]
    else:
        raise WrongKey(
            f"The session {session_id.hex()} was not sealed to the identity {recipient.id}.",
            next_step="Use an identity that was a recipient at that time.",
        )
    if len(session_key) != SESSION_KEY_BYTES:
        raise IntegrityError(f"The key of session {session_id.hex()} has a wrong length.")
    return session_key


def check_session(data: bytes, repository_id: bytes, session_id: bytes, mac_key: bytes) -> None:
    """Raise IntegrityError unless this is an authentic document of that session. Needs no identity."""
    _session_keys(data, repository_id, session_id, mac_key)


def _info(use: str, *parts: bytes) -> bytes:
    return INFO_PREFIX + use.encode("ascii") + b"".join(parts)


def _entry(host: HostSecret, recipient: Recipient) -> Entry:
    info = _info("host-secret", host.repository_id, recipient.id_bytes)
    return {
        "id": recipient.id,
        "label": recipient.label,
        "public": to_base64(recipient.public),
        "host_secret": to_base64(recipient.seal(host.secret, info)),
    }


def _with(
    one: RecipientList, *, damaged: tuple[str, ...] | None = None, unreadable_sessions: tuple[str, ...] = ()
) -> RecipientList:
    return RecipientList(
        one.name,
        one.generation,
        one.recipients,
        one.entries,
        one.damaged if damaged is None else damaged,
        unreadable_sessions,
    )


def _parse_entries(payload: Mapping[str, object]) -> list[tuple[Recipient, Entry]]:
    """The recipients of a list. Raise IntegrityError."""
    members = payload.get("recipients")
    if not isinstance(members, list) or not members:
        raise IntegrityError("A document is damaged: it has no list of recipients.")
    parsed: list[tuple[Recipient, Entry]] = []
    for entry in members:
        if not isinstance(entry, dict) or not isinstance(entry.get("label", ""), str):
            raise IntegrityError("A document is damaged: one of its recipients is not as it should be.")
        try:
            recipient = Recipient(base64_field(entry, "public"), entry.get("label", ""))
        except KeyFileError as error:
            raise IntegrityError(f"A document is damaged: {error}") from error
        if recipient.id_bytes != hex_field(entry, "id", RECIPIENT_ID_BYTES):
            raise IntegrityError("A document is damaged: the id of a recipient does not belong to its public key.")
        parsed.append((recipient, entry))
    if len({recipient.id for recipient, _ in parsed}) != len(parsed):
        raise IntegrityError("A document is damaged: a recipient is there twice.")
    return parsed


def _parse_list(kind: str, name: str, data: bytes, host: HostSecret) -> RecipientList:
    """One list. Raise ForeignRepository, IntegrityError."""
    payload, _, _ = split_document(data)
    if kind == "repository":
        check_header(kind, payload)
    else:
        verify_document(kind, data, host.mac_key)  # what is not authentic says nothing, not even of its version
    repository_id = hex_field(payload, "id", REPOSITORY_ID_BYTES)
    if kind == "repository" and repository_id != host.repository_id:
        raise ForeignRepository(
            f"The repository is {repository_id.hex()}; the host key is for {host.repository_id.hex()}.",
            untouched="Nothing was changed.",
            next_step="See that the policy's target and host key belong together.",
        )
    verify_document(kind, data, host.mac_key)
    generation = payload.get("generation")
    if isinstance(generation, bool) or not isinstance(generation, int) or not 0 <= generation <= _MAX_GENERATION:
        raise IntegrityError(f"The list of recipients {name} has no proper generation.")
    parsed = _parse_entries(payload)
    return RecipientList(
        name,
        generation,
        tuple(recipient for recipient, _ in parsed),
        tuple(entry for _, entry in parsed),
    )


def _all_lists(
    target: Target, host: HostSecret, first: bytes | None = None
) -> tuple[list[RecipientList], tuple[str, ...]]:
    """Every authentic list, the repository's own first, and the names of those that are not."""
    try:
        first = target.get("repository") if first is None else first
    except ObjectMissing as error:
        raise RepositoryMissing(f"There is no repository at {target.url}.") from error
    lists = [_parse_list("repository", "repository", first, host)]
    damaged: list[str] = []
    for name in sorted(target.list_prefix("recipients/")):
        try:
            lists.append(_parse_list("recipients", name, target.get(name), host))
        except (IntegrityError, ObjectMissing):
            damaged.append(name)
    return lists, tuple(damaged)


def _put_list(target: Target, host: HostSecret, generation: int, entries: Sequence[Entry]) -> None:
    payload = {
        "id": host.repository_id.hex(),
        "created": created_now(),
        "generation": generation,
        "recipients": list(entries),
    }
    put_new(target, f"recipients/{os.urandom(16).hex()}", sign_document("recipients", payload, host.mac_key))


def _session_keys(data: bytes, repository_id: bytes, session_id: bytes, mac_key: bytes) -> dict[str, object]:
    """The member `keys` of an authentic session document. Raise IntegrityError."""
    payload = verify_document("session", data, mac_key)
    if (
        hex_field(payload, "repository", REPOSITORY_ID_BYTES) != repository_id
        or hex_field(payload, "session", SESSION_ID_BYTES) != session_id
    ):
        raise IntegrityError(f"The object of session {session_id.hex()} is another session's.")
    keys = payload.get("keys")
    if not isinstance(keys, dict):
        raise IntegrityError(f"The object of session {session_id.hex()} has no keys.")
    return keys


def _sessions_without(
    target: Target, host: HostSecret, identity: Identity, recipient: Recipient, keys: dict[bytes, bytes]
) -> tuple[dict[bytes, bytes], list[str]]:
    """The sessions not sealed to `recipient`, with their keys, and the names of those that cannot be opened.

    `keys` has what is known already, and gets what is learned.
    """
    needed: dict[bytes, bytes] = {}
    unreadable: list[str] = []
    for name in sorted(target.list_prefix("sessions/")):
        session_id = bytes.fromhex(name.split("/")[1])
        try:
            data = target.get(name)
            if recipient.id in _session_keys(data, host.repository_id, session_id, host.mac_key):
                continue
            if session_id not in keys:
                keys[session_id] = open_session(data, host.repository_id, session_id, identity, host.mac_key, {})
            needed[session_id] = keys[session_id]
        except (IntegrityError, WrongKey, ObjectMissing):
            unreadable.append(name)
    return needed, unreadable


def _seal_history(sessions: Mapping[bytes, bytes], repository_id: bytes, recipient: Recipient) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    key = os.urandom(_HISTORY_KEY_BYTES)
    plaintext = b"".join(session_id + sessions[session_id] for session_id in sorted(sessions))
    sealed = recipient.seal(key, _info("history", repository_id, recipient.id_bytes))
    return sealed + AESGCM(key).encrypt(_HISTORY_NONCE, plaintext, None)


def _open_history(data: bytes, repository_id: bytes, identity: Identity) -> dict[bytes, bytes]:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cut = SEAL_OVERHEAD_BYTES + _HISTORY_KEY_BYTES
    pair = SESSION_ID_BYTES + SESSION_KEY_BYTES
    key = identity.open(data[:cut], _info("history", repository_id, identity.recipient.id_bytes))
    if len(key) != _HISTORY_KEY_BYTES or len(data) < cut + 16 or (len(data) - cut - 16) % pair:
        raise IntegrityError("The history of a recipient has a wrong length.")
    try:
        plaintext = AESGCM(key).decrypt(_HISTORY_NONCE, data[cut:], None)
    except InvalidTag as error:
        raise IntegrityError("The history of a recipient is damaged.") from error
    return {
        plaintext[at : at + SESSION_ID_BYTES]: plaintext[at + SESSION_ID_BYTES : at + pair]
        for at in range(0, len(plaintext), pair)
    }
