"""Proving that recovery points can be restored: everything that they name is there, and, on request, is what it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trinity_snap.errors import ForeignRepository, IntegrityError, ObjectMissing, TargetDenied
from trinity_snap.progress import NullProgress, Progress
from trinity_snap.repository.checks import ALL, CheckLog, Share, due_packs
from trinity_snap.repository.fences import read_fence
from trinity_snap.repository.manifest import CHUNK_ID_BYTES, Entry
from trinity_snap.repository.packcheck import PackVerdict, check_pack, check_packs
from trinity_snap.repository.packs import pack_name
from trinity_snap.repository.points import RecoveryPoint
from trinity_snap.repository.reader import PointReader
from trinity_snap.repository.receipts import Receipts, read_receipts
from trinity_snap.repository.recipients import current_recipients
from trinity_snap.repository.spares import Spares

if TYPE_CHECKING:
    from trinity_snap.repository.repository import Repository

__all__ = ["PointVerdict", "VerifyReport", "verify"]

_BadChunks = dict[bytes, set[str]]
"""Chunks that are not what their ids say, and in which packs: another pack may hold the same chunk as it should be."""

_FILES_NAMED = 1000


@dataclass
class PointVerdict:
    """What was found of one point. `files` are (volume, path) of files that cannot be restored, the first thousand.

    `damaged_objects` are what it needs and is damaged; the point is good all the same if other packs have what was in them.
    """

    id: str
    agent: str
    problems: list[str] = field(default_factory=list)
    files: list[tuple[str, bytes]] = field(default_factory=list)
    files_affected: int = 0
    damaged_objects: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether the whole point can be restored."""
        return not self.problems


@dataclass
class VerifyReport:
    """What was found of all points. `bytes_read` counts pack data, 0 unless data was read.

    `healed` are damaged packs whose every chunk that a point needs is in others, too. `packs_read` of `packs_checked` were read.
    """

    points: list[PointVerdict]
    unreadable: list[tuple[str, str]]
    damaged_objects: dict[str, str]
    packs_checked: int = 0
    packs_read: int = 0
    bytes_read: int = 0
    healed: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether everything that was looked at is whole, or is had whole from elsewhere."""
        lost = self.damaged_objects.keys() - self.healed
        return not self.unreadable and not lost and all(point.good for point in self.points)


def verify(
    repository: Repository,
    points: Sequence[RecoveryPoint],
    *,
    read_data: bool | Share = False,
    record: bool = False,
    condemn: bool = False,
    progress: Progress | None = None,
    clock: Callable[[], int] = time.time_ns,
) -> VerifyReport:
    """Check points, and with `read_data` the packs that they need, each once: all, or that share of them which is due.

    Packs that were damaged the last time are read in any case. Nothing is changed, but with `record` it is noted which packs
    were read, and with `condemn`, besides, that no run may rely on damaged ones. Damage does not raise: it is in the report.
    Raise TargetError if the storage cannot be read.
    """
    checking = _Checking(repository, points, progress or NullProgress())
    log = CheckLog(repository, condemn, checking.report.notes.append, clock) if record else None
    try:
        checking.run(ALL if read_data is True else read_data or Share(), log, clock())
    finally:
        if log is not None:
            log.flush()
    return checking.report


class _Checking:
    """One call of verify."""

    def __init__(self, repository: Repository, points: Sequence[RecoveryPoint], progress: Progress) -> None:
        self.repository = repository
        self.points = points
        self.progress = progress
        self.report = VerifyReport([], list(repository.unreadable_points), {})
        self.bad_chunks: _BadChunks = {}
        self.lengths = {reference.name: reference.length for point in points for reference in point.pack_references()}
        self.read: set[str] = set()
        self.intact: set[str] = set()  # not the bytes that were stored, and yet nothing of them is lost
        self.spares = repository.spares()

    def run(self, share: Share, log: CheckLog | None, now_ns: int) -> None:
        """Check all."""
        repository, report = self.repository, self.report
        for name in current_recipients(repository.target, repository.host).damaged:
            report.damaged_objects[name] = "This list of recipients is damaged, or was not written by this host."
        if share != Share():
            report.damaged_objects.update(_damaged_index(repository))
        receipts = _receipts(repository)
        report.damaged_objects.update(_damaged_notes(repository, receipts))
        packs = due_packs(self.lengths, receipts, share, now_ns)
        self.progress.stage("reading packs", sum(self.lengths[digest] for digest in packs))
        with closing(check_packs(repository, [(digest, self.lengths[digest]) for digest in packs])) as verdicts:
            for verdict in verdicts:
                self._take(verdict, log)
                self.progress.advance(self.lengths[verdict.digest], pack_name(verdict.digest))
        report.packs_checked = len(self.lengths)
        self.progress.stage("checking recovery points (points)", len(self.points))
        for point in self.points:
            self._check(point, log)
            self.progress.advance(1, point.agent)
        affected = {name for verdict in report.points if not verdict.good for name in verdict.damaged_objects}
        needed = {name for verdict in report.points for name in verdict.damaged_objects}
        report.healed = needed - affected - self.intact

    def _take(self, verdict: PackVerdict, log: CheckLog | None) -> None:
        self.read.add(verdict.digest)
        self.report.packs_read += 1
        self.report.bytes_read += self.lengths[verdict.digest]
        self._note(verdict, log)

    def _note(self, verdict: PackVerdict, log: CheckLog | None) -> None:
        if verdict.problem is not None:
            self.report.damaged_objects[verdict.object] = verdict.problem
            if verdict.table is not None and not verdict.bad:
                self.intact.add(verdict.object)
        if log is not None:
            log.add(bytes.fromhex(verdict.digest), verdict.problem)
        name = pack_name(verdict.digest)
        for chunk_id in verdict.bad - _elsewhere(self.spares, verdict):
            self.bad_chunks.setdefault(chunk_id, set()).add(name)

    def _check(self, point: RecoveryPoint, log: CheckLog | None) -> None:
        report = self.report
        reader = self.repository.reader(point, tables_from_packs=True)
        verdict = PointVerdict(point.id, point.agent)
        report.points.append(verdict)
        for name in reader.damaged_packs:  # those that do not open, though this run reads no data
            digest = name[-64:]
            if digest not in self.read and log is not None:
                self.read.add(digest)
                self._note(check_pack(self.repository, digest, self.lengths[digest]), log)
        for name, why in reader.damaged_objects.items():
            report.damaged_objects.setdefault(name, why)
        own = {pack_name(reference.name) for reference in point.pack_references()}
        verdict.damaged_objects = sorted(own & report.damaged_objects.keys() | reader.damaged_objects.keys())
        _check_point(reader, self.bad_chunks, verdict)
        if verdict.problems:
            verdict.problems[:0] = reader.damaged_packs.values()


def _receipts(repository: Repository) -> Receipts:
    try:
        return read_receipts(repository.target, repository.host)
    except TargetDenied:
        return Receipts()


def _damaged_notes(repository: Repository, receipts: Receipts) -> dict[str, str]:
    """Receipts and fences that are damaged, and points that receipts know and that nobody forgot."""
    forged = "It is damaged, or was not written by this host."
    found = dict.fromkeys(receipts.damaged, forged)
    for name in repository.target.list_prefix("fences/"):
        try:
            read_fence(repository.target, repository.host, name)
        except IntegrityError:
            found[name] = f"{forged} While it is there no backup is made; `trinity-snap prune` removes it."
        except ForeignRepository as error:
            found[name] = str(error)
        except (ObjectMissing, TargetDenied):
            continue
    if receipts.points:
        gone = "It was there and counted, nobody forgot it, and it is gone."
        found |= {f"points/{point}": gone for point in sorted(receipts.missing(repository.point_ids()))}
    return found


def _elsewhere(spares: Spares, verdict: PackVerdict) -> set[bytes]:
    """Those of a pack's bad chunks that can be read from another pack."""
    if not verdict.bad or verdict.table is None:
        return set()
    spares.look_for(verdict.bad)
    lengths = _lengths(verdict)
    name = pack_name(verdict.digest)
    return {one for one in verdict.bad if spares.chunk(one, lengths[one], (name,)) is not None}


