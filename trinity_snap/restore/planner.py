"""Working out the plan of a restore: the point, the host and the operator's wishes in, a RestorePlan out."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.errors import IntegrityError, RestoreRefused, UsageError
from trinity_snap.repository.manifest import Entry
from trinity_snap.repository.points import RecoveryPoint, Volume
from trinity_snap.restore.containers import container_exists, users_of
from trinity_snap.restore.difference import compare_trees
from trinity_snap.restore.directories import check_path, shown
from trinity_snap.restore.journal import HeldState, refuse_unfinished
from trinity_snap.restore.names import new_restore_id
from trinity_snap.restore.plan import How, Mode, RestorePlan, Space, VolumePlan, measure_space
from trinity_snap.restore.selection import ancestors, outermost, select_paths
from trinity_snap.restore.source import PointSource, Repository
from trinity_snap.restore.system import is_mount_point
from trinity_snap.restore.volumes import clone_target, find_volume, volume_directory, volume_target

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["choose", "plan_restore"]

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_ENTRY_BYTES = 512  # what a name and an inode take, about
_BLOCK_BYTES = 4096


def plan_restore(
    repository: Repository,
    point: RecoveryPoint,
    *,
    state_dir: Path,
    agent: str | None = None,
    docker: DockerClient | None = None,
    to: Path | None = None,
    as_name: str | None = None,
    paths: Sequence[str] = (),
    in_place: bool = False,
    containers: bool = False,
    platform_paths: Collection[Path] | None = None,
) -> RestorePlan:
    """Work out what restoring `point` means here, without changing anything.

    Where it goes: over the agent's own volumes and paths (which need `docker`, unless there are paths only), into the directory
    `to`, or into new volumes for an agent called `as_name`. `paths` choose parts: as the agent sees them, as
    `VOLUME:RELATIVE`, or relative to the only volume that has them. `in_place` writes only what differs. `containers` also
    makes the agent's container from its recorded definition if it is missing. Paths of the host are only written to if they
    are in `platform_paths`; None allows all.

    Raise UsageError for wishes that make no sense, RestoreRefused for a restore that would harm something.
    """
    if (to is not None) + (as_name is not None) + in_place > 1:
        raise UsageError("--to, --as and --in-place exclude each other: give one of them.")
    if paths and (as_name is not None or in_place):
        raise UsageError("--path goes with --to, or alone; not with --as or --in-place.")
    if containers and (to is not None or as_name is not None):
        raise UsageError("--containers goes with a restore of the agent's own volumes, not with --to or --as.")
    if as_name is not None and not _NAME.fullmatch(as_name):
        raise UsageError(f"“{as_name}” cannot be part of a volume's name: use letters, digits, `_`, `.` and `-`.")
    names = [volume.name for volume in point.volumes]
    if len(set(names)) != len(names):
        raise IntegrityError("The recovery point has two volumes of one name.")
    reader = repository.reader(point)
    chosen = choose(reader, point, paths)
    mode: Mode = "directory" if to is not None else "in_place" if in_place else "paths" if paths else "swap"
    warnings: list[str] = []
    held: list[HeldState] = []
    if mode == "directory":
        assert to is not None
        volumes = [_into_directory(reader, volume, to, wanted) for volume, wanted in chosen]
        _check_empty(to, [volume.live for volume in volumes if volume.live is not None])
    else:
        volumes = [
            _into_host(reader, point, volume, wanted, mode, docker, as_name, platform_paths, warnings)
            for volume, wanted in chosen
        ]
        if docker is not None and as_name is None:
            held = users_of(
                docker,
                {volume.name for volume in volumes if volume.volume.kind != "path"},
                [volume.live for volume in volumes if volume.live is not None and volume.exists],
            )
        refuse_unfinished(state_dir)
    create = ""
    if containers:
        create = _container_to_create(point, docker, warnings)
    if point.problems:
        warnings.append(f"{len(point.problems)} entries could not be backed up and are not in this recovery point.")
    plan = RestorePlan(
        id=new_restore_id(),
        agent=agent or point.agent,
        point=point,
        mode=mode,
        state_dir=state_dir,
        volumes=tuple(volumes),
        containers=tuple(held),
        create_container=create,
        to=to,
        as_name=as_name,
        warnings=tuple(warnings),
    )
    return replace(plan, space=_space(reader, plan, docker))


def choose(reader: PointSource, point: RecoveryPoint, paths: Sequence[str]) -> list[tuple[Volume, tuple[bytes, ...]]]:
    """The volumes of a point, or those that `paths` are in, with these paths within each. Raise UsageError."""
    if not paths:
        return [(volume, ()) for volume in point.volumes]
    wanted: dict[str, list[bytes]] = {}
    for path in paths:
        volume, relative = _find_path(reader, point, path)
        wanted.setdefault(volume.name, []).append(relative)
    return [(volume, tuple(outermost(wanted[volume.name]))) for volume in point.volumes if volume.name in wanted]


def _find_path(reader: PointSource, point: RecoveryPoint, path: str) -> tuple[Volume, bytes]:
    candidates: list[tuple[Volume, bytes]] = []
    name, colon, rest = path.partition(":")
    named = point.volume(name) if colon else None
    if named is not None:
        candidates = [(named, _relative(rest))]
    elif path.startswith("/"):
        whole = os.path.normpath(path)
        inside = [
            (len(place), volume, whole[len(place.rstrip("/")) :])
            for volume in point.volumes
            for place in (volume.destination, volume.source)
            if place and (whole == place or whole.startswith(place.rstrip("/") + "/"))
        ]
        for _, volume, rest in sorted(inside, key=lambda each: -each[0]):
            candidates.append((volume, _relative(rest)))
    else:
        candidates = [(volume, _relative(path)) for volume in point.volumes]
    found = [(volume, each) for volume, each in candidates if reader.entry(volume, each) is not None]
    if not found:
        raise UsageError(
            f"The recovery point has no “{path}”.",
            untouched="Nothing was changed.",
            next_step="`trinity-snap show POINT --path DIRECTORY` lists what it has.",
        )
    if len(found) > 1 and not path.startswith("/"):
        names = ", ".join(f"{volume.name}:{shown(each)}" for volume, each in found)
        raise UsageError(f"“{path}” is in several volumes.", next_step=f"Say which one: {names}.")
    return found[0]


def _relative(path: str) -> bytes:
    relative = os.fsencode(path).strip(b"/")
    try:
        check_path(relative)
    except IntegrityError as error:
        raise UsageError(f"“{path}” is no path inside a volume.") from error
    return relative


def directory_name(volume: Volume) -> str:
    """What a volume is called in the directory of `--to`: its name; a path of the host without its first slash, in one part."""
    name = volume.name.strip("/").replace("/", "_") if volume.kind == "path" else volume.name
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise IntegrityError(f"The recovery point has a volume with the impossible name {volume.name!r}.")
    return name


def _into_directory(reader: PointSource, volume: Volume, to: Path, wanted: tuple[bytes, ...]) -> VolumePlan:
    files, amount = volume.files, volume.bytes
    if wanted:
        files, amount, _ = _count(select_paths(reader, volume, wanted))
    name = directory_name(volume)
    return VolumePlan(
        volume,
        volume.name,
        "directory",
        to / name,
        False,
        None,
        wanted,
        files,
        amount,
        created=len(wanted) or 1,
    )


def _check_empty(to: Path, places: Sequence[Path]) -> None:
    if len(set(places)) != len(places):
        raise RestoreRefused("Two of the paths would have one name in the directory: choose one with --path.")
    try:
        if to.is_symlink() or (to.exists() and not to.is_dir()):
            raise RestoreRefused(f"{to} is no directory.", next_step="Name an empty or a new directory.")
        if to.is_dir() and any(name != "lost+found" for name in os.listdir(to)):
            raise RestoreRefused(
                f"{to} is not empty.",
                untouched="Nothing was changed.",
                next_step="Name an empty or a new directory.",
            )
    except OSError as error:
        raise RestoreRefused(f"{to} cannot be looked at: {error.strerror}.") from error


def _into_host(
    reader: PointSource,
    point: RecoveryPoint,
    volume: Volume,
    wanted: tuple[bytes, ...],
    mode: Mode,
    docker: DockerClient | None,
    as_name: str | None,
    platform_paths: Collection[Path] | None,
    warnings: list[str],
) -> VolumePlan:
    target = None
    live: Path | None
    if volume.kind == "path":
        live = _platform_path(volume, as_name, platform_paths)
        name, exists = str(live), os.path.lexists(live)
    else:
        if docker is None:
            raise UsageError("Restoring volumes needs Docker.", next_step="Use --to to restore into a directory.")
        if as_name is not None:
            target = clone_target(volume, point.agent, as_name, point.id)
            if volume.options:
                warnings.append(f"{target.name} is a plain volume: the driver options of {volume.name} are left out.")
        else:
            target = volume_target(volume)
        name = target.name
        found = find_volume(docker, name)
        exists = found is not None
        if found is not None and as_name is not None:
            raise RestoreRefused(
                f"There is a volume {name} already.",
                untouched="Nothing was changed.",
                next_step="Choose another name for --as, or remove the volume.",
            )
        live = volume_directory(found) if found is not None else None
        if found is None and target.options:
            options = ", ".join(f"{key}={value}" for key, value in sorted(target.options.items()))
            warnings.append(f"Volume {name} is made with the driver options that it had: {options}.")
    if volume.selected and exists and not wanted and live is not None:
        wanted = _declared_only(reader, volume, mode, warnings)
    plan = VolumePlan(volume, name, "swap", live, exists, target, wanted, volume.files, volume.bytes)
    if wanted and b"" not in wanted and not exists:
        raise RestoreRefused(
            f"There is no {name} here to put single paths into.",
            untouched="Nothing was changed.",
            next_step="Restore the whole of it, or use --to.",
        )
    if wanted and b"" not in wanted:
        assert live is not None
        files, amount, _ = _count(select_paths(reader, volume, wanted))
        replaced = sum(_path_exists(live, path) for path in wanted)
        return replace(plan, how="paths", files=files, bytes=amount, created=len(wanted) - replaced, replaced=replaced)
    if live is None or not exists:
        return replace(plan, paths=(), created=1)
    if mode == "in_place" and live.is_dir() and not live.is_symlink():
        return _in_place(reader, plan, live)
    how: How = "contents" if live.is_dir() and is_mount_point(live) else "swap"
    return replace(plan, how=how, paths=(), replaced=1)


def _declared_only(reader: PointSource, volume: Volume, mode: Mode, warnings: list[str]) -> tuple[bytes, ...]:
    """What of a live volume is replaced by one of which not all was taken: that, and nothing else."""
    from trinity_snap.restore.salvage import SalvageReader
    from trinity_snap.trinity.declared import units

    what = f"The recovery point holds of {volume.name} only what was declared ({', '.join(volume.selected)})"
    chosen = tuple(units(volume.selected, (entry.path for entry in reader.entries(volume))))
    if mode == "in_place" or isinstance(reader, SalvageReader) or not chosen:
        why = "none of which was there" if not chosen else "and this way the rest of the volume would go"
        raise RestoreRefused(
            f"{what}, {why}.", untouched="Nothing was changed.", next_step="Restore into a directory with --to."
        )
    warnings.append(f"{what}; the rest of it stays as it is.")
    return tuple(outermost(chosen))


def _platform_path(volume: Volume, as_name: str | None, allowed: Collection[Path] | None) -> Path:
    if as_name is not None:
        raise UsageError(f"{volume.source} is a path of the host, which --as cannot rename.", next_step="Use --to.")
    path = Path(volume.source)
    if not path.is_absolute() or ".." in path.parts or path == Path("/"):
        raise IntegrityError(f"The recovery point has the impossible path {volume.source!r}.")
    if allowed is not None and path not in {Path(each) for each in allowed}:
        raise RestoreRefused(
            f"{path} is not among the paths that the policy protects on this host.",
            untouched="Nothing was changed.",
            next_step="Name it under `platform: paths:` in the policy, or use --to.",
        )
    return Path(os.path.realpath(path)) if path.exists() else path


def _in_place(reader: PointSource, plan: VolumePlan, live: Path) -> VolumePlan:
    holder = os.open(live.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = compare_trees(
            reader, lambda: reader.entries(plan.volume), holder, os.fsencode(live.name), content=False
        )
    except OSError as error:
        raise RestoreRefused(f"{live} cannot be compared: {error.strerror or error}.") from error
    finally:
        os.close(holder)
    return replace(
        plan,
        how="in_place",
        files=found.files,
        bytes=found.bytes,
        created=len(found.add),
        replaced=len(found.replace),
        removed=len(found.remove),
        kept=found.kept,
    )


def _path_exists(live: Path, path: bytes) -> bool:
    """Whether a path is there; refuse one that leads through something that is no directory."""
    root = os.fsencode(live)
    for above in ancestors(path):
        step = os.path.join(root, above) if above else root
        if not os.path.lexists(step):
            return False
        if os.path.islink(step) or not os.path.isdir(step):
            raise RestoreRefused(
                f"{shown(path)} cannot be put back: {shown(above)} is no directory any more.",
                untouched="Nothing was changed.",
                next_step=f"Restore {shown(above)} with --path, or use --to.",
            )
    return os.path.lexists(os.path.join(root, path))


def _container_to_create(point: RecoveryPoint, docker: DockerClient | None, warnings: list[str]) -> str:
    if docker is None:
        raise UsageError("Making containers needs Docker.")
    if not point.container:
        warnings.append("The recovery point has no definition of a container, so none is made.")
        return ""
    name = str(point.container.get("Name") or point.agent).lstrip("/")
    if not _NAME.fullmatch(name):
        raise IntegrityError(f"The recovery point has a container with the impossible name {name!r}.")
    return "" if container_exists(docker, name) else name


def _count(entries: Iterable[Entry]) -> tuple[int, int, int]:
    """The number of files, their bytes, and the bytes that they take on a disk."""
    files = amount = taken = 0
    for entry in entries:
        taken += _ENTRY_BYTES
        if entry.type == "f":
            files += 1
            amount += entry.size
            stored = sum(length for _, length in entry.extents) if entry.extents else entry.size
            taken += -(-stored // _BLOCK_BYTES) * _BLOCK_BYTES
        elif entry.type == "h":
            files += 1
    return files, amount, taken


def _space(reader: PointSource, plan: RestorePlan, docker: DockerClient | None) -> tuple[Space, ...]:
    def needs(exactly: bool) -> Iterator[tuple[Path, int, int]]:
        for volume in plan.volumes:
            where = volume.live or _docker_root(docker)
            amount = volume.bytes + volume.files * _BLOCK_BYTES
            inodes = volume.files
            if volume.how in ("swap", "contents", "directory") and not volume.paths:
                inodes = volume.volume.entries
                if exactly:
                    _, _, amount = _count(reader.entries(volume.volume))
            elif exactly and volume.how != "in_place":
                _, _, amount = _count(select_paths(reader, volume.volume, volume.paths))
            yield where, amount, inodes

    space = measure_space(list(needs(exactly=False)))
    if all(each.enough for each in space):
        return space
    # Sparse files make the sizes a poor guess; look at every file before saying that there is no room.
    return measure_space(list(needs(exactly=True)))


def _docker_root(docker: DockerClient | None) -> Path:
    root = Path(str(docker.info().get("DockerRootDir") or "/var/lib/docker")) if docker else Path("/")
    return root / "volumes"
