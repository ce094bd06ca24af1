"""Where a command gets passphrases and Trinity's key: a file, a systemd credential, the terminal; never arguments."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.credentials import given
from trinity_snap.errors import KeyFileError, UsageError

if TYPE_CHECKING:
    from trinity_snap.repository.identity import Wrap
    from trinity_snap.repository.keys import Identity

PASSPHRASE_CREDENTIAL = "trinity-snap-passphrase"
TRINITY_KEY_CREDENTIAL = "trinity-snap-trinity-key"
_MAX_BYTES = 4096


def passphrase(file: Path | None, *, new: bool = False) -> str:
    """The passphrase: from `file`, else from systemd's credential, else from the terminal (twice if `new`).

    Raise KeyFileError if there is no way to get one, or if the two differ.
    """
    given = _from_file(file) or _from_credential(PASSPHRASE_CREDENTIAL)
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise KeyFileError(
            "A passphrase is needed, and there is no terminal to ask for it.",
            next_step=f"Use --passphrase-file, or a systemd credential `{PASSPHRASE_CREDENTIAL}`.",
        )
    from getpass import getpass

    typed = getpass("Passphrase: ", stream=sys.stderr)
    if new and getpass("Once more: ", stream=sys.stderr) != typed:
        raise KeyFileError("The two passphrases differ.")
    return typed


def trinity_key(file: Path | None) -> str | None:
    """Trinity's key: from `file`, else systemd's credential, else `$CREDENTIAL_ENCRYPTION_KEY`; None if nowhere."""
    from trinity_snap.trinity.envelope import KEY_VARIABLE

    return _from_file(file) or _from_credential(TRINITY_KEY_CREDENTIAL) or os.environ.get(KEY_VARIABLE) or None


def open_identity(path: Path, passphrase_file: Path | None, trinity_key_file: Path | None) -> Identity:
    """The identity in a file, unwrapped with whatever is needed. Raise KeyFileError or WrongKey."""
    from trinity_snap.repository.identity import load_identity

    return load_identity(
        path, passphrase=lambda: passphrase(passphrase_file), trinity_key=trinity_key(trinity_key_file)
    )


def identity_from(
    command: Sequence[str], place: Path, passphrase_file: Path | None, trinity_key_file: Path | None
) -> Identity:
    """The identity that a command writes to its standard output, as an identity file has it. It runs in `place`, and may ask.

    Raise KeyFileError or WrongKey. What it wrote is never shown, nor are its arguments.
    """
    from trinity_snap.repository.identity import read_identity

    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, cwd=place, check=False)
    except OSError as error:
        raise KeyFileError(f"`{command[0]}` of keys.identity_command cannot be run: {error.strerror}.") from error
    if done.returncode:
        raise KeyFileError(
            f"`{command[0]}` of keys.identity_command failed with exit code {done.returncode}.",
            untouched="Nothing was changed.",
            next_step=f"What it said is above. Try it in {place}.",
        )
    return read_identity(
        done.stdout, passphrase=lambda: passphrase(passphrase_file), trinity_key=trinity_key(trinity_key_file)
    )


def wrap_for(kind: str | None, passphrase_file: Path | None, trinity_key_file: Path | None) -> Wrap | None:
    """How to wrap a new identity, by the name of the way: `passphrase`, `trinity`, or None. Raise UsageError."""
    if kind is None:
        return None
    from trinity_snap.repository.identity import PassphraseWrap, TrinityWrap
    from trinity_snap.trinity.envelope import KEY_VARIABLE

    if kind == "passphrase":
        return PassphraseWrap(passphrase(passphrase_file, new=True))
    if kind == "trinity":
        key = trinity_key(trinity_key_file)
        if key is None:
            raise KeyFileError(
                "Trinity's key was not given.", next_step=f"Set {KEY_VARIABLE}, or use --trinity-key-file."
            )
        return TrinityWrap(key)
    raise UsageError(f"{kind!r:.40} is no way to wrap an identity: it is `passphrase` or `trinity`.")


def recovery_words(file: Path | None) -> str:
    """The 24 words: from `file`, else from the standard input, without echo on a terminal. Raise KeyFileError."""
    given = _from_file(file)
    if given is not None:
        return given
    if sys.stdin.isatty():
        from getpass import getpass

        return getpass("The 24 recovery words: ", stream=sys.stderr)
    return sys.stdin.read(_MAX_BYTES)


def _from_credential(name: str) -> str | None:
    return _from_file(given(name))


def _from_file(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_BYTES).decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise KeyFileError(f"{path} is not text in UTF-8.") from error
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}.") from error
    if not text:
        raise KeyFileError(f"{path} is empty.")
    return text


def may_open_unasked(path: Path, passphrase_file: Path | None, trinity_key_file: Path | None) -> bool:
    """Whether the identity in a file opens with what is at hand, without asking anybody. Raise KeyFileError."""
    from trinity_snap.repository.identity import inspect_identity

    wrapped_by = inspect_identity(path).wrapped_by
    if wrapped_by == "passphrase":
        return passphrase_file is not None or _from_credential(PASSPHRASE_CREDENTIAL) is not None
    return wrapped_by is None or trinity_key(trinity_key_file) is not None


def forbid_core_dumps() -> None:
    """Let no crash of this process write its memory, with the keys in it, to a disk."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