def _lengths(verdict: PackVerdict) -> Mapping[bytes, int]:
    lengths = {}
    for segment in verdict.table or ():
        for number, length in enumerate(segment.lengths):
            lengths[segment.ids[number * CHUNK_ID_BYTES : (number + 1) * CHUNK_ID_BYTES]] = length
    return lengths


def _damaged_index(repository: Repository) -> dict[str, str]:
    """The objects of the index that cannot be read, and why. Restoring needs none of them."""
    from trinity_snap.repository.session import read_index

    def look(name: str) -> str | None:
        try:
            read_index(repository.target.get(name), repository.host, name)
        except (IntegrityError, ForeignRepository) as error:
            return str(error)
        except ObjectMissing:
            return "It is listed and not there."
        return None

    names = sorted(repository.target.list_prefix("index/"))
    with ThreadPoolExecutor(repository.target.parallel_gets) as pool:
        return {name: why for name, why in zip(names, pool.map(look, names), strict=True) if why is not None}


def _check_point(reader: PointReader, bad_chunks: _BadChunks, verdict: PointVerdict) -> None:
    lost_here = 0
    for volume in reader.point.volumes:
        try:
            references = reader.pages(volume)
        except IntegrityError as error:
            verdict.problems.append(f"The manifest of {volume.name} cannot be read: {error}")
            continue
        entries = files = size = 0
        whole = True
        lost: set[bytes] = set()
        for reference in references:
            try:
                page = reader.page(reference)
            except IntegrityError as error:
                verdict.problems.append(
                    f"A manifest page of {volume.name}, from {reference.first_path!r} on, cannot be read: {error}"
                )
                whole = False
                continue
            for entry in page:
                entries += 1
                if entry.type in "fh":
                    files += 1
                    size += entry.size
                if _cannot_be_restored(reader, entry, lost, bad_chunks):
                    lost.add(entry.path)
                    lost_here += 1
                    if len(verdict.files) < _FILES_NAMED:
                        verdict.files.append((volume.name, entry.path))
        if whole and (entries, files, size) != (volume.entries, volume.files, volume.bytes):
            verdict.problems.append(f"The manifest of {volume.name} does not hold as much as its point says.")
    verdict.files_affected = lost_here
    if lost_here:
        verdict.problems.append(f"Data of {lost_here} files is missing or damaged.")


def _cannot_be_restored(reader: PointReader, entry: Entry, lost: set[bytes], bad_chunks: _BadChunks) -> bool:
    """Whether data of a file is lost; `lost` are the files before it, of which it may be a further name."""
    if entry.type == "h":
        return entry.target in lost
    return bool(entry.chunks) and _is_lost(reader, entry.chunks, bad_chunks)


def _is_lost(reader: PointReader, chunks: bytes, bad_chunks: _BadChunks) -> bool:
    ids: Iterable[bytes] = (
        (chunks,)
        if len(chunks) == CHUNK_ID_BYTES
        else [chunks[at : at + CHUNK_ID_BYTES] for at in range(0, len(chunks), CHUNK_ID_BYTES)]
    )
    return any(
        not reader.has_chunk(chunk_id)
        or (chunk_id in bad_chunks and reader.pack_with(chunk_id) in bad_chunks[chunk_id])
        for chunk_id in ids
    )
