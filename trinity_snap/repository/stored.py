"""What can be checked of a repository without opening a recovery point: that what was stored is there, and as long, and the same.

For a host that has no identity. It can say that packs are missing or altered, and not which files that concerns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from trinity_snap.errors import ForeignRepository, IntegrityError, ObjectMissing, TargetDenied
from trinity_snap.progress import NullProgress, Progress
from trinity_snap.repository.packs import pack_name
from trinity_snap.repository.sealed import HEADER_BYTES, POINT_MAGIC, parse_header
from trinity_snap.repository.session import read_index

if TYPE_CHECKING:
    from trinity_snap.repository.repository import Repository

__all__ = ["StoredReport", "verify_stored"]

_Thing = TypeVar("_Thing")


@dataclass
class StoredReport:
    """What was found. `packs_checked` counts packs whose length was compared, `bytes_read` the bytes that were hashed.

    `notes` are sentences on what could not be looked at, and on what may be harmless.
    """

    points: int = 0
    packs: int = 0
    packs_checked: int = 0
    bytes_read: int = 0
    damaged_objects: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing is missing or altered, as far as can be seen."""
        return not self.damaged_objects


def verify_stored(
    repository: Repository,
    needed: Mapping[bytes, int],
    *,
    hashes: bool = False,
    progress: Progress | None = None,
) -> StoredReport:
    """Look whether packs are there, with their lengths, and with `hashes` whether their bytes are those of their names.

    `needed` are packs, by SHA-256, with lengths, that points of this host surely need. Others that the index names may
    have been pruned. Nothing is changed. Raise TargetError if the storage cannot be read.
    """
    report = StoredReport()
    progress = progress or NullProgress()
    present = {bytes.fromhex(name[-64:]) for name in repository.target.list_prefix("packs/")}
    report.packs = len(present)
    lengths = {**_indexed(repository, report), **needed}
    for digest in needed.keys() - present:
        report.damaged_objects[pack_name(digest.hex())] = "It is missing from the repository, and points need it."
    gone = len(lengths.keys() - present - needed.keys())
    if gone:
        report.notes.append(
            f"{gone} packs that the index names are not there: pruned, or lost. Only an identity can tell."
        )
    _check_points(repository, report)
    _check_lengths(repository, {digest: lengths[digest] for digest in present & lengths.keys()}, report)
    if hashes:
        _check_hashes(repository, sorted(present), lengths, report, progress)
    return report


def _indexed(repository: Repository, report: StoredReport) -> dict[bytes, int]:
    lengths: dict[bytes, int] = {}
    for name in repository.target.list_prefix("index/"):
        try:
            packs = read_index(repository.target.get(name), repository.host, name)
        except (IntegrityError, ForeignRepository, ObjectMissing) as error:
            report.notes.append(f"An index object cannot be used, which loses nothing: {error.message}")
            continue
        lengths.update((pack.digest, pack.length) for pack in packs)
    return lengths


def _check_points(repository: Repository, report: StoredReport) -> None:
    """Every point needs the object of its session, or nobody can open it."""
    sessions = set(repository.target.list_prefix("sessions/"))

    def check(name: str) -> None:
        try:
            header = parse_header(repository.target.get_range(name, 0, HEADER_BYTES), POINT_MAGIC, repository.id, name)
        except (IntegrityError, ForeignRepository) as error:
            report.damaged_objects[name] = error.message
            return
        except ObjectMissing:
            return  # removed since it was listed
        session = f"sessions/{header.session_id.hex()}"
        if session not in sessions:
            report.damaged_objects[session] = f"It is missing from the repository, and {name} needs it."

    names = [f"points/{point_id}" for point_id in repository.point_ids()]
    report.points = len(names)
    _each(repository, check, names, report, "The storage does not let this host look at recovery points.")


def _check_lengths(repository: Repository, lengths: Mapping[bytes, int], report: StoredReport) -> None:
    def check(digest: bytes) -> None:
        name = pack_name(digest.hex())
        try:
            size = repository.target.stat(name).size
        except ObjectMissing:
            return  # removed since it was listed
        if size != lengths[digest]:
            report.damaged_objects[name] = f"It has {size} bytes, and was stored with {lengths[digest]}."

    denied = "The storage does not let this host look at packs: their lengths were not compared."
    if _each(repository, check, list(lengths), report, denied):
        report.packs_checked = len(lengths)


def _check_hashes(
    repository: Repository, packs: list[bytes], lengths: Mapping[bytes, int], report: StoredReport, progress: Progress
) -> None:
    progress.stage("reading packs", sum(lengths.get(digest, 0) for digest in packs))
    for digest in packs:
        name = pack_name(digest.hex())
        try:
            data = repository.target.get(name)
        except ObjectMissing:
            continue
        except TargetDenied:
            report.notes.append("The storage does not let this host read packs: their bytes were not compared.")
            return
        report.bytes_read += len(data)
        if hashlib.sha256(data).digest() != digest:
            report.damaged_objects.setdefault(name, "Its bytes are not those that its name says.")
        progress.advance(len(data), name)


def _each(
    repository: Repository, check: Callable[[_Thing], None], things: Iterable[_Thing], report: StoredReport, denied: str
) -> bool:
    """Check things side by side; where the rights of this host do not reach, note that once and return False."""
    with ThreadPoolExecutor(repository.target.parallel_gets) as workers:
        try:
            for _ in workers.map(check, things):
                pass
        except TargetDenied:
            workers.shutdown(cancel_futures=True)
            report.notes.append(denied)
            return False
    return True
