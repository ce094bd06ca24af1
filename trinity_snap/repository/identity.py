"""Key files: identities, recipients, host keys. Each is one JSON object of a few lines.

    identity    {"format": "trinity-snap identity", "version": 1, "id", "label", "created", "seed"}       0600
                or, instead of `seed`, `wrapped`: {"by": "passphrase", "kdf": {"algorithm": "argon2id",
                "memory_kib", "passes", "lanes", "salt"}, "envelope"} {"by": "trinity", "envelope"}
    recipient   {"format": "trinity-snap recipient", "version": 1, "id", "label", "created", "public"}    0644
    host key    {"format": "trinity-snap host key", "version": 1, "repository", "created", "secret"}      0600

An envelope is that of `trinity.envelope`, and holds `{"identity": "<recipient id>", "seed": "<b64>"}`.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from trinity_snap.credentials import HOST_KEY, decrypt, given, is_encrypted
from trinity_snap.durable import write_file_durably
from trinity_snap.errors import IntegrityError, KeyFileError
from trinity_snap.repository.documents import (
    base64_field,
    created_now,
    hex_field,
    object_field,
    parse_object,
    to_base64,
)
from trinity_snap.repository.keys import (
    RECIPIENT_ID_BYTES,
    REPOSITORY_ID_BYTES,
    HostSecret,
    Identity,
    Recipient,
)
from trinity_snap.repository.words import identity_from_words, identity_to_words
from trinity_snap.repository.wrapping import PassphraseWrap, TrinityWrap, Wrap, unwrap_secret, wrap_secret

__all__ = [
    "IdentityFile",
    "PassphraseWrap",
    "TrinityWrap",
    "Wrap",
    "identity_from_words",
    "identity_to_words",
    "inspect_identity",
    "load_host_key",
    "load_identity",
    "load_recipient",
    "read_key_file",
    "save_host_key",
    "save_identity",
    "save_recipient",
    "write_key_file",
]

Path = str | os.PathLike[str]

MAX_LABEL_CHARACTERS = 200
_MAX_FILE_BYTES = 64 << 10


@dataclass(frozen=True)
class IdentityFile:
    """What an identity file says without being opened. `wrapped_by` is `passphrase`, `trinity`, or None."""

    id: str
    label: str
    created: str
    wrapped_by: str | None


def save_identity(
    path: Path, identity: Identity, label: str, *, wrap: Wrap | None = None, overwrite: bool = False
) -> None:
    """Write an identity file, 0600 and durably.

    Raise KeyFileError, also if there is a file and `overwrite` is not set.
    """
    recipient_id = identity.recipient.id
    content: dict[str, object] = {
        "format": "trinity-snap identity",
        "version": 1,
        "id": recipient_id,
        "label": _check_label(label),
        "created": created_now(),
    }
    seed = to_base64(identity.seed)
    if wrap is None:
        content["seed"] = seed
    else:
        content["wrapped"] = wrap_secret(json.dumps({"identity": recipient_id, "seed": seed}).encode("ascii"), wrap)
    write_key_file(path, content, mode=0o600, overwrite=overwrite)


def load_identity(
    path: Path, *, passphrase: Callable[[], str] | None = None, trinity_key: str | None = None
) -> Identity:
    """Read an identity file, unwrapping it with what is given; `passphrase` is called only if it is needed.

    Raise KeyFileError if the file is missing, damaged, readable by others, or wrapped in a way for which
    nothing was given; WrongKey if the passphrase or key does not open it.
    """
    return _opened(read_key_file(path, "identity", private=True), path, passphrase, trinity_key)


def read_identity(
    data: bytes, *, passphrase: Callable[[], str] | None = None, trinity_key: str | None = None
) -> Identity:
    """The identity that is the text of an identity file, which a command gave. Raise as `load_identity` does."""
    where = "What the command gave"
    return _opened(parse_key_file(data, where, "identity"), where, passphrase, trinity_key)


def _opened(
    content: Mapping[str, object], path: Path, passphrase: Callable[[], str] | None, trinity_key: str | None
) -> Identity:
    try:
        recipient_id, label = _id_and_label(content)
        if "wrapped" not in content:
            seed = base64_field(content, "seed")
        else:
            inner = unwrap_secret(path, object_field(content, "wrapped"), passphrase, trinity_key)
            if inner.get("identity") != recipient_id:
                raise IntegrityError("what is wrapped in it is another identity")
            seed = base64_field(inner, "seed")
        identity = Identity(seed, label)
    except IntegrityError as error:
        raise _damaged(path, error) from error
    if identity.recipient.id != recipient_id:
        raise KeyFileError(f"{path} is damaged: its seed does not belong to the identity {recipient_id} that it names.")
    return identity


def inspect_identity(path: Path) -> IdentityFile:
    """What an identity file says without being unwrapped. Raise KeyFileError as `load_identity` does."""
    content = read_key_file(path, "identity", private=True)
    try:
        recipient_id, label = _id_and_label(content)
        wrapped_by = object_field(content, "wrapped").get("by") if "wrapped" in content else None
    except IntegrityError as error:
        raise _damaged(path, error) from error
    return IdentityFile(
        id=recipient_id,
        label=label,
        created=str(content.get("created", "")),
        wrapped_by=None if wrapped_by is None else str(wrapped_by),
    )


def save_recipient(path: Path, recipient: Recipient, *, overwrite: bool = False) -> None:
    """Write a recipient file, which anybody may read.

    Raise KeyFileError, also if there is a file and `overwrite` is not set.
    """
    content: dict[str, object] = {
        "format": "trinity-snap recipient",
        "version": 1,
        "id": recipient.id,
        "label": _check_label(recipient.label),
        "created": created_now(),
        "public": to_base64(recipient.public),
    }
    write_key_file(path, content, mode=0o644, overwrite=overwrite)


def load_recipient(path: Path) -> Recipient:
    """Read a recipient file. Raise KeyFileError if it is missing or damaged."""
    content = read_key_file(path, "recipient", private=False)
    try:
        recipient_id, label = _id_and_label(content)
        recipient = Recipient(base64_field(content, "public"), label)
    except IntegrityError as error:
        raise _damaged(path, error) from error
    if recipient.id != recipient_id:
        raise KeyFileError(
            f"{path} is damaged: its public key is not that of the recipient {recipient_id} that it names."
        )
    return recipient


def save_host_key(path: Path, host: HostSecret, *, overwrite: bool = False) -> None:
    """Write a host key file, 0600 and durably.

    Raise KeyFileError, also if there is a file and `overwrite` is not set.
    """
    content: dict[str, object] = {
        "format": "trinity-snap host key",
        "version": 1,
        "repository": host.repository_id.hex(),
        "created": created_now(),
        "secret": to_base64(host.secret),
    }
    write_key_file(path, content, mode=0o600, overwrite=overwrite)


def load_host_key(path: Path) -> HostSecret:
    """Read a host key file, else systemd's credential of it. Raise KeyFileError if it is missing, damaged, or readable by others.

    A file that systemd has encrypted is opened in memory.
    """
    if not os.path.exists(path) and (own := given(HOST_KEY)) is not None:
        path = own
    content = read_key_file(path, "host key", private=True)
    try:
        return HostSecret(base64_field(content, "secret"), hex_field(content, "repository", REPOSITORY_ID_BYTES))
    except IntegrityError as error:
        raise _damaged(path, error) from error


def has_host_key(path: Path) -> bool:
    """Whether there is a host key for `load_host_key`."""
    return os.path.exists(path) or given(HOST_KEY) is not None


def _check_label(label: str) -> str:
    if len(label) > MAX_LABEL_CHARACTERS or not label.isprintable():
        raise KeyFileError(f"A label is at most {MAX_LABEL_CHARACTERS} printable characters.")
    return label


def _id_and_label(content: Mapping[str, object]) -> tuple[str, str]:
    recipient_id = hex_field(content, "id", RECIPIENT_ID_BYTES).hex()
    label = content.get("label", "")
    if not isinstance(label, str) or len(label) > MAX_LABEL_CHARACTERS or not label.isprintable():
        raise IntegrityError("its label is not a short text")
    return recipient_id, label


def write_key_file(path: Path, content: Mapping[str, object], *, mode: int, overwrite: bool) -> None:
    """Write the JSON object of a key file durably. Raise KeyFileError, also if there is a file and not `overwrite`."""
    data = (json.dumps(content, indent=2) + "\n").encode("ascii")
    try:
        write_file_durably(path, data, mode=mode, replace=overwrite)
    except FileExistsError as error:
        raise KeyFileError(
            f"There is a file at {path} already.",
            untouched="It was left as it is.",
            next_step="Choose another path, or move that file away after making sure that nobody needs it.",
        ) from error
    except OSError as error:
        raise KeyFileError(f"{path} cannot be written: {error.strerror or error}.") from error


def read_key_file(path: Path, kind: str, *, private: bool) -> dict[str, object]:
    """The JSON object of a key file of that kind. Raise KeyFileError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise KeyFileError(
            f"There is no {kind} file at {path}.",
            next_step="`trinity-snap init` makes the keys of a new host." if kind == "host key" else "",
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise KeyFileError(f"The {kind} file {path} cannot be read: {reason}.") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileError(f"{path} is not a regular file, so it is no {kind} file.")
        if private and status.st_mode & 0o077:
            raise KeyFileError(
                f"The {kind} file {path} can be used by others than its owner "
                f"(mode {stat.S_IMODE(status.st_mode):04o}).",
                next_step=f"Run `chmod 600 {path}`; if others have had access to this host, make a new key.",
            )
        data = os.read(descriptor, _MAX_FILE_BYTES + 1)
    except OSError as error:
        raise KeyFileError(
            f"The {kind} file {path} cannot be read: {os.strerror(error.errno or errno.EIO)}."
        ) from error
    finally:
        os.close(descriptor)
    if len(data) > _MAX_FILE_BYTES:
        raise KeyFileError(f"{path} is too long for a {kind} file.")
    if private and is_encrypted(data):
        data = decrypt(os.fspath(path), f"trinity-snap-{kind.replace(' ', '-')}")
    return parse_key_file(data, str(path), kind)


def parse_key_file(data: bytes, where: str, kind: str) -> dict[str, object]:
    """The JSON object of a key file of that kind, read from `where`. Raise KeyFileError."""
    if data.startswith(b"$ANSIBLE_VAULT;"):
        raise KeyFileError(
            f"{where} is encrypted by Ansible Vault.",
            next_step=f"Let `keys.identity_command` open it: [ansible-vault, view, {where}].",
        )
    try:
        content = parse_object(data)
    except ValueError as error:
        raise KeyFileError(f"{where} is no {kind} file: {error}.") from error
    if content.get("format") != f"trinity-snap {kind}":
        raise KeyFileError(f"{where} is no {kind} file; its format is {content.get('format')!r:.60}.")
    version = content.get("version")
    if version != 1 or isinstance(version, bool):
        raise KeyFileError(f"{where} has version {version!r:.40}, which this version of trinity-snap does not know.")
    return content


def _damaged(path: Path, error: IntegrityError) -> KeyFileError:
    return KeyFileError(f"{path} is damaged: {str(error).rstrip('.')}.")
