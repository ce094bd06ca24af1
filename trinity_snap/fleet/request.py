"""What is asked of a fleet: which action, on which hosts, how fast, and with which variables."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trinity_snap.errors import UsageError
from trinity_snap.fleet.limits import Amount, Threshold


@dataclass(frozen=True)
class Action:
    """One of the things a fleet can do: the playbook `trinity.snap.NAME` and the module in it that does the work.

    `answers` are the keys of the module's result that hold the answer of the host's command; none means the result itself.
    `holds` says that a host which is lost in the middle may have agents held or a restore half done, and is recovered.
    """

    name: str
    playbook: str
    module: str
    answers: tuple[str, ...] = ()
    holds: bool = False


ACTIONS: Mapping[str, Action] = {
    action.name: action
    for action in (
        Action("backup", "backup", "trinity_snap_backup", holds=True),
        Action("status", "status", "trinity_snap_info", ("status",)),
        Action("verify", "verify", "trinity_snap_verify", ("verify",)),
        Action("repair", "repair", "trinity_snap_repair", ("repair",)),
        Action("recover", "recover", "trinity_snap_recover", ("recover",), holds=True),
        Action("restore", "restore", "trinity_snap_restore", ("restore",), holds=True),
        Action("restore_fleet", "restore_fleet", "trinity_snap_restore_fleet", ("restore_fleet",), holds=True),
        Action("drill", "drill", "trinity_snap_drill", ("drill",)),
        Action("prune", "prune", "trinity_snap_prune", ("prune",)),
    )
}


@dataclass(frozen=True)
class FleetRequest:
    """Everything that a fleet run needs to know.

    `inventory` are Ansible's inventory sources: paths, or lists of names with a comma in them. `variables` go to every host over
    those of the inventory, and hold nothing secret. `batches` empty means all hosts at once, or as many as `forks` at a time if
    there is a threshold.
    """

    action: Action
    inventory: tuple[str, ...]
    limit: str | None = None
    variables: Mapping[str, object] = field(default_factory=dict)
    forks: int = 20
    batches: tuple[Amount, ...] = ()
    max_failures: Threshold | None = None
    check: bool = False
    vault_password_files: tuple[Path, ...] = ()
    become_password_file: Path | None = None
    environment: tuple[str, ...] = ()
    reconnect_seconds: float = 300.0
    run_id: str = field(default_factory=lambda: secrets.token_hex(16))

    def sizes(self) -> tuple[Amount, ...]:
        """The sizes of batches that hold."""
        if self.batches:
            return self.batches
        return (Amount(self.forks),) if self.max_failures is not None else (Amount(100, percent=True),)

    def sources(self) -> list[str]:
        """The inventory sources, with absolute paths. Raise UsageError for one that is not there."""
        found = []
        for source in self.inventory:
            if "," in source:
                found.append(source)
                continue
            path = Path(source).expanduser()
            if not path.exists():
                raise UsageError(f"There is no inventory {source}.", untouched="Nothing was done.")
            found.append(str(path.absolute()))
        return found


def parse_variables(given: list[str]) -> dict[str, object]:
    """Variables as `ansible-playbook -e` takes them: `name=value`, a JSON object, or `@file` with one. Raise UsageError."""
    found: dict[str, object] = {}
    for text in given:
        name, sign, value = text.partition("=")
        try:
            if text.startswith("@"):
                more = json.loads(Path(text[1:]).read_text("utf-8"))
            elif text.startswith("{"):
                more = json.loads(text)
            else:
                more = {name: value} if sign and name.isidentifier() else None
        except (OSError, ValueError) as error:
            raise UsageError(f"{text[:60]!r} cannot be read as variables: {error}.") from None
        if not isinstance(more, dict):
            raise UsageError(
                f"{text[:60]!r} sets no variable.",
                next_step="Write NAME=VALUE, a JSON object, or @FILE with a JSON object.",
            )
        found.update(more)
    return found
