"""Where a name is, over all recovery points: every page of every manifest is read once, however many points have it."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trinity_snap.browse.together import reader_for
from trinity_snap.errors import IntegrityError
from trinity_snap.progress import NullProgress, Progress
from trinity_snap.repository.manifest import Entry, decode_page

if TYPE_CHECKING:
    from trinity_snap.repository.points import RecoveryPoint
    from trinity_snap.repository.reader import PointReader
    from trinity_snap.repository.repository import Repository

__all__ = ["Found", "Search", "Version", "search"]


@dataclass
class Version:
    """One state of a file: its entry, and the points that have it so, newest first."""

    entry: Entry
    points: list[RecoveryPoint] = field(default_factory=list)


@dataclass
class Found:
    """One name: its versions, newest first, and whether the agent's newest point still has it."""

    agent: str
    volume: str
    path: bytes
    versions: list[Version] = field(default_factory=list)
    in_latest: bool = False


@dataclass
class Search:
    """What was found, by agent, volume and path. `unread` says, a sentence each, what could not be looked at."""

    found: list[Found]
    points: int
    unread: list[str]


def search(
    repository: Repository, points: Sequence[RecoveryPoint], pattern: str, progress: Progress | None = None
) -> Search:
    """Look for a pattern with `*`, `?` and `[…]` in `points`, which are newest first.

    It is one of names or, if it has a `/`, of whole paths from a volume's root. Raise TargetError.
    """
    matches, needle = _compile(pattern)
    by_agent: dict[str, list[RecoveryPoint]] = {}
    for point in points:
        by_agent.setdefault(point.agent, []).append(point)
    found: list[Found] = []
    unread: dict[str, None] = {}
    progress = progress or NullProgress()
    progress.stage("looking through recovery points")
    for agent in sorted(by_agent):
        found += _of_agent(repository, agent, by_agent[agent], matches, needle, unread)
    return Search(found, len(points), list(unread))


def _of_agent(
    repository: Repository,
    agent: str,
    points: list[RecoveryPoint],
    matches: Callable[[bytes], object],
    needle: bytes,
    unread: dict[str, None],
) -> list[Found]:
    reader = reader_for(repository, points)
    pages: dict[bytes, list[Entry]] = {}
    names: dict[tuple[str, bytes], Found] = {}
    for point in points:
        for volume in point.volumes:
            try:
                references = reader.pages(volume)
            except IntegrityError as error:
                unread[f"Recovery point {point.id[:8]} of {agent}, {volume.name}: {error}"] = None
                continue
            for reference in references:
                matched = pages.get(reference.page_id)
                if matched is None:
                    matched = pages[reference.page_id] = _look(
                        reader, reference.page_id, matches, needle, agent, unread
                    )
                for entry in matched:
                    _add(names, agent, volume.name, entry, point, newest=point is points[0])
    return [names[key] for key in sorted(names)]


def _look(
    reader: PointReader,
    page_id: bytes,
    matches: Callable[[bytes], object],
    needle: bytes,
    agent: str,
    unread: dict[str, None],
) -> list[Entry]:
    try:
        data = bytes(reader.chunk(page_id))
        # Names are in a page as they are: one without the longest word of the pattern need not be decoded.
        return [entry for entry in decode_page(data) if matches(entry.path)] if needle in data else []
    except IntegrityError as error:
        unread[f"A part of the directories of {agent}: {error}"] = None
        return []


def _add(
    names: dict[tuple[str, bytes], Found], agent: str, volume: str, entry: Entry, point: RecoveryPoint, *, newest: bool
) -> None:
    one = names.get((volume, entry.path))
    if one is None:
        one = names[volume, entry.path] = Found(agent, volume, entry.path)
    one.in_latest = one.in_latest or newest
    for version in one.versions:
        if version.entry == entry:
            version.points.append(point)
            return
    one.versions.append(Version(entry, [point]))


def _compile(pattern: str) -> tuple[Callable[[bytes], object], bytes]:
    """What tells whether a path fits, and the longest text that every path that fits has in it."""
    wanted = os.fsencode(pattern)
    words = re.split(rb"[*?]|\[.*\]", wanted)
    whole = b"/" in wanted
    expression = re.compile(
        fnmatch.translate(os.fsdecode(wanted.strip(b"/"))).encode("utf-8", "surrogateescape"), re.DOTALL
    )
    longest = max((word.strip(b"/") for word in words), key=len)
    if whole:
        return expression.match, longest
    return lambda path: expression.match(path.rpartition(b"/")[2]), longest
