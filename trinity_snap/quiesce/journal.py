"""What a run is about to do to containers and disks, on disk before it does it.

One file per run, `<state directory>/journal/<run id>.jsonl`, one JSON object per line, only ever appended
to, by the run and by its guardian. Notes that must survive a power cut (snapshots, staging directories) are
fsynced before the thing is made, and so are notes of containers that are about to be stopped and of hooks
that are about to run. Notes about pauses need to survive only the process: a reboot resumes every container
anyway; so nothing is fsynced while containers are paused.

What is about to happen does not happen if it cannot be noted (a full disk, say), nor if there is no room to note afterwards that
it was undone: that room is kept. What has been undone may stay without a note all the same (on a disk that broke, or where a
filesystem keeps no room): whoever reads the journal then looks again, and finds nothing to do.

| event | fields | meaning |
|---|---|---|
| `started` | `pid`, `start_ticks`, `boot_id`, `run_id` | which process the run is |
| `guarded` | `pid`, `start_ticks`, `boot_id` | which process is its guardian |
| `pausing` | `containers` | these were running and are about to be paused |
| `resumed` | `container`, `by` | this one is no longer held by the run |
| `stopping` | `containers` (`id`, `started_at`), `until` | these are about to be stopped; a stop takes until then at most |
| `started-again` | `container`, `by` | the run no longer keeps this one from running |
| `hook` | `container`, `execution`, `agent`, `after`, `timeout_seconds` | the before-hook is about to run |
| `hook-over` | `container`, `by` | the after-hook has run, or cannot any more |
| `holding-autonomy` | `agent`, `url`, files, `enabled_schedules` | its autonomy in Trinity is about to be switched off |
| `gave-back-autonomy` | `agent`, `by` | it is as it was |
| `making` | `kind`, `where`, `provider` | a snapshot or staging directory is about to be made |
| `removed` | `where` | it is gone again |
| `ended` | | nothing of the run is left |
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trinity_snap.durable import fsync_directory, make_directory_durably, reserve_room, write_all
from trinity_snap.errors import TrinitySnapError
from trinity_snap.quiesce.processes import ProcessIdentity, this_process

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_KEPT = 20
_NOTE_BYTES = 640  # of something undone


@dataclass(frozen=True)
class Leftover:
    """A thing on disk that a run noted before making it: what it is, where, and which provider knows about it."""

    kind: str
    where: Path
    provider: str


@dataclass(frozen=True)
class StoppedContainer:
    """A container that a run stops: in which life, and until when (seconds since 1970) Docker may still be at it."""

    id: str
    started_at: str
    until: float = 0.0


@dataclass(frozen=True)
class OpenHook:
    """A before-hook that was started: Docker's exec, and what has to run after it, for how long at most."""

    container: str
    execution: str
    agent: str
    after: str
    timeout_seconds: float


@dataclass(frozen=True)
class HeldAutonomy:
    """An agent whose schedules a run holds in the Trinity at `url`, and what it takes to give that back (paths, no key)."""

    agent: str
    url: str
    key_file: str | None = None
    ca_file: str | None = None
    enabled_schedules: int | None = None


@dataclass(frozen=True)
class JournalState:
    """What a journal says is still open. `process` is None if the journal is too short to tell."""

    run_id: str
    path: Path
    process: ProcessIdentity | None
    guardian: ProcessIdentity | None
    held: tuple[str, ...]
    leftovers: tuple[Leftover, ...]
    ended: bool
    stopped: tuple[StoppedContainer, ...] = ()
    hooks: tuple[OpenHook, ...] = ()
    autonomy: tuple[HeldAutonomy, ...] = ()

    @property
    def is_undone(self) -> bool:
        """Whether nothing is left open."""
        return not (self.held or self.leftovers or self.stopped or self.hooks or self.autonomy)


