"""What differs between two recovery points. Pages that both have are not even read: cost follows the change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trinity_snap.browse.together import reader_for
from trinity_snap.repository.manifest import Entry, PageReference, sort_key

if TYPE_CHECKING:
    from trinity_snap.repository.points import RecoveryPoint, Volume
    from trinity_snap.repository.reader import PointReader
    from trinity_snap.repository.repository import Repository

__all__ = ["Change", "Kind", "differences"]

Kind = Literal["added", "removed", "changed", "metadata"]


@dataclass(frozen=True)
class Change:
    """One name that differs. `before` is None if it was added, `after` if it was removed.

    `changed`: another type, or other content; `metadata`: only other owners, modes, times or extended attributes.
    """

    kind: Kind
    volume: str
    before: Entry | None
    after: Entry | None

    @property
    def path(self) -> bytes:
        """Its path in the volume."""
        one = self.after or self.before
        assert one is not None
        return one.path


def differences(repository: Repository, before: RecoveryPoint, after: RecoveryPoint) -> Iterator[Change]:
    """What differs, volume by volume in the order of their names, each in the order of paths.

    Volumes belong together that have the same name, or else the same place in the container. Raise IntegrityError or
    TargetError.
    """
    reader = reader_for(repository, (before, after))
    for name, old, new in _pairs(before, after):
        old_pages = [] if old is None else reader.pages(old)
        new_pages = [] if new is None else reader.pages(new)
        both = {page.page_id for page in old_pages} & {page.page_id for page in new_pages}
        yield from _merge(name, _entries(reader, old_pages, both), _entries(reader, new_pages, both))


def _pairs(before: RecoveryPoint, after: RecoveryPoint) -> list[tuple[str, Volume | None, Volume | None]]:
    left = {volume.name: volume for volume in before.volumes}
    pairs: list[tuple[str, Volume | None, Volume | None]] = []
    alone = []
    for volume in after.volumes:
        old = left.pop(volume.name, None)
        if old is None:
            alone.append(volume)
        else:
            pairs.append((volume.name, old, volume))
    for volume in alone:
        same = [old for old in left.values() if old.destination and old.destination == volume.destination]
        pairs.append((volume.name, left.pop(same[0].name) if len(same) == 1 else None, volume))
    pairs += [(old.name, old, None) for old in left.values()]
    return sorted(pairs, key=lambda pair: pair[0])


def _entries(reader: PointReader, pages: list[PageReference], besides: set[bytes]) -> Iterator[Entry]:
    for page in pages:
        if page.page_id not in besides:
            yield from reader.page(page)


def _merge(volume: str, before: Iterator[Entry], after: Iterator[Entry]) -> Iterator[Change]:
    old, new = next(before, None), next(after, None)
    while old is not None or new is not None:
        if new is None or (old is not None and sort_key(old.path) < sort_key(new.path)):
            yield Change("removed", volume, old, None)
            old = next(before, None)
        elif old is None or sort_key(new.path) < sort_key(old.path):
            yield Change("added", volume, None, new)
            new = next(after, None)
        else:
            if old != new:
                yield Change("metadata" if _content(old) == _content(new) else "changed", volume, old, new)
            old, new = next(before, None), next(after, None)


def _content(entry: Entry) -> tuple[object, ...]:
    return entry.type, entry.size, entry.chunks, entry.target, entry.device, entry.extents
