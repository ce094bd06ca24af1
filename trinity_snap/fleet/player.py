"""One play: a playbook of the collection on some hosts, through ansible-runner."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trinity_snap.errors import TrinitySnapError, UsageError
from trinity_snap.fleet.environment import environment, need_ansible
from trinity_snap.fleet.request import FleetRequest

_LOOK_SECONDS = 0.5
_COLOURS = re.compile(r"\x1b\[[0-9;]*[mK]")
_SHOWN_LINES = 12


@dataclass(frozen=True)
class Played:
    """How a play ended. `cancelled` is what was asked for; `complaint` is what Ansible said outside of any task."""

    code: int
    cancelled: bool
    complaint: str


@dataclass
class Player:
    """Plays for one fleet run, in its private directory."""

    request: FleetRequest
    directory: Path
    plays: int = 0
    _ansible: str = field(default_factory=need_ansible)

    def hosts(self) -> list[str]:
        """The names of the hosts that inventory and limit select. Raise UsageError if they are none, or cannot be read."""
        command = [str(Path(self._ansible).with_name("ansible")), "all", "--list-hosts", *self._options()]
        for source in self.request.sources():
            command += ["-i", source]
        if self.request.limit:
            command += ["--limit", self.request.limit]
        done = subprocess.run(
            command, env=self._environment(), cwd=self.directory / "project", stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        said = _COLOURS.sub("", done.stderr)
        names = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ")]
        if done.returncode or not names:
            raise UsageError(
                f"The inventory selects no host. {_last(said)}".strip(),
                untouched="Nothing was done.",
                next_step=f"`ansible-inventory -i {self.request.inventory[0]} --graph` shows what Ansible makes of it.",
            )
        return list(dict.fromkeys(names))

    def play(
        self,
        playbook: str,
        hosts: Iterable[str],
        variables: Mapping[str, object],
        handle: Callable[[Mapping[str, Any]], None],
        cancelled: Callable[[], bool],
    ) -> Played:
        """Play `trinity.snap.PLAYBOOK`. Every event goes to `handle`; `cancelled` is asked twice a second."""
        from ansible_runner.interface import init_runner

        self.plays += 1
        limit = self._write(f"limit-{self.plays}", "".join(f"{host}\n" for host in hosts))
        given = self._write(f"variables-{self.plays}.json", json.dumps({**self.request.variables, **variables}))
        options = [*self._options(), "--skip-tags", "say", "-e", f"@{given}", "--limit", f"@{limit}"]
        complaints: list[str] = []
        asked = False

        def event(data: Mapping[str, Any]) -> bool:
            handle(data)
            if data.get("event") in ("verbose", "error", "warning") and data.get("stdout"):
                complaints.append(_COLOURS.sub("", str(data["stdout"])))
            return False  # not to be written down

        def ask() -> bool:
            nonlocal asked
            if not asked and cancelled():
                asked = True
                _end_descendants()  # Ansible's workers are in sessions of their own
            return asked

        runner = init_runner(
            private_data_dir=str(self.directory),
            playbook=f"trinity.snap.{playbook}",
            inventory=self.request.sources(),
            cmdline=shlex.join(options),
            forks=self.request.forks,
            settings={"pexpect_timeout": _LOOK_SECONDS},
            quiet=True,
            suppress_output_file=True,
            event_handler=event,
            status_handler=lambda status, runner_config: _forget_command(status, runner_config),
            cancel_callback=ask,
        )
        runner.config.env = _with_runner(runner.config.env, self._environment())
        try:
            status, code = runner.run()
        except Exception as error:  # of ansible-runner, which knows no tree of errors
            _end_descendants()
            raise TrinitySnapError(f"ansible-runner failed: {type(error).__name__}: {error}.") from error
        return Played(int(code or 0), asked or status == "canceled", _last("\n".join(complaints)))

    def _options(self) -> list[str]:
        options = ["--check"] if self.request.check else []
        for path in self.request.vault_password_files:
            options += ["--vault-password-file", str(path.expanduser().absolute())]
        if self.request.become_password_file is not None:
            options += ["--become-password-file", str(self.request.become_password_file.expanduser().absolute())]
        return options

    def _environment(self) -> dict[str, str]:
        return environment(self._ansible, self.directory / "collections", self.request.environment)

    def _write(self, name: str, text: str) -> Path:
        path = self.directory / name
        with open(
            os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL | os.O_CLOEXEC, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(text)
        return path


def _with_runner(prepared: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Our environment, and of ansible-runner's only what makes events come."""
    names: tuple[str, ...] = (
        "ANSIBLE_CALLBACK_PLUGINS",
        "ANSIBLE_STDOUT_CALLBACK",
        "ORIGINAL_STDOUT_CALLBACK",
        "AWX_ISOLATED_DATA_DIR",
    )
    names += ("RUNNER_OMIT_EVENTS", "RUNNER_ONLY_FAILED_EVENTS")
    return {**own, **{name: prepared[name] for name in names if name in prepared}}


def _forget_command(status: Mapping[str, object], config: Any) -> None:
    """Remove the file with the environment as soon as the play runs."""
    if status.get("status") == "running":
        with suppress(OSError):
            os.unlink(os.path.join(config.artifact_dir, "command"))


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[-_SHOWN_LINES:])


def _end_descendants() -> None:
    """Kill every process that descends from this one: Ansible, its workers and their connections. What they began goes on."""
    for number in _descendants(os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def _descendants(process: int) -> list[int]:
    found, waiting = [], [process]
    while waiting:
        number = waiting.pop()
        with suppress(OSError):
            for task in os.listdir(f"/proc/{number}/task"):
                children = [int(one) for one in Path(f"/proc/{number}/task/{task}/children").read_text().split()]
                found += children
                waiting += children
    return found
