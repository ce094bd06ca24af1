"""Trinity's own data, the pseudo-agent `platform`: when it may be restored, and whether Trinity's own dumps of it are fresh.

Its database (`trinity.db`, SQLite with a rollback journal, or Postgres) must not be exchanged under a backend or a scheduler
that has it open: what they write afterwards goes to the old one, or into both. So a restore is refused while they run. A database
whose `-wal`, `-shm` or `-journal` is of another time is damaged when it is opened: they are restored together or not at all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trinity_snap.agents.model import PLATFORM_AGENT
from trinity_snap.errors import RestoreRefused

if TYPE_CHECKING:
    from docker import DockerClient

    from trinity_snap.restore.plan import RestorePlan

__all__ = ["dump_warnings", "refuse_while_in_use", "stale_dumps"]

_SERVICES = ("backend", "scheduler")
_SERVICE_LABEL = "com.docker.compose.service"
_PROJECT_LABEL = "com.docker.compose.project"
_ALIVE = frozenset(("running", "restarting", "paused"))
_DUMP = re.compile(r"trinity-backup-([0-9]{8})\.(db|dump)")
_DUMP_AGE = timedelta(hours=26)  # nightly, and a dump takes its time
_BESIDE = ("-wal", "-shm", "-journal")


def refuse_while_in_use(plan: RestorePlan, docker: DockerClient | None) -> None:
    """Raise RestoreRefused if a restore of the platform would go under Trinity's backend or scheduler, or mix databases."""
    if plan.point.agent != PLATFORM_AGENT or plan.mode == "directory":
        return
    paths = [volume.live for volume in plan.volumes if volume.live is not None]
    using = _services(() if docker is None else docker.api.containers(), paths)
    if using:
        names = " and ".join(sorted(using))
        raise RestoreRefused(
            f"Trinity's data cannot be exchanged while {names} {'runs' if len(using) == 1 else 'run'}.",
            untouched="Nothing was changed.",
            next_step=(
                f"Stop them: `docker stop {' '.join(sorted(using))}`, never `docker compose down`, which removes the agents' "
                "network. Restore, then start them: `docker compose up -d`. Agents come after that (docs/trinity.md)."
            ),
        )
    for volume in plan.volumes:
        if volume.live is not None and volume.how in ("paths", "swap"):
            _refuse_mixed(volume.live, volume.paths, single=volume.live.is_file())


def _services(containers: Iterable[dict[str, Any]], paths: Sequence[Path]) -> set[str]:
    """The names of containers that are a backend or scheduler of the Trinity whose data is at these paths."""
    found: dict[str, tuple[bool, str]] = {}
    projects = set()
    for summary in containers:
        name = str((summary.get("Names") or ["/"])[0]).lstrip("/")
        labels = summary.get("Labels") or {}
        mounts = [str(mount.get("Source") or "") for mount in summary.get("Mounts") or ()]
        touches = any(_overlaps(source, path) for source in mounts for path in paths)
        is_service = labels.get(_SERVICE_LABEL) in _SERVICES or re.fullmatch(
            r"trinity-(backend|scheduler)(-[0-9]+)?", name
        )
        if touches and _PROJECT_LABEL in labels:
            projects.add(str(labels[_PROJECT_LABEL]))
        if is_service and summary.get("State") in _ALIVE:
            found[name] = (touches, str(labels.get(_PROJECT_LABEL, "")))
    # Another installation on the same Docker is left out, if one of them shows by its mounts to be the one.
    return {name for name, (touches, project) in found.items() if touches or project in projects or not projects}


def _overlaps(source: str, path: Path) -> bool:
    one, other = os.path.realpath(source or "/nonexistent"), os.path.realpath(path)
    return one == other or one.startswith(f"{other.rstrip('/')}/") or other.startswith(f"{one.rstrip('/')}/")


def _refuse_mixed(live: Path, paths: Sequence[bytes], *, single: bool) -> None:
    """Of single files that are put back, no database may come beside the live journal of another time."""
    chosen = [live] if single else [live / os.fsdecode(path) for path in paths]
    for file in chosen:
        if not re.search(r"\.(db|sqlite3?)\Z", file.name):
            continue
        left = [file.with_name(file.name + end) for end in _BESIDE]
        left = [each for each in left if os.path.lexists(each) and each not in chosen]
        if left:
            raise RestoreRefused(
                f"{file} would come beside {', '.join(each.name for each in left)} of another time, and be damaged by it.",
                untouched="Nothing was changed.",
                next_step=f"Restore the whole directory, or move {' '.join(map(str, left))} away first.",
            )


def dump_warnings(paths: Sequence[Path], now: datetime | None = None) -> list[str]:
    """Whether Trinity's nightly dumps, where the platform's paths hold its data, are there and fresh; as sentences."""
    return [sentence for _, sentence in _dumps(paths, datetime.now(UTC) if now is None else now)]


def stale_dumps(paths: Sequence[Path], now: datetime) -> list[str]:
    """Of these, those on dumps that were made once and are not any more: a Trinity that makes none at all is no alarm."""
    return [sentence for there, sentence in _dumps(paths, now) if there]


def _dumps(paths: Sequence[Path], now: datetime) -> Iterator[tuple[bool, str]]:
    for path in paths:
        directory = path / "backups"
        has_database = (path / "trinity.db").is_file()
        try:
            names = os.listdir(directory)
        except OSError:
            names = []
        dates = sorted(match[1] for name in names if (match := _DUMP.fullmatch(name)))
        if not dates and not has_database:
            continue
        why = "" if has_database else " Its database is not there as a file, so that the dump is all there is of it."
        if not dates:
            yield (
                False,
                f"Trinity has made no dump of its database in {directory}; the snapshot has the database itself.",
            )
            continue
        # Of the day that a name has nobody knows the hour: it is taken for the last one.
        made = datetime.strptime(dates[-1], "%Y%m%d").replace(tzinfo=UTC) + timedelta(days=1)
        if now - made > _DUMP_AGE:
            day = f"{dates[-1][:4]}-{dates[-1][4:6]}-{dates[-1][6:]}"
            yield (
                True,
                f"Trinity's newest dump of its database in {directory} is of {day}, and it makes one every night.{why}",
            )
