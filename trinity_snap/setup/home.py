"""The directory of a policy and its keys, and the note in it that says that setting it up has not ended."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.durable import fsync_directory, make_directory_durably, write_file_durably
from trinity_snap.errors import TrinitySnapError, UsageError
from trinity_snap.policy.load import load_policy, parse_policy
from trinity_snap.targets import is_local, local_path
from trinity_snap.targets.settings import without_password

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy

OPERATOR = "operator"
RECOVERY = "recovery"
PINS = "recipients.pins"
_NOTE = ".init-unfinished"


@dataclass(frozen=True)
class Home:
    """A policy (which may not be written yet: then `text` is what to write) and the directory that it is in."""

    path: Path
    policy: Policy
    text: str | None

    @property
    def unfinished(self) -> str:
        """What was interrupted here, `init` or `adopt`; empty if nothing was."""
        try:
            return self._note.read_text("ascii")
        except FileNotFoundError:
            return ""

    @property
    def _note(self) -> Path:
        return self.path.parent / _NOTE

    def begin(self, what: str) -> None:
        """Make the directory and note that `what` begins. Raise TrinitySnapError."""
        try:
            make_directory_durably(self.path.parent)
            write_file_durably(self._note, what.encode())
            for key in (self.policy.keys.host_key, self.policy.keys.identity, self.policy.keys.pins):
                if key is not None:
                    make_directory_durably(key.parent)
        except OSError as error:
            raise _refused(self.path.parent, error) from error

    def finish(self) -> None:
        """Write the policy if it is not there, and remove the note. Raise TrinitySnapError."""
        try:
            if self.text is not None:
                write_file_durably(self.path, self.text.encode(), replace=False)
            self._note.unlink(missing_ok=True)
            fsync_directory(self.path.parent)
        except OSError as error:
            raise _refused(self.path, error) from error


def find_home(path: Path, target: str | None, *, sealed: bool = False) -> Home:
    """The policy at `path`, or the one to be made there, with its repository at `target` if that is given.

    One that is to be made has no identity if it is `sealed`, and a place for pins.

    Raise PolicyError for a policy that is there and not valid, UsageError if its target is another one.
    """
    if os.path.lexists(path):
        policy = load_policy(path)
        if target is not None and _place(policy.target.url) != _place(target):
            raise UsageError(
                f"The policy {path} has the target {policy.target.url}, and --target says {without_password(target)}.",
                untouched="Nothing was changed.",
                next_step="Leave out --target, or change the policy first.",
            )
        return Home(path, policy, None)
    from trinity_snap.policy.render import render_policy

    values: dict[str, object] = {"version": 1}
    if target is None:
        target = parse_policy("", path).target.url
    elif not target.startswith(("/", "file:", "s3:", "sftp:")):
        target = os.path.abspath(target)
    if sealed:
        values |= {"keys.identity": None, "keys.pins": PINS}
    text = render_policy({**values, "target.url": target})
    return Home(path, parse_policy(text, path), text)


def _place(url: str) -> str:
    """The same for all ways to name the same target."""
    return os.path.normpath(local_path(url)) if is_local(url) else url.rstrip("/")


def _refused(path: Path, error: OSError) -> TrinitySnapError:
    return TrinitySnapError(
        f"{path} cannot be written: {error.strerror or error}.",
        next_step="Run as root, or name another place with --policy.",
    )
