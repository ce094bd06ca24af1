"""Writing a volume's tree into an empty place, whatever the recovery point says it holds.

Nothing is followed and nothing is overwritten: every name is created new, relative to the open directory that this restore
made for it. Content and metadata of a small file are written in one go when its chunk arrives; directories get
their metadata when all that is in them is written, the deepest first. Until then only the restoring user can look in.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from trinity_snap.errors import IntegrityError, RestoreError
from trinity_snap.progress import Progress
from trinity_snap.repository.manifest import Entry, is_below, sort_key
from trinity_snap.restore.content import Layout, SegmentStream
from trinity_snap.restore.directories import (
    DirectoryCache,
    check_path,
    lstat_or_none,
    shown,
)
from trinity_snap.restore.metadata import Losses, MetadataSetter
from trinity_snap.restore.order import checked_order
from trinity_snap.restore.source import PointSource, SegmentRead
from trinity_snap.restore.writes import HANDED_OVER_BYTES, Places, WritesAhead, write_places

__all__ = ["TreeResult", "TreeWriter", "write_error"]

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_REOPEN = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_WINDOW = 16384
_CHUNK_ID = 32
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT))


@dataclass
class TreeResult:
    """What was written: numbers of entries and of regular files, bytes of content, what was lost, what is damaged."""

    entries: int = 0
    files: int = 0
    losses: Losses = field(default_factory=Losses)
    skipped: set[bytes] = field(default_factory=set)
    damaged: dict[bytes, str] = field(default_factory=dict)
    bytes: int = 0


class _LargeFile:
    """A file whose chunks come one by one."""

    __slots__ = ("entry", "layout", "lengths", "pending", "placed")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.lengths: list[int] = []
        self.layout = Layout(entry)
        self.placed = 0
        self.pending = 0


_Pieces = dict[bytes, list[tuple[_LargeFile, list[tuple[int, int, int]]]]]


class TreeWriter:
    """Writes one tree as `root_name` into the open directory `holder`, where nothing of that name may exist.

    `devices` says whether device nodes are made; else they are skipped and noted, except `c 0 0`, which is no device but
    what overlay filesystems mark deletions with. `finished` is told of every file that is complete, with the lengths of its
    chunks if there are several and not very many, and with what was lost so far.
    """

    def __init__(
        self,
        source: PointSource,
        holder: int,
        root_name: bytes,
        *,
        devices: bool,
        progress: Progress,
        finished: Callable[[Entry, Sequence[int], Losses], None] | None = None,
    ) -> None:
        self._source = source
        self._cache = DirectoryCache(holder, root_name)
        self._devices = devices
        self._progress = progress
        self._finished = finished
        self.result = TreeResult()
        self._set = MetadataSetter(self.result.losses)
        self._finish = self._set.finish
        self._segments = SegmentStream(source)
        self._files: list[Entry] = []
        self._references = 0
        self._links: list[Entry] = []
        self._link_paths: set[bytes] = set()
        self._left: list[Entry] = []
        self._at = b""
        self._writes = WritesAhead(self._failed_at, holder)

    def write(self, entries: Iterable[Entry]) -> TreeResult:
        """Write the tree.

        Files whose chunks cannot be read are left out and listed as damaged. Raise IntegrityError for anything
        that no honest backup holds, RestoreError if the destination does not take it. What was written stays.
        """
        try:
            self._write(entries)
        except OSError as error:
            raise write_error(error, self._at, self._cache.holder) from error
        except (OverflowError, ValueError) as error:
            raise IntegrityError(
                f"The recovery point has something impossible for {shown(self._at)}: {error}."
            ) from error
        finally:
            self._segments.close()
            self._writes.close()
            self._cache.close()
        return self.result

    def _write(self, entries: Iterable[Entry]) -> None:
        open_directories: list[Entry] = []
        result = self.result
        for entry in checked_order(entries):
            path = entry.path
            kind = entry.type
            while open_directories and not is_below(path, open_directories[-1].path):
                self._left.append(open_directories.pop())
            result.entries += 1
            if kind == "f":
                references = len(entry.chunks) // _CHUNK_ID
                if references > _WINDOW:
                    self._flush()
                    self._write_very_large(entry)
                    continue
                self._files.append(entry)
                self._references += references
                if len(self._files) >= _WINDOW or self._references >= _WINDOW:
                    self._flush()
            elif kind == "d":
                self._at = path
                self._make_directory(entry)
                open_directories.append(entry)
            elif kind == "h":
                self._links.append(entry)
                if len(self._links) >= _WINDOW:
                    self._flush()
            else:
                self._at = path
                self._make_special(entry)
            if len(self._left) >= _WINDOW:
                self._flush()
        self._left.extend(reversed(open_directories))
        self._flush()

    # -- names --------------------------------------------------------------------------------------------------------

    def _make_directory(self, entry: Entry) -> None:
        directory, name = self._cache.place(entry.path)
        os.mkdir(name, 0o700, dir_fd=directory)
        if not entry.path:
            self._set.strip_inherited(self._cache.get(b""))

    def _make_special(self, entry: Entry) -> None:
        directory, name = self._cache.place(entry.path)
        kind = entry.type
        if kind == "l":
            os.symlink(entry.target, name, dir_fd=directory)
        elif kind == "p":
            os.mkfifo(name, 0o600, dir_fd=directory)
        elif kind == "s":
            self._skip(entry, "a socket; the program that listens on it makes it anew")
            return
        elif not (self._devices or (kind == "c" and tuple(entry.device) == (0, 0))):
            self._skip(entry, "a device; only a whole volume, restored as a volume, gets its devices back")
            return
        else:
            mode = (stat.S_IFCHR if kind == "c" else stat.S_IFBLK) | 0o600
            try:
                os.mknod(name, mode, os.makedev(*entry.device), dir_fd=directory)
            except PermissionError:
                self._skip(entry, "a device; making one is not permitted here")
                return
        self._set.finish_name(directory, name, entry)

    def _skip(self, entry: Entry, why: str) -> None:
        self.result.skipped.add(entry.path)
        self.result.losses.add(f"{shown(entry.path)} was skipped: it is {why}.")

    def _make_link(self, entry: Entry) -> None:
        target = entry.target
        self._at = entry.path
        check_path(target)
        if sort_key(target) >= sort_key(entry.path) or target in self._link_paths:
            raise self._bad_link(entry)
        self._link_paths.add(entry.path)
        if target in self.result.damaged:
            self.result.damaged[entry.path] = self.result.damaged[target]
            return
        directory, name = self._cache.place(entry.path)
        try:
            source, source_name = self._cache.place(target)
            found = lstat_or_none(source_name, source)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._bad_link(entry) from error
        if found is None or not stat.S_ISREG(found.st_mode):
            raise self._bad_link(entry)
        directory, name = self._cache.place(entry.path)
        os.link(source_name, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        self.result.files += 1

    @staticmethod
    def _bad_link(entry: Entry) -> IntegrityError:
        return IntegrityError(
            f"The recovery point has {shown(entry.path)} as a hard link to {entry.target!r}, which is no file before it."
        )

    # -- content ------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if self._files:
            files, self._files, self._references = self._files, [], 0
            self._write_files(files)
            self._writes.drain()
        links, self._links = self._links, []
        for entry in links:
            self._make_link(entry)
        left, self._left = self._left, []
        for entry in left:
            self._at = entry.path
            self._finish(self._cache.get(entry.path), entry)
            self._cache.drop(entry.path)

    def _write_files(self, files: list[Entry]) -> None:
        wanted: dict[bytes, list[Entry]] = {}
        large: list[Entry] = []
        ids: list[bytes] = []
        for entry in files:
            chunks = entry.chunks
            if len(chunks) == _CHUNK_ID and not entry.extents:
                if chunks in wanted:
                    wanted[chunks].append(entry)
                else:
                    wanted[chunks] = [entry]
                    ids.append(chunks)
            elif not chunks and not entry.size:
                self._write_small(entry, b"")
            else:
                large.append(entry)
                ids.extend(entry.chunk_ids())
        reads = self._plan(ids, files)
        pieces: _Pieces = {}
        if large:
            lengths = {chunk_id: length for read in reads for chunk_id, _, length in read.chunks}
            for entry in large:
                if entry.path in self.result.damaged:
                    continue
                job = self._create_large(entry)
                ids = entry.chunk_ids()
                self._place(job, ids, lengths, pieces)
                job.layout.finish(job.placed)
                if self._finished is not None:
                    job.lengths = [lengths[chunk_id] for chunk_id in ids]
                if not job.pending:
                    self._finish_large(job)
        self._run(reads, wanted, pieces)

    def _write_very_large(self, entry: Entry) -> None:
        ids = entry.chunk_ids()
        job = self._create_large(entry)
        for start in range(0, len(ids), _WINDOW):
            window = ids[start : start + _WINDOW]
            job.pending += 1  # it is finished below, not when the window is
            reads = self._plan(window, [entry])
            pieces: _Pieces = {}
            if entry.path not in self.result.damaged:
                lengths = {chunk_id: length for read in reads for chunk_id, _, length in read.chunks}
                self._place(job, window, lengths, pieces)
                self._run(reads, {}, pieces)
            job.pending -= 1
            if entry.path in self.result.damaged:
                self._remove_damaged(entry)
                return
        job.layout.finish(job.placed)
        self._writes.drain()
        self._finish_large(job)

    def _plan(self, ids: list[bytes], files: list[Entry]) -> list[SegmentRead]:
        """The segments to read. What is in none of them makes its files damaged."""
        try:
            return list(self._source.plan_reads(ids))
        except IntegrityError:
            pass
        usable: list[bytes] = []
        for entry in files:
            own = entry.chunk_ids()
            try:
                self._source.plan_reads(own)
            except IntegrityError as error:
                self.result.damaged[entry.path] = str(error)
            else:
                usable.extend(own)
        return list(self._source.plan_reads(usable))

    @staticmethod
    def _place(
        job: _LargeFile,
        ids: list[bytes],
        lengths: dict[bytes, int],
        pieces: _Pieces,
    ) -> None:
        for chunk_id in ids:
            length = lengths[chunk_id]
            pieces.setdefault(chunk_id, []).append((job, job.layout.take(length)))
            job.placed += length
            job.pending += 1

    def _run(
        self,
        reads: list[SegmentRead],
        wanted: dict[bytes, list[Entry]],
        pieces: _Pieces,
    ) -> None:
        chunk_id_of = self._source.chunk_id
        damaged = self.result.damaged
        write_small = self._write_small
        for read, segment in self._segments.read(reads):
            if isinstance(segment, IntegrityError):
                for chunk_id, _, _ in read.chunks:
                    self._damage(chunk_id, str(segment), wanted, pieces)
                continue
            view = memoryview(segment)
            amount = 0
            for chunk_id, start, length in read.chunks:
                data = view[start : start + length]
                if chunk_id_of(data) != chunk_id:
                    self._damage(chunk_id, f"a chunk in {read.pack} is not what its id says", wanted, pieces)
                    continue
                for entry in wanted.pop(chunk_id, ()):
                    if entry.size != length:
                        raise Layout(entry).wrong()
                    write_small(entry, data)
                    amount += length
                for job, places in pieces.pop(chunk_id, ()):
                    if job.entry.path in damaged:
                        continue
                    job.pending -= 1
                    self._write_pieces(job, data, places)
                    amount += length
            self.result.bytes += amount
            self._progress.advance(amount)
        for chunk_id in [*wanted, *pieces]:
            self._damage(chunk_id, "a chunk is in none of the packs", wanted, pieces)

    def _damage(
        self,
        chunk_id: bytes,
        why: str,
        wanted: dict[bytes, list[Entry]],
        pieces: _Pieces,
    ) -> None:
        for entry in wanted.pop(chunk_id, ()):
            self.result.damaged[entry.path] = why
        for job, _ in pieces.pop(chunk_id, ()):
            if job.entry.path not in self.result.damaged:
                self.result.damaged[job.entry.path] = why
                if len(job.entry.chunks) // _CHUNK_ID <= _WINDOW:
                    self._remove_damaged(job.entry)

    def _remove_damaged(self, entry: Entry) -> None:
        directory, name = self._cache.place(entry.path)
        os.unlink(name, dir_fd=directory)

    # -- files --------------------------------------------------------------------------------------------------------

    def _write_small(self, entry: Entry, data: bytes | memoryview) -> None:
        path = self._at = entry.path
        directory, name = self._cache.place(path)
        descriptor = os.open(name, _CREATE, 0o600, dir_fd=directory)
        if len(data) >= HANDED_OVER_BYTES:
            self._writes.begin(path, descriptor, data, ((0, 0, len(data)),), partial(self._finish_file, entry))
            return
        try:
            if data:
                write_places(descriptor, data, ((0, 0, len(data)),))
            self._finish_file(entry, descriptor)
        finally:
            os.close(descriptor)

    def _create_large(self, entry: Entry) -> _LargeFile:
        self._at = entry.path
        directory, name = self._cache.place(entry.path)
        descriptor = os.open(name, _CREATE, 0o600, dir_fd=directory)
        try:
            os.ftruncate(descriptor, entry.size)
        finally:
            os.close(descriptor)
        return _LargeFile(entry)

    def _open_large(self, entry: Entry) -> int:
        self._at = entry.path
        directory, name = self._cache.place(entry.path)
        return os.open(name, _REOPEN, dir_fd=directory)

    def _write_pieces(self, job: _LargeFile, data: memoryview, places: Places) -> None:
        entry = job.entry
        then = None if job.pending else partial(self._finish_file, entry, lengths=job.lengths)
        self._writes.begin(entry.path, self._open_large(entry), data, places, then)

    def _finish_large(self, job: _LargeFile) -> None:
        descriptor = self._open_large(job.entry)
        try:
            self._finish_file(job.entry, descriptor, job.lengths)
        finally:
            os.close(descriptor)

    def _finish_file(self, entry: Entry, descriptor: int, lengths: Sequence[int] = ()) -> None:
        self._finish(descriptor, entry)
        self.result.files += 1
        if self._finished is not None:
            self._finished(entry, lengths, self.result.losses)

    def _failed_at(self, path: bytes) -> None:
        self._at = path


def write_error(error: OSError, path: bytes, holder: int) -> RestoreError:
    """The error for an operator when the destination did not take something; says what is free if it is full."""
    if error.errno in _FULL:
        try:
            status = os.fstatvfs(holder)
            left = f": {status.f_bavail * status.f_frsize} bytes and {status.f_favail} inodes are free"
        except OSError:
            left = ""
        return RestoreError(
            f"The destination is full at {shown(path)}{left}.", next_step="Make room, and restore again."
        )
    return RestoreError(
        f"{shown(path)} could not be written to the destination: {error.strerror or error}.",
        next_step="See that the destination is a filesystem that can hold what the volume held.",
    )
