"""Proving that recovery points can be restored: everything that they name is there, and, on request, is what it was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trinity_snap.errors import ForeignRepository, IntegrityError, ObjectMissing, SessionDamaged
from trinity_snap.progress import NullProgress, Progress
from trinity_snap.repository.manifest import CHUNK_ID_BYTES
from trinity_snap.repository.packs import pack_name
from trinity_snap.repository.points import RecoveryPoint
from trinity_snap.repository.reader import OpenedPack, PointReader, blame, open_pack
from trinity_snap.repository.recipients import current_recipients
from trinity_snap.repository.sealed import HEADER_BYTES

if TYPE_CHECKING:
    from trinity_snap.repository.repository import Repository

__all__ = ["PointVerdict", "VerifyReport", "verify"]

_BadChunks = dict[bytes, set[str]]
"""Chunks that are not what their ids say, and in which packs: another pack may hold the same chunk as it should be."""

_FILES_NAMED = 1000
_OTHER_BYTES = "Its bytes are not those that its name says."


@dataclass
class PointVerdict:
    """What was found of one point. `files` are (volume, path) of files that cannot be restored, the first thousand."""

    id: str
    agent: str
    problems: list[str] = field(default_factory=list)
    files: list[tuple[str, bytes]] = field(default_factory=list)
    files_affected: int = 0

    @property
    def good(self) -> bool:
        """Whether the whole point can be restored."""
        return not self.problems


@dataclass
class VerifyReport:
    """What was found of all points. `bytes_read` counts pack data, 0 unless data was read."""

    points: list[PointVerdict]
    unreadable: list[tuple[str, str]]
    damaged_objects: dict[str, str]
    packs_checked: int = 0
    bytes_read: int = 0

    @property
    def good(self) -> bool:
        """Whether everything that was looked at is whole."""
        return not self.unreadable and not self.damaged_objects and all(point.good for point in self.points)


def verify(
    repository: Repository,
    points: Sequence[RecoveryPoint],
    *,
    read_data: bool = False,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check points, and with `read_data` every byte of every pack that they need, each pack once.

    Nothing is changed. Damage does not raise: it is in the report. Raise TargetError if the storage cannot be read.
    """
    progress = progress or NullProgress()
    report = VerifyReport([], list(repository.unreadable_points), {})
    bad_chunks: _BadChunks = {}
    for name in current_recipients(repository.target, repository.host).damaged:
        report.damaged_objects[name] = "This list of recipients is damaged, or was not written by this host."
    references = {reference.name: reference.length for point in points for reference in point.pack_references()}
    if read_data:
        report.damaged_objects.update(_damaged_index(repository))
        progress.stage("reading packs", sum(references.values()))
        for digest, length in sorted(references.items()):
            name = pack_name(digest)
            problem = _read_pack(repository, digest, length, bad_chunks)
            if problem:
                report.damaged_objects.update([problem])
            report.bytes_read += length
            progress.advance(length, name)
    report.packs_checked = len(references)
    progress.stage("checking recovery points (points)", len(points))
    for point in points:
        reader = repository.reader(point, tables_from_packs=True)
        report.damaged_objects.update(
            {name: why for name, why in reader.damaged_objects.items() if name not in report.damaged_objects}
        )
        verdict = PointVerdict(point.id, point.agent)
        verdict.problems += [f"{reason}" for reason in reader.damaged_packs.values()]
        _check_point(reader, bad_chunks, verdict)
        report.points.append(verdict)
        progress.advance(1, point.agent)
    return report


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
                if entry.chunks and _is_lost(reader, entry.chunks, bad_chunks):
                    lost_here += 1
                    if len(verdict.files) < _FILES_NAMED:
                        verdict.files.append((volume.name, entry.path))
        if whole and (entries, files, size) != (volume.entries, volume.files, volume.bytes):
            verdict.problems.append(f"The manifest of {volume.name} does not hold as much as its point says.")
    verdict.files_affected = lost_here
    if lost_here:
        verdict.problems.append(f"Data of {lost_here} files is missing or damaged.")


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


def _read_pack(repository: Repository, digest: str, length: int, bad_chunks: _BadChunks) -> tuple[str, str] | None:
    """Read one pack whole. Return what is damaged and why, or None; put the ids of lost chunks into `bad_chunks`."""
    name = pack_name(digest)
    try:
        opened = open_pack(repository.target, repository.point_keys(), digest, length)
        data = repository.target.get(name)
    except ObjectMissing:
        return name, "It is missing from the repository."
    except SessionDamaged as error:
        # The pack says which session; whether it is right about that, its hash tells.
        good_hash = hashlib.sha256(repository.target.get(name)).hexdigest() == digest
        return blame(name, error) if good_hash else (name, _OTHER_BYTES)
    except IntegrityError as error:
        return name, str(error)
    good_hash = hashlib.sha256(data).hexdigest() == digest
    lost = _bad_segments(repository, opened, data)
    for chunk_id in lost:
        bad_chunks.setdefault(chunk_id, set()).add(name)
    if lost:
        return name, f"{len(lost)} of its {sum(len(segment.lengths) for segment in opened.table)} chunks are damaged."
    return None if good_hash else (name, f"{_OTHER_BYTES[:-1]}, though all its chunks are whole.")


def _bad_segments(repository: Repository, opened: OpenedPack, data: bytes) -> set[bytes]:
    from blake3 import blake3

    key = repository.host.chunk_id_key
    view = memoryview(data)
    bad: set[bytes] = set()
    offset = HEADER_BYTES
    for number, segment in enumerate(opened.table):
        ids = [segment.ids[at : at + CHUNK_ID_BYTES] for at in range(0, len(segment.ids), CHUNK_ID_BYTES)]
        sealed = view[offset : offset + segment.sealed_length]
        offset += segment.sealed_length
        try:
            plain = memoryview(opened.opener.open_segment(sealed, number, segment.length))
        except IntegrityError:
            bad.update(ids)
            continue
        start = 0
        for chunk_id, length in zip(ids, segment.lengths, strict=True):
            if blake3(plain[start : start + length], key=key).digest() != chunk_id:
                bad.add(chunk_id)
            start += length
    return bad
