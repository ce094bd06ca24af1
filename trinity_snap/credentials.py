"""Secrets that systemd keeps: files that only this host can open, and what a unit was given in $CREDENTIALS_DIRECTORY.

`systemd-creds encrypt` (systemd 250 and newer) binds a file to a secret of the host, to its TPM if it has one, and to a name.
See systemd.exec(5), “Credentials”.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from trinity_snap.errors import KeyFileError

HOST_KEY = "trinity-snap-host-key"
S3 = "trinity-snap-s3"
_ENCRYPTED = re.compile(rb"[A-Za-z0-9+/=\s]{64,}")
_SECONDS = 90


def given(name: str) -> Path | None:
    """The file of a credential that systemd gave to this unit."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return None
    path = Path(directory) / name
    return path if path.exists() else None


def is_encrypted(data: bytes) -> bool:
    """Whether it is what `systemd-creds encrypt` writes, which is base64 and nothing else."""
    return _ENCRYPTED.fullmatch(data) is not None


def decrypt(path: Path | str, name: str) -> bytes:
    """What is in an encrypted file, in memory only. Raise KeyFileError."""
    return _run("decrypt", path, name, f"{path} is encrypted for another host, for another purpose, or damaged")


def encrypt(path: Path, name: str) -> bytes:
    """The encrypted form of a file, which is left as it is. Raise KeyFileError."""
    return _run("encrypt", path, name, f"{path} could not be encrypted")


def _run(verb: str, path: Path | str, name: str, failed: str) -> bytes:
    argv = ["systemd-creds", verb, f"--name={name}", "--", str(path), "-"]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_SECONDS)
    except FileNotFoundError as error:
        raise KeyFileError(
            f"{failed}: this host has no `systemd-creds`.", next_step="It comes with systemd, from version 250 on."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise KeyFileError(f"{failed}: `systemd-creds {verb}` did not end.") from error
    if done.returncode or not done.stdout:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        anew = "`trinity-snap key host-key`, where the identity is, writes a host key anew."
        raise KeyFileError(
            f"{failed}: {''.join(said) or 'systemd-creds did not say why'}.",
            next_step=anew if verb == "decrypt" else "",
        )
    return done.stdout
