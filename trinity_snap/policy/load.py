"""Finding, reading and checking a policy."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.errors import PolicyError

if TYPE_CHECKING:
    from trinity_snap.policy.schema import MonitorSection, Policy, TargetSection, TrinitySection

DEFAULT_PATH = Path("/etc/trinity-snap/policy.yml")
VARIABLE = "TRINITY_SNAP_POLICY"
_MAX_BYTES = 1 << 20


def policy_path(path: str | os.PathLike[str] | None = None) -> Path:
    """Where the policy is: `path`, else `$TRINITY_SNAP_POLICY`, else `/etc/trinity-snap/policy.yml`."""
    return Path(path or os.environ.get(VARIABLE) or DEFAULT_PATH).absolute()


def load_policy(path: str | os.PathLike[str] | None = None) -> Policy:
    """Read and check the policy at `policy_path(path)`.

    Raise PolicyError if there is none, if it can be written by anybody, or with one line per mistake in it:
    `file:line: setting: what is wrong; what is allowed`.
    """
    found = policy_path(path)
    return parse_policy(_read(found), found)


def parse_policy(text: str, path: Path) -> Policy:
    """Check the text of a policy that is, or is to be, at `path`. Raise PolicyError."""
    from pydantic import ValidationError

    from trinity_snap.policy.document import dotted, parse_document
    from trinity_snap.policy.mistakes import explain_mistakes
    from trinity_snap.policy.schema import Policy

    document = parse_document(text, str(path))
    data = {} if document.data is None else document.data
    if not isinstance(data, dict):
        raise PolicyError(
            f"{path}:1: a policy is a mapping of settings such as `target:` and `agents:`.",
            next_step="`trinity-snap policy schema` shows what there is.",
        )
    try:
        policy = Policy.model_validate(data)
    except ValidationError as error:
        raise PolicyError(
            "\n".join(explain_mistakes(error, document, str(path))),
            untouched="Nothing was done.",
            next_step="docs/policy.md explains every setting.",
        ) from error
    return _at_home(policy, path, {dotted(location): line for location, line in document.lines.items()})


def _files(place: TargetSection, home: Path) -> dict[str, Path]:
    """The files that a target names, which are beside the policy where it gives no directory."""
    names = ("credentials_file", "ssh_key_file", "known_hosts_file")
    return {name: home / file for name in names if (file := getattr(place, name)) is not None}


def _beside(section: TrinitySection | MonitorSection, home: Path, *names: str) -> dict[str, Path]:
    """The files that a section names, likewise."""
    return {name: home / file for name in names if (file := getattr(section, name)) is not None}


def _at_home(policy: Policy, path: Path, lines: dict[str, int]) -> Policy:
    """The policy with paths of keys and credentials made absolute, and with where it came from."""
    home, keys = path.parent, policy.keys
    located = keys.model_copy(
        update={
            "host_key": home / keys.host_key,
            "identity": None if keys.identity is None else home / keys.identity,
            "recipients": tuple(str(home / pattern) for pattern in keys.recipients),
            "pins": None if keys.pins is None else home / keys.pins,
        }
    )
    if isinstance(lines.get("target"), int) and "target.url" not in lines:
        lines["target.url"] = lines["target"]
    for name in [name for name in lines if name.endswith("quiesce.drain")]:
        lines.setdefault(f"{name}.enabled", lines[name])
    target = policy.target.model_copy(update=_files(policy.target, home))
    replicas = tuple(replica.model_copy(update=_files(replica, home)) for replica in policy.replicas)
    trinity = policy.trinity.model_copy(update=_beside(policy.trinity, home, "key_file"))
    monitor = policy.monitor.model_copy(update=_beside(policy.monitor, home, "notify_file", "trinity_key_file"))
    update = {"keys": located, "target": target, "replicas": replicas, "trinity": trinity, "monitor": monitor}
    settled = policy.model_copy(update=update)
    settled._path = path
    settled._lines = lines
    return settled


def _read(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            _check(os.fstat(descriptor), path)
            data = b""
            while len(data) <= _MAX_BYTES and (more := os.read(descriptor, _MAX_BYTES + 1 - len(data))):
                data += more
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PolicyError(
            f"There is no policy at {path}.",
            next_step="`trinity-snap init` makes one, with keys and a repository.",
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise PolicyError(f"The policy {path} cannot be read: {reason}.", next_step="Run as root.") from error
    if len(data) > _MAX_BYTES:
        raise PolicyError(f"{path} is too long for a policy.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyError(f"{path}:{line}: this is not text in UTF-8.") from error


def _check(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise PolicyError(f"{path} is not a regular file, so it is no policy.")
    if status.st_mode & stat.S_IWOTH:
        raise PolicyError(
            f"Anybody may change the policy {path}, and root acts on it.",
            untouched="Nothing was done.",
            next_step=f"Look through it, then run `chmod 600 {path}`.",
        )
    if status.st_uid not in (0, os.geteuid()):
        raise PolicyError(
            f"The policy {path} belongs to user {status.st_uid}, who is neither root nor you.",
            untouched="Nothing was done.",
            next_step=f"Look through it, then run `chown root {path}`.",
        )
