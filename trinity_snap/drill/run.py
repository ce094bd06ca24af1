"""One drill: restore a point into a scratch place, look whether it is good, clean up, and remember what came of it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.drill.command import run_command
from trinity_snap.drill.databases import check_databases
from trinity_snap.drill.result import DrillResult, remember
from trinity_snap.drill.scratch import Scratch, kept_name, scratch
from trinity_snap.errors import IntegrityError, TargetError, TrinitySnapError
from trinity_snap.progress import NullProgress, Progress
from trinity_snap.quiesce.steps import step
from trinity_snap.report.times import timestamp
from trinity_snap.repository.drills import put_drill
from trinity_snap.restore.names import new_restore_id
from trinity_snap.restore.planner import plan_restore
from trinity_snap.restore.run import execute

if TYPE_CHECKING:
    from trinity_snap.repository.points import RecoveryPoint
    from trinity_snap.repository.repository import Repository

__all__ = ["DrillSettings", "drill", "scratch_directory"]


@dataclass(frozen=True)
class DrillSettings:
    """How to drill. `seconds`: for all databases of an agent together, and again for the command."""

    state_dir: Path
    directory: Path
    command: str | None = None
    seconds: float = 3600.0
    databases: bool = True
    ignore: tuple[str, ...] = ()
    keep: bool = False
    target: str | None = None


def drill(
    repository: Repository, point: RecoveryPoint, settings: DrillSettings, progress: Progress | None = None
) -> DrillResult:
    """Drill one recovery point. What is wrong with it is in the result, and so is what kept the drill from proving it.

    Nothing but the scratch place, the state directory and one receipt is written. The result is remembered on this host and,
    where that is allowed, in the repository.
    """
    progress = progress or NullProgress()
    result = DrillResult(
        new_restore_id(),
        point.agent,
        point.id,
        timestamp(point.created),
        point.consistency,
        timestamp(datetime.now(UTC)),
        target=settings.target,
    )
    started = time.monotonic()
    try:
        with scratch(settings.state_dir, settings.directory, result.drill_id, keep=settings.keep) as place:
            _prove(repository, point, settings, place, result, progress)
        if settings.keep:
            kept = settings.directory / kept_name(result.drill_id)
            result.kept = str(kept) if kept.is_dir() else None
    except (TrinitySnapError, OSError) as error:
        result.outcome, result.reason = "failed", str(error)
        result.damaged = isinstance(error, IntegrityError)
    result.duration_seconds = round(time.monotonic() - started, 3)
    _record(repository, settings, result)
    return result


def _prove(
    repository: Repository,
    point: RecoveryPoint,
    settings: DrillSettings,
    place: Scratch,
    result: DrillResult,
    progress: Progress,
) -> None:
    plan = plan_restore(repository, point, state_dir=settings.state_dir, to=place.data)
    restored = execute(plan, repository, None, progress)
    result.files, result.bytes, result.skipped = restored.files, restored.bytes, restored.skipped
    step("drill.restored")
    problems = []
    if settings.databases:
        progress.stage(f"look for databases of {point.agent}")
        checks = check_databases(place.data, place.work, settings.ignore, settings.seconds)
        result.databases = sum(check.result == "sound" for check in checks)
        result.damaged_databases = [check for check in checks if check.result == "damaged"]
        result.unchecked_databases = [check for check in checks if check.result == "unchecked"]
        if result.damaged_databases:
            first = result.damaged_databases[0]
            problems.append(
                f"{len(result.damaged_databases)} SQLite databases came back as they were stored and are not sound: "
                f"{first.path} ({first.detail.splitlines()[0] if first.detail else 'no reason'})."
            )
    step("drill.checked")
    if settings.command is not None:
        progress.stage(f"run the command for {point.agent}")
        variables = {
            "TRINITY_SNAP_DRILL_DIRECTORY": str(place.data),
            "TRINITY_SNAP_DRILL_AGENT": point.agent,
            "TRINITY_SNAP_DRILL_POINT": point.id,
            "TRINITY_SNAP_DRILL_CREATED": timestamp(point.created),
        }
        output = place.work / "output"
        result.command = run_command(settings.command, place.data, output, variables, settings.seconds)
        if result.command.exit_code is None:
            problems.append(f"The command did not end within {settings.seconds:g} s.")
        elif result.command.exit_code:
            problems.append(f"The command ended with exit code {result.command.exit_code}.")
    step("drill.commanded")
    result.outcome = "failed" if problems else "proved"
    result.reason = " ".join(problems) or None


def _record(repository: Repository, settings: DrillSettings, result: DrillResult) -> None:
    """Remember on this host and in the repository; a drill has proved what it has proved even where it cannot say so."""
    summary = result.summary()
    try:
        remember(settings.state_dir, summary)
    except OSError as error:
        result.reason = " ".join(
            part for part in (result.reason, f"It could not be noted on this host: {error.strerror or error}.") if part
        )
    try:
        put_drill(repository.target, repository.host, summary)
        result.recorded = True
    except (TargetError, OSError):
        result.recorded = False


def scratch_directory(state_dir: Path, directory: Path | None) -> Path:
    """Where drills restore to: what the policy says, or beside the notes in the state directory."""
    return state_dir / "drills" if directory is None else Path(os.path.abspath(directory))