class Journal:
    """The journal of one run, open for appending. Safe to use from several threads."""

    def __init__(self, path: Path, run_id: str, descriptor: int) -> None:
        self.path = path
        self.run_id = run_id
        self._descriptor = descriptor
        self._is_cut = False
        self._owed = 1  # how many notes will have to be made of what was undone, and of the end
        self._lock = threading.Lock()

    @classmethod
    def start(cls, state_dir: Path, run_id: str) -> Journal:
        """Begin the journal of a new run of this process. Raise TrinitySnapError if there is one of that id."""
        if not _RUN_ID.fullmatch(run_id):
            raise ValueError(f"not a run id: {run_id!r}")
        directory = Path(state_dir) / "journal"
        path = directory / f"{run_id}.jsonl"
        try:
            make_directory_durably(directory)
            descriptor = os.open(
                path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
        except OSError as error:
            raise TrinitySnapError(
                f"The journal {path} cannot be begun: {error.strerror}.",
                untouched="No container was paused and no snapshot made.",
                next_step="See that the state directory has room and may be written.",
            ) from error
        journal = cls(path, run_id, descriptor)
        journal.note("started", durable=True, **asdict(this_process()))
        fsync_directory(directory)
        return journal

    @classmethod
    def reopen(cls, path: Path) -> Journal:
        """Open an existing journal to append to it. Raise OSError."""
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        journal = cls(path, path.stem, descriptor)
        with open(path, "rb") as file:
            if file.seek(0, os.SEEK_END) and _last_byte(path) != b"\n":
                write_all(descriptor, b"\n")  # close a line that a crash cut off
        return journal

    def note(self, event: str, *, durable: bool = False, owes: int = 0, **fields: object) -> None:
        """Append one event; on return it survives this process, and a power cut too if `durable`.

        There will be room for `owes` more notes, even if the disk is full by then. Raise OSError.
        """
        line = json.dumps({"event": event, "at": datetime.now(UTC).isoformat(), "run_id": self.run_id, **fields})
        with self._lock:
            if owes >= 0:
                reserve_room(self._descriptor, len(line) + 2 + (self._owed + owes) * _NOTE_BYTES)
            self._owed += owes
            start = b"\n" if self._is_cut else b""  # a line that a full disk cut off must not swallow this one
            self._is_cut = True
            write_all(self._descriptor, start + line.encode() + b"\n")
            self._is_cut = False
            if durable:
                os.fsync(self._descriptor)

    def guarded_by(self, process: ProcessIdentity) -> None:
        """Note which process is the run's guardian."""
        self.note("guarded", **asdict(process))

    def pausing(self, containers: Sequence[str]) -> None:
        """Note that these running containers (ids) are about to be paused."""
        self.note("pausing", owes=len(containers), containers=list(containers))

    def resumed(self, container: str, by: str) -> None:
        """Note that the run no longer holds a container."""
        self._note_undone("resumed", container=container, by=by)

    def stopping(self, containers: Sequence[StoppedContainer], until: float) -> None:
        """Note, durably, that these running containers are about to be stopped, which takes until then at most."""
        noted = [{"id": each.id, "started_at": each.started_at} for each in containers]
        self.note("stopping", durable=True, owes=len(noted), containers=noted, until=until)

    def started_again(self, container: str, by: str) -> None:
        """Note that the run no longer keeps a container from running."""
        self._note_undone("started-again", container=container, by=by)

    def hook(self, hook: OpenHook) -> None:
        """Note, durably, that a before-hook is about to run."""
        self.note("hook", durable=True, owes=1, **asdict(hook))

    def hook_over(self, container: str, by: str) -> None:
        """Note that the after-hook has run, or cannot any more."""
        self._note_undone("hook-over", container=container, by=by)

    def holding_autonomy(self, held: HeldAutonomy) -> None:
        """Note, durably, that an agent's autonomy is about to be switched off."""
        self.note("holding-autonomy", durable=True, owes=1, **asdict(held))

    def gave_back_autonomy(self, agent: str, by: str) -> None:
        """Note that an agent's autonomy is as it was."""
        self._note_undone("gave-back-autonomy", agent=agent, by=by)

    def making(self, leftovers: Sequence[Leftover]) -> None:
        """Note, durably, things that are about to be made on disk."""
        for number, leftover in enumerate(leftovers, 1):
            self.note(
                "making",
                durable=number == len(leftovers),
                owes=1,
                kind=leftover.kind,
                where=str(leftover.where),
                provider=leftover.provider,
            )

    def removed(self, where: Path) -> None:
        """Note that something noted with `making` is gone, or never came to be."""
        self._note_undone("removed", where=str(where))

    def end(self) -> bool:
        """Close the journal. Note the end, and return True, only if nothing is left open."""
        try:
            clean = read_journal(self.path).is_undone
            if clean:
                self.note("ended", durable=True, owes=-1)
            return clean
        except OSError:
            return False  # the next `recover` looks at it again
        finally:
            self.close()

    def _note_undone(self, event: str, **what: str) -> None:
        fields: dict[str, object] = {**what}
        with suppress(OSError):
            self.note(event, durable=False, owes=-1, **fields)

    def close(self) -> None:
        """Close the file and note nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def read_journal(path: Path) -> JournalState:
    """Read what a journal says. Lines that are not whole (cut off by a crash) say nothing. Raise OSError."""
    process: ProcessIdentity | None = None
    guardian: ProcessIdentity | None = None
    held: dict[str, None] = {}
    leftovers: dict[str, Leftover] = {}
    stopped: dict[str, StoppedContainer] = {}
    hooks: dict[str, OpenHook] = {}
    autonomy: dict[str, HeldAutonomy] = {}
    ended = False
    for event in _events(path):
        match event:
            case {"event": "started", "pid": int(pid), "start_ticks": int(ticks), "boot_id": str(boot)}:
                process = ProcessIdentity(pid, ticks, boot)
            case {"event": "guarded", "pid": int(pid), "start_ticks": int(ticks), "boot_id": str(boot)}:
                guardian = ProcessIdentity(pid, ticks, boot)
            case {"event": "pausing", "containers": list(containers)}:
                held |= dict.fromkeys(map(str, containers))
            case {"event": "resumed", "container": str(container)}:
                held.pop(container, None)
            case {"event": "stopping", "containers": list(containers), "until": int(until) | float(until)}:
                stopped |= {one["id"]: StoppedContainer(one["id"], one["started_at"], until) for one in containers}
            case {"event": "started-again", "container": str(container)}:
                stopped.pop(container, None)
            case {
                "event": "hook", "container": str(container), "execution": str(execution), "agent": str(agent),
                "after": str(after), "timeout_seconds": int(seconds) | float(seconds),
            }:  # fmt: skip
                hooks[container] = OpenHook(container, execution, agent, after, seconds)
            case {"event": "hook-over", "container": str(container)}:
                hooks.pop(container, None)
            case {"event": "holding-autonomy", "agent": str(agent), "url": str(url)}:
                autonomy[agent] = HeldAutonomy(
                    agent, url, event.get("key_file"), event.get("ca_file"), event.get("enabled_schedules")
                )
            case {"event": "gave-back-autonomy", "agent": str(agent)}:
                autonomy.pop(agent, None)
            case {"event": "making", "kind": str(kind), "where": str(where), "provider": str(provider)}:
                leftovers[where] = Leftover(kind, Path(where), provider)
            case {"event": "removed", "where": str(where)}:
                leftovers.pop(where, None)
            case {"event": "ended"}:
                ended = True
            case _:
                pass
    return JournalState(
        path.stem, path, process, guardian, tuple(held), tuple(leftovers.values()), ended,
        tuple(stopped.values()), tuple(hooks.values()), tuple(autonomy.values()),
    )  # fmt: skip


def journals(state_dir: Path) -> list[Path]:
    """All journals in a state directory, oldest first."""
    directory = Path(state_dir) / "journal"
    return sorted(directory.glob("*.jsonl"), key=lambda path: (path.stat().st_mtime_ns, path.name))


def forget_old(state_dir: Path) -> None:
    """Delete journals of runs that ended, except the newest few."""
    ended = [path for path in journals(state_dir) if read_journal(path).ended]
    for path in ended[:-_KEPT]:
        path.unlink(missing_ok=True)


def _events(path: Path) -> Iterator[dict[str, Any]]:  # JSON as it was written
    for line in path.read_bytes().splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


def _last_byte(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)
