"""Which Ansible is run, and with what environment: little of the operator's own, since ansible-runner writes it down."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

from trinity_snap.errors import UsageError

_PASSED: tuple[str, ...] = ("HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TERM", "TMPDIR", "XDG_RUNTIME_DIR")
_PASSED += ("SSH_AUTH_SOCK", "KRB5CCNAME", "DBUS_SESSION_BUS_ADDRESS", "VIRTUAL_ENV")
_ALIVE = "-o ServerAliveInterval=15 -o ServerAliveCountMax=4"


def need_ansible() -> str:
    """The path of `ansible-playbook`: that of this Python, or else of the search path. Raise UsageError without import."""
    beside = Path(sys.executable).with_name("ansible-playbook")
    found = str(beside) if beside.exists() else shutil.which("ansible-playbook")
    if found is None or find_spec("ansible_runner") is None:
        missing = "ansible-playbook" if found is None else "ansible-runner"
        raise UsageError(
            f"`trinity-snap fleet` needs {missing} on this control node.",
            untouched="Nothing was done.",
            next_step="`pip install 'trinity-snap[ansible]'` brings it.",
        )
    return found


def environment(ansible: str, collections: Path, more: Iterable[str] = ()) -> dict[str, str]:
    """The environment for Ansible. `more` are names of variables that are passed on, too. Raise UsageError if one is not set.

    Host keys are checked. A module is never run a second time because a connection was lost. A peer that is gone is noticed
    within about a minute. What a user sets for Ansible (`ANSIBLE_…`) holds, where it does not contradict that.
    """
    given = os.environ
    found = {name: value for name, value in given.items() if name.startswith(("ANSIBLE_", "LC_"))}
    found |= {name: given[name] for name in _PASSED if name in given}
    for name in more:
        if name not in given:
            raise UsageError(
                f"There is no variable {name} in the environment to pass on.", untouched="Nothing was done."
            )
        found[name] = given[name]
    found["PATH"] = os.pathsep.join((str(Path(ansible).parent), given.get("PATH", os.defpath)))
    found.setdefault("LANG", "C.UTF-8")
    own = given.get("ANSIBLE_COLLECTIONS_PATH", "~/.ansible/collections:/usr/share/ansible/collections")
    found |= {
        "ANSIBLE_COLLECTIONS_PATH": f"{collections}:{own}",
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_SSH_RETRIES": "0",
        "ANSIBLE_RETRY_FILES_ENABLED": "False",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_LOCALHOST_WARNING": "False",
        "PYTHONUNBUFFERED": "1",
    }
    found.setdefault("ANSIBLE_PIPELINING", "True")
    found.setdefault("ANSIBLE_SSH_EXTRA_ARGS", _ALIVE)
    found |= _configuration(found)
    return found


def _configuration(found: Mapping[str, str]) -> dict[str, str]:
    """The operator's `./ansible.cfg`, which plays that run elsewhere would not find; as Ansible does, not where all can write."""
    path = Path.cwd() / "ansible.cfg"
    if "ANSIBLE_CONFIG" in found or not path.is_file() or path.parent.stat().st_mode & 0o002:
        return {}
    return {"ANSIBLE_CONFIG": str(path)}
