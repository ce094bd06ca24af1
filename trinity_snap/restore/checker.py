"""A process that compares restored files while others are still being written: on two processors that is half the time.

`Checker` is the restore's side of it, `main` what the process does. It knows nothing but the open directory, the key of
chunk ids, and what each finished file should be; all of that comes through its standard input.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO

import msgspec
from blake3 import blake3

from trinity_snap.errors import IntegrityError, RestoreError, TrinitySnapError
from trinity_snap.repository.manifest import CHUNK_ID_BYTES, Entry
from trinity_snap.repository.reader import SegmentRead
from trinity_snap.restore.content_check import ContentChecks, check_file, unreadable
from trinity_snap.restore.directories import DirectoryCache
from trinity_snap.restore.metadata import Losses

__all__ = ["Checker", "main"]

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from trinity_snap.restore.checker import main; main(int(sys.argv[1]))"
)
_WORTH_FILES = 2000
_WORTH_BYTES = 64 * 1024 * 1024
_FILES_AT_ONCE = 256
_PIPE_BYTES = 1024 * 1024
_LENGTH_BYTES = 4
_MOST_CHUNKS = 16384
_F_SETPIPE_SZ = 1031
_PR_SET_PDEATHSIG = 1
_ERRORS = {error.__name__: error for error in (IntegrityError, RestoreError)}


class _Begin(msgspec.Struct, array_like=True):
    """What the process is told first. `parent` is the number of the process that restores."""

    chunk_key: bytes
    root_name: bytes
    parent: int


class _Finished(msgspec.Struct, array_like=True):
    """A file that is written: what it should be, the lengths of its chunks if they are several, and what it had to lose."""

    entry: Entry
    lengths: list[int]
    owners_lost: bool
    xattrs_lost: list[bytes]


class _Verdict(msgspec.Struct, array_like=True):
    """How many files are as they should be; or else which error it is, and what it says."""

    files: int
    error: str = ""
    message: str = ""
    next_step: str = ""


class Checker:
    """Has the files of one tree compared by another process, if they are worth one. Use it as a context manager.

    All its methods are for one thread, the one that made it: the process ends when that does.
    """

    def __init__(
        self,
        chunk_key: bytes,
        holder: int,
        root_name: bytes,
        *,
        worth_files: int = _WORTH_FILES,
        worth_bytes: int = _WORTH_BYTES,
    ) -> None:
        """The tree is called `root_name` in the open directory `holder`. The process begins with so many files or bytes."""
        self._begin = _Begin(chunk_key, root_name, os.getpid())
        self._holder = holder
        self._worth_files = worth_files if len(os.sched_getaffinity(0)) > 1 else sys.maxsize
        self._worth_bytes = worth_bytes if len(os.sched_getaffinity(0)) > 1 else sys.maxsize
        self._process: subprocess.Popen[bytes] | None = None
        self._waiting: list[_Finished] = []
        self._bytes = 0
        self._encode = msgspec.msgpack.Encoder().encode

    @staticmethod
    def takes(entry: Entry) -> bool:
        """Whether it is for a file like this. What has very many chunks is compared without it."""
        return len(entry.chunks) <= _MOST_CHUNKS * CHUNK_ID_BYTES

    @property
    def has_begun(self) -> bool:
        """Whether there is a process; else nothing is compared here."""
        return self._process is not None

    def add(self, entry: Entry, lengths: Sequence[int], losses: Losses) -> None:
        """Take a file that is complete, with its metadata. `lengths` are those of its chunks, if there are several.

        `losses` is what the destination could not hold, this file's included. Raise what `finish` raises, if that is
        known already.
        """
        if not self.takes(entry):
            return
        lost = [name for name in entry.xattrs if (entry.path, name) in losses.xattrs] if entry.xattrs else []
        self._waiting.append(_Finished(entry, list(lengths), losses.owners, lost))
        self._bytes += entry.size
        if self._process is None:
            if len(self._waiting) >= self._worth_files or self._bytes >= self._worth_bytes:
                self._start()
        elif len(self._waiting) >= _FILES_AT_ONCE or lengths:
            self._send()

    def finish(self) -> int:
        """Wait for the comparison of all files that were added, and say how many they are; 0 if it was not begun.

        Raise RestoreError naming a file that differs or cannot be read, or if the process is lost; IntegrityError.
        """
        if self._process is None:
            return 0
        self._send()
        return self._verdict(self._process)

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()

    def __enter__(self) -> Checker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        # The same modules as here, and none that happen to lie in the working directory.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, str(self._holder), json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(self._holder,),
            bufsize=0,
            cwd="/",
        )
        assert self._process.stdin is not None
        with suppress(OSError):  # less is fine, too
            _set_pipe_size(self._process.stdin.fileno())
        self._put(self._encode(self._begin))
        self._send()

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), _FILES_AT_ONCE):
            self._put(self._encode(waiting[start : start + _FILES_AT_ONCE]))

    def _put(self, frame: bytes) -> None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        view = memoryview(len(frame).to_bytes(_LENGTH_BYTES, "little") + frame)
        try:
            while view:
                view = view[process.stdin.write(view) :]
        except BrokenPipeError:
            self._verdict(process)
            raise RestoreError("What was restored could not be compared: the comparison ended too soon.") from None

    @staticmethod
    def _verdict(process: subprocess.Popen[bytes]) -> int:
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(OSError):
            process.stdin.close()
        said = process.stdout.read()
        status = process.wait()
        try:
            verdict = msgspec.msgpack.decode(said, type=_Verdict)
        except msgspec.DecodeError:
            raise RestoreError(
                f"What was restored could not be compared: the process that does that ended with status {status}.",
                next_step="Restore again; if this comes back, look for what ends processes on this host.",
            ) from None
        if verdict.error:
            raise _ERRORS[verdict.error](verdict.message, next_step=verdict.next_step)
        return verdict.files


def _set_pipe_size(descriptor: int) -> None:
    import fcntl

    fcntl.fcntl(descriptor, _F_SETPIPE_SZ, _PIPE_BYTES)


# -- the process ------------------------------------------------------------------------------------------------------


class _Told:
    """What `ContentChecks` asks of a recovery point, as it was told for one file."""

    def __init__(self, chunk_id: Callable[[bytes | memoryview], bytes], finished: _Finished) -> None:
        self.chunk_id = chunk_id
        self._lengths = dict(zip(finished.entry.chunk_ids(), finished.lengths, strict=False))

    def plan_reads(self, ids: Iterable[bytes]) -> Sequence[SegmentRead]:
        return [SegmentRead("", 0, 0, 0, 0, [(chunk_id, 0, self._lengths[chunk_id]) for chunk_id in ids])]


def main(holder: int) -> None:
    """Compare files below the open directory `holder`, as standard input says, and say on standard output what came of it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # who restores decides
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    source = sys.stdin.buffer
    begin = msgspec.msgpack.decode(_frame(source), type=_Begin)
    if os.getppid() != begin.parent:
        return  # it died before it could be noticed
    try:
        verdict = _Verdict(_compare(holder, begin, source))
    except (RestoreError, IntegrityError) as error:
        verdict = _said(error)
    except Exception as error:  # whatever it is, who restores has to know
        verdict = _said(RestoreError(f"What was restored could not be compared: {type(error).__name__}: {error}."))
    sys.stdout.buffer.write(msgspec.msgpack.encode(verdict))
    sys.stdout.buffer.flush()


