"""Scrubbing a repository without any key: what whoever can read the storage can see of its objects.

Packs are compared with the SHA-256 that is their name. Of all else the outer form is checked, and that what it names is there.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

from trinity_snap.errors import (
    ForeignRepository,
    IntegrityError,
    ObjectMissing,
    RepositoryMissing,
    TargetDenied,
    TargetError,
)
from trinity_snap.progress import Progress
from trinity_snap.repository.documents import check_header, hex_field, parse_object, split_document
from trinity_snap.repository.keys import REPOSITORY_ID_BYTES
from trinity_snap.repository.sealed import INDEX_MAGIC, PACK_MAGIC, POINT_MAGIC, Header, parse_header
from trinity_snap.repository.stored import StoredReport
from trinity_snap.targets.protocol import Target

__all__ = ["scrub"]

_SEALED = {"packs": (PACK_MAGIC, 4096), "index": (INDEX_MAGIC, 1024), "points": (POINT_MAGIC, 1024)}
_DOCUMENTS = {"sessions": "session", "recipients": "recipients", "fences": "fence", "receipts": "receipt"}


def scrub(target: Target, progress: Progress) -> StoredReport:
    """Look at every object. Nothing is changed, and nothing is opened.

    Raise RepositoryMissing if there is none, IntegrityError if its first object is damaged, TargetError.
    """
    try:
        payload, _, _ = split_document(target.get("repository"))
        check_header("repository", payload)
        repository_id = hex_field(payload, "id", REPOSITORY_ID_BYTES)
    except ObjectMissing as error:
        raise RepositoryMissing(f"There is no repository at {target.url}.") from error
    return _Scrub(target, repository_id, progress).run()


class _Scrub:
    def __init__(self, target: Target, repository_id: bytes, progress: Progress) -> None:
        self.target = target
        self.id = repository_id
        self.progress = progress
        self.report = StoredReport()
        self.sessions: set[str] = set()

    def run(self) -> StoredReport:
        """Look at all."""
        report = self.report
        self.sessions = set(self.target.list_prefix("sessions/"))
        names = sorted(self.target.list_prefix(""), key=lambda name: (name.startswith("packs/"), name))
        report.packs = sum(name.startswith("packs/") for name in names)
        report.points = sum(name.startswith("points/") for name in names)
        self.progress.stage("reading objects (objects)", len(names))
        with ThreadPoolExecutor(self.target.parallel_gets, thread_name_prefix="scrub") as workers:
            for name, (problem, length) in zip(names, workers.map(self._look, names), strict=True):
                if problem:
                    report.damaged_objects.setdefault(name, problem)
                if name.startswith("packs/"):
                    report.packs_checked += 1
                    report.bytes_read += length
                self.progress.advance(1, name)
        report.notes.append("Without keys only packs are compared with their hashes; of all else the form was checked.")
        return report

    def _look(self, name: str) -> tuple[str, int]:
        """What is wrong with an object, if anything, read a second time then; and its length."""
        problem, length = self._check(name)
        return self._check(name) if problem else ("", length)

    def _check(self, name: str) -> tuple[str, int]:
        try:
            data = self.target.get(name)
        except ObjectMissing:
            return ("It is listed and not there." if name.startswith("packs/") else ""), 0
        except TargetDenied:
            raise
        except TargetError as error:
            if error.transient:
                raise
            return f"It cannot be read: {error.message}", 0
        try:
            return self._form(name, data), len(data)
        except (IntegrityError, ForeignRepository) as error:
            return error.message, len(data)

    def _form(self, name: str, data: bytes) -> str:
        kind = name.partition("/")[0]
        if kind == "packs" and hashlib.sha256(data).hexdigest() != name[-64:]:
            return "Its bytes are not those that its name says."
        if kind in _SEALED:
            magic, multiple = _SEALED[kind]
            header = parse_header(data, magic, self.id, name)
            return "It has a length that none of its kind has." if len(data) % multiple else self._session(kind, header)
        if kind in _DOCUMENTS:
            payload, _, _ = split_document(data)
            check_header(_DOCUMENTS[kind], payload)
            stated = hex_field(payload, "id" if kind == "recipients" else "repository", REPOSITORY_ID_BYTES)
            return "" if stated == self.id else f"{name} belongs to another repository."
        if kind == "copies":
            try:
                parse_object(data.strip())
            except ValueError as error:
                return f"It is damaged: {error}."
        return ""

    def _session(self, kind: str, header: Header) -> str:
        """What is missing of what an object needs to be opened; the object itself is whole."""
        session = f"sessions/{header.session_id.hex()}"
        if kind != "index" and session not in self.sessions:
            self.report.damaged_objects.setdefault(
                session, "It is missing from the repository, and what is there needs it."
            )
        return ""
