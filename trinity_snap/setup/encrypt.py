"""Exchange secrets of this host for what only this host can open; see `trinity_snap.credentials`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.credentials import HOST_KEY, S3, decrypt, encrypt, is_encrypted
from trinity_snap.durable import write_file_durably
from trinity_snap.errors import KeyFileError

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy


@dataclass(frozen=True)
class Secret:
    """A file with a secret, and the name that it is bound to when it is encrypted."""

    path: Path
    name: str
    encrypted: bool


def secrets_of(policy: Policy) -> list[Secret]:
    """The host key and the credentials of buckets that the policy names, as far as they are there. Raise KeyFileError."""
    return [Secret(path, name, is_encrypted(_read(path))) for path, name in _files(policy) if path.exists()]


def encrypt_secret(secret: Secret) -> None:
    """Replace the file by its encrypted form, once that has been opened and compared.

    At any moment the file is there, as it was or encrypted. Raise KeyFileError with the file as it was.
    """
    untouched = "It was left as it is."
    sealed = encrypt(secret.path, secret.name)
    beside = secret.path.with_name(f".{secret.path.name}.encrypted")
    try:
        write_file_durably(beside, sealed, mode=0o600, replace=True)
        if decrypt(beside, secret.name) != _read(secret.path):
            raise KeyFileError(f"{secret.path} would not come back from systemd-creds as it was.", untouched=untouched)
        write_file_durably(secret.path, sealed, mode=0o600, replace=True)
    except OSError as error:
        raise KeyFileError(f"{secret.path} cannot be replaced: {error.strerror}.", untouched=untouched) from error
    finally:
        beside.unlink(missing_ok=True)


def _files(policy: Policy) -> Iterator[tuple[Path, str]]:
    yield policy.keys.host_key, HOST_KEY
    places = [policy.target, *policy.replicas]
    for path in dict.fromkeys(place.credentials_file for place in places if place.credentials_file is not None):
        yield path, S3


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}.", untouched="Nothing was changed.") from error
