"""Parts of a volume's tree as trees of their own: complete from the top, hard links included."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence

import msgspec

from trinity_snap.errors import IntegrityError, UsageError
from trinity_snap.repository.manifest import Entry, is_below, sort_key
from trinity_snap.repository.points import Volume
from trinity_snap.restore.directories import check_path, shown
from trinity_snap.restore.source import PointSource

__all__ = ["ancestors", "outermost", "select_paths", "select_units"]


def ancestors(path: bytes) -> list[bytes]:
    """The directories above `path`, from the tree's own (the empty path) down."""
    if not path:
        return []
    parts = path.split(b"/")
    return [b"/".join(parts[:count]) for count in range(len(parts))]


def outermost(paths: Iterable[bytes]) -> list[bytes]:
    """The paths in manifest order, without those inside another."""
    result: list[bytes] = []
    for path in sorted(set(paths), key=sort_key):
        if not result or not is_below(path, result[-1]):
            result.append(path)
    return result


def select_paths(source: PointSource, volume: Volume, paths: Sequence[bytes]) -> Iterator[Entry]:
    """The subtrees at `paths`, and the directories above them. Raise UsageError if a path is not in the volume."""
    chosen = outermost(paths)
    given: set[bytes] = set()

    def parts() -> Iterator[Entry]:
        for path in chosen:
            check_path(path)
            for above in ancestors(path):
                if above not in given:
                    given.add(above)
                    entry = source.entry(volume, above)
                    if entry is None or entry.type != "d":
                        raise UsageError(
                            f"The recovery point has no {shown(path)} in {volume.name}.",
                            next_step="`trinity-snap show POINT --path DIRECTORY` lists what it has.",
                        )
                    yield entry
            empty = True
            for entry in source.entries(volume, path):
                if empty and entry.path != path:
                    break
                empty = False
                yield entry
            if empty:
                raise UsageError(
                    f"The recovery point has no {shown(path)} in {volume.name}.",
                    next_step="`trinity-snap show POINT --path DIRECTORY` lists what it has.",
                )

    return _with_link_targets(source, volume, parts(), chosen)


def select_units(
    source: PointSource, volume: Volume, units: Container[bytes], entries: Iterable[Entry]
) -> Iterator[Entry]:
    """Of a volume's entries those at or below one of `units`, and the directories above them."""

    def parts() -> Iterator[Entry]:
        above: list[Entry] = []
        given = 0
        unit: bytes | None = None
        for entry in entries:
            path = entry.path
            if unit is not None and is_below(path, unit):
                yield entry
                continue
            unit = None
            while above and not is_below(path, above[-1].path):
                above.pop()
            given = min(given, len(above))
            if path in units:
                unit = path
                yield from above[given:]
                given = len(above)
                yield entry
            elif entry.type == "d":
                above.append(entry)

    return _with_link_targets(source, volume, parts(), units)


def _with_link_targets(
    source: PointSource, volume: Volume, entries: Iterable[Entry], chosen: Container[bytes]
) -> Iterator[Entry]:
    """Make the first of several names of a file the file itself where its first name is not among the chosen."""
    moved: dict[bytes, bytes] = {}
    for entry in entries:
        if entry.type != "h":
            yield entry
            continue
        target = entry.target
        if any(above in chosen for above in [*ancestors(target), target]):
            yield entry
        elif target in moved:
            yield msgspec.structs.replace(entry, target=moved[target])
        else:
            check_path(target)
            first = source.entry(volume, target)
            if first is None or first.type != "f" or sort_key(target) >= sort_key(entry.path):
                raise IntegrityError(
                    f"The recovery point has {shown(entry.path)} as a hard link to {target!r}, which is no file before it."
                )
            moved[target] = entry.path
            yield msgspec.structs.replace(first, path=entry.path)
