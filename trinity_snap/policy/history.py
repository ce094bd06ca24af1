"""The versions of a policy: who put which in force, when; and the file itself, exchanged at once.

Every version that was replaced stays in the directory `previous` beside the policy (0700), under the time of its replacement,
as the Ansible module keeps them, too. `previous/changes.jsonl` says of each change made here who made it, when, and how.
"""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import json
import os
import pwd
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from trinity_snap.durable import fsync_directory, make_directory_durably, write_file_durably
from trinity_snap.errors import PolicyError, UsageError

__all__ = ["Version", "changing", "difference", "put_in_force", "versions", "who"]

DIRECTORY = "previous"
_LOG = "changes.jsonl"
_STAMP = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{9}Z")


@dataclass(frozen=True)
class Version:
    """A policy that was replaced: number 1 is the last one. By whom and how is "" where it was not this command that did it."""

    number: int
    replaced: datetime
    by: str
    how: str
    path: Path

    def text(self) -> str:
        """What it said. Raise PolicyError."""
        try:
            return self.path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PolicyError(f"{self.path} cannot be read: {error}.") from error


def who(said: str | None = None) -> str:
    """Who changes it: as was said, else whoever became root by sudo, else the user."""
    if said:
        return said
    name = os.environ.get("SUDO_USER")
    if name:
        return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Keep other changes away from a policy meanwhile. Raise PolicyError."""
    directory = path.parent / DIRECTORY
    try:
        make_directory_durably(directory)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise PolicyError(
            f"{directory}, where earlier policies are kept, cannot be used: {error.strerror}.",
            untouched="The policy is as it was.",
            next_step="Run as root.",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def put_in_force(path: Path, before: str, after: str, by: str, how: str) -> None:
    """Exchange the policy, which has to be `before` still, and keep that. The caller holds `changing`. Raise PolicyError."""
    directory = path.parent / DIRECTORY
    try:
        present = path.read_bytes()
        if present != before.encode():
            raise PolicyError(
                f"{path} was changed by somebody else meanwhile.",
                untouched="It is as they left it.",
                next_step="Look at it, and change it again.",
            )
        status = path.stat()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + f".{time.time_ns() % 10**9:09d}Z"
        kept = directory / f"{path.name}.{stamp}"
        write_file_durably(kept, present, replace=False)
        note = {
            "at": datetime.now(UTC).isoformat(), "by": by, "how": how, "previous": kept.name,
            "sha256": hashlib.sha256(after.encode()).hexdigest(),
        }  # fmt: skip
        with open(directory / _LOG, "a", encoding="ascii", opener=_private) as log:
            log.write(json.dumps(note) + "\n")
            log.flush()
            os.fsync(log.fileno())
        fsync_directory(directory)
        write_file_durably(path, after.encode(), mode=status.st_mode & 0o755)
    except OSError as error:
        raise PolicyError(
            f"The policy could not be written: {error.strerror or error}.", untouched="It is as it was."
        ) from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def versions(path: Path) -> list[Version]:
    """The versions that were replaced, the last one first."""
    directory = path.parent / DIRECTORY
    notes = {}
    try:
        for line in (directory / _LOG).read_text("utf-8").splitlines():
            try:
                note = json.loads(line)
                notes[note["previous"]] = (str(note["by"]), str(note["how"]))
            except (ValueError, KeyError, TypeError):
                continue  # a line that a crash cut off
    except OSError:
        pass
    found = []
    for file in directory.glob(f"{path.name}.*"):
        stamp = file.name.removeprefix(f"{path.name}.")
        if _STAMP.fullmatch(stamp):
            found.append((stamp, file))
    result = []
    for number, (stamp, file) in enumerate(sorted(found, reverse=True), 1):
        by, how = notes.get(file.name, ("", ""))
        moment = datetime.strptime(stamp[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
        result.append(Version(number, moment, by, how, file))
    return result


def version(path: Path, number: int) -> Version:
    """One of them. Raise UsageError."""
    found = versions(path)
    if not 1 <= number <= len(found):
        raise UsageError(
            f"There is no version {number} of {path}: {len(found)} are kept.",
            untouched="The policy is as it was.",
            next_step="`trinity-snap policy history` shows them.",
        )
    return found[number - 1]


def difference(before: str, after: str, old: str, new: str) -> list[str]:
    """What differs, as a unified diff without line ends."""
    return [
        line.rstrip("\n")
        for line in difflib.unified_diff(before.splitlines(), after.splitlines(), old, new, lineterm="")
    ]
