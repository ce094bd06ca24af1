"""What was restored on this host, and is still there: so that a restore of many agents goes on where it stopped.

One JSON file per agent, `<state directory>/restored/<hash of its name>.json`, written durably once a restore of all of the agent
is checked and in its place. It names what came of it closely enough to see whether that is still the same directory. If a
container is to be made later, its definition is in there, too, until it is made.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trinity_snap.durable import fsync_directory, make_directory_durably, write_file_durably
from trinity_snap.errors import RestoreError, RestoreRefused
from trinity_snap.restore.journal import timestamp
from trinity_snap.restore.plan import RestorePlan
from trinity_snap.restore.volumes import find_volume, volume_directory

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["Place", "Restored", "all_restored", "forget_restored", "missing_places", "note_restored"]

_GET_GENERATION = 0x80087601
"""FS_IOC_GETVERSION of Linux, which fills in an int, on machines of 64 bits."""


@dataclass(frozen=True)
class Place:
    """A volume or a path of the host that was restored. `inode` and `generation` are its directory's, and no other one's ever."""

    name: str
    kind: str
    inode: int
    generation: int


@dataclass(frozen=True)
class Restored:
    """A restore of a whole agent that is done. `point_created` and `restored` are times as in JSON.

    `container` is the name of its container, empty if the point has none; `definition` is there until it is made.
    """

    agent: str
    point: str
    host: str
    run_id: str
    point_created: str
    restore_id: str
    restored: str
    files: int
    bytes: int
    places: tuple[Place, ...] = ()
    container: str = ""
    state: str = ""
    definition: Mapping[str, Any] | None = field(default=None, repr=False)
    version: int = 1

    def save(self, state_dir: Path) -> None:
        """Write it durably. Raise RestoreError."""
        path = _path(state_dir, self.agent)
        try:
            make_directory_durably(path.parent)
            write_file_durably(path, json.dumps(asdict(self), indent=1).encode())
        except OSError as error:
            raise RestoreError(
                f"{path} cannot be written: {error.strerror or error}.",
                untouched=f"{self.agent} is restored; only that it is cannot be noted.",
                next_step="See that `state: directory:` in the policy names a directory on a disk with room.",
            ) from error


def note_restored(
    plan: RestorePlan, docker: DockerClient | None, *, files: int, amount: int, container: str
) -> Restored:
    """What is to be noted of a plan that was carried out; `container` is the one that is to be made later, if any."""
    point = plan.point
    places = []
    for volume in plan.volumes:
        found = None if volume.kind == "path" or docker is None else find_volume(docker, volume.name)
        live = volume.live if found is None else volume_directory(found)
        if live is not None:
            places.append(Place(volume.name, volume.kind, *_identity(live)))
    definition = point.container or {}
    return Restored(
        agent=plan.agent,
        point=point.id,
        host=point.host,
        run_id=point.run_id,
        point_created=point.created.isoformat(),
        restore_id=plan.id,
        restored=timestamp(),
        files=files,
        bytes=amount,
        places=tuple(places),
        container=str(definition.get("Name") or "").lstrip("/"),
        state=str(definition.get("State") or "running"),  # older points do not say
        definition=definition if container else None,
    )


def made_container(one: Restored, state_dir: Path) -> Restored:
    """Note that its container is there: the definition, with what may be secret in it, is not needed any more."""
    done = replace(one, definition=None)
    done.save(state_dir)
    return done


def forget_restored(state_dir: Path, agent: str) -> None:
    """Something else is going to be restored there."""
    path = _path(state_dir, agent)
    with suppress(FileNotFoundError):
        os.unlink(path)
        fsync_directory(path.parent)


def all_restored(state_dir: Path) -> list[Restored]:
    """Everything that is noted, `platform` first, then by name. A file that cannot be read is as one that is not there."""
    found = []
    for path in (state_dir / "restored").glob("*.json"):
        with suppress(OSError, ValueError, TypeError, KeyError):
            fields = json.loads(path.read_bytes())
            fields["places"] = tuple(Place(**place) for place in fields["places"])
            found.append(Restored(**fields))
    return sorted(found, key=lambda one: (one.agent != "platform", one.agent))


def missing_places(one: Restored, docker: DockerClient | None) -> list[str]:
    """The names of what was restored and is not there any more, or is another one of that name."""
    return [place.name for place in one.places if not _is_there(place, docker)]


def _is_there(place: Place, docker: DockerClient | None) -> bool:
    try:
        live = Path(place.name)
        if place.kind != "path":
            found = None if docker is None else find_volume(docker, place.name)
            if found is None:
                return False
            live = volume_directory(found)
        return _identity(live) == (place.inode, place.generation)
    except (OSError, RestoreRefused):
        return False


def _identity(path: Path) -> tuple[int, int]:
    """Inode and generation (0 on filesystems that have none): a number is given again, with another generation. Raise OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        generation = bytearray(8)
        with suppress(OSError):
            fcntl.ioctl(descriptor, _GET_GENERATION, generation)
        return os.fstat(descriptor).st_ino, int.from_bytes(generation[:4], "little")
    finally:
        os.close(descriptor)


def _path(state_dir: Path, agent: str) -> Path:
    return state_dir / "restored" / f"{hashlib.sha256(agent.encode()).hexdigest()[:32]}.json"