def _said(error: TrinitySnapError) -> _Verdict:
    name = "IntegrityError" if isinstance(error, IntegrityError) else "RestoreError"
    return _Verdict(0, name, error.message, error.next_step or "")


def _compare(holder: int, begin: _Begin, source: BinaryIO) -> int:
    key = begin.chunk_key

    def chunk_id(data: bytes | memoryview) -> bytes:
        return blake3(data, key=key).digest()

    files = 0
    cache = DirectoryCache(holder, begin.root_name)
    at = b""
    try:
        with ContentChecks(holder) as contents:
            for finished in _files(source):
                at = finished.entry.path
                losses = Losses(xattrs={(at, name) for name in finished.xattrs_lost}, owners=finished.owners_lost)
                check_file(_Told(chunk_id, finished), cache, finished.entry, losses, contents)
                files += 1
            contents.finish()
    except OSError as error:
        raise unreadable(at, error) from error
    return files


def _files(source: BinaryIO) -> Iterator[_Finished]:
    decoder = msgspec.msgpack.Decoder(list[_Finished])
    while frame := _frame(source):
        yield from decoder.decode(frame)


def _frame(source: BinaryIO) -> bytes:
    """The next message, empty at the end. What the restore was about to say when it died is nothing."""
    length = int.from_bytes(source.read(_LENGTH_BYTES), "little")
    return source.read(length)
