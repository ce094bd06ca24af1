"""Exchanging what is live with what was restored beside it: a list of renames that can be finished or undone at any time.

Every operation knows the inode of what it moves (`trinity_snap.restore.system.identity`), so that after a crash each one can
tell by itself whether it was done. The list is on disk before the first rename.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trinity_snap.durable import fsync_directory
from trinity_snap.repository.manifest import Entry
from trinity_snap.restore.directories import (
    OPEN_DIRECTORY,
    DirectoryCache,
    lstat_or_none,
    parent_and_name,
)
from trinity_snap.restore.metadata import Losses, MetadataSetter, read_xattrs
from trinity_snap.restore.names import STAGED
from trinity_snap.restore.system import exchange, identity, rename_new

__all__ = ["Operation", "Swap", "directory_state", "entry_state", "read_operations", "write_operations"]

_ASIDE = b".aside"
State = dict[str, Any]  # JSON: mode, uid, gid, mtime_ns, xattrs


@dataclass(frozen=True)
class Operation:
    """One step. `path` is relative to the live tree; the restored one has it at the same path.

    - `exchange`: the live and the restored entry change places; `inode` is the restored one's. XFS gives directories a new time
      when they are exchanged, so `before` and `after` have those of directories.
    - `add`: the restored entry (`inode`) goes where nothing is.
    - `remove`: the live entry (`inode`) goes where the restored tree has nothing.
    - `directory`: a live directory gets the metadata `after`; it had `before`.
    """

    kind: str
    path: bytes
    inode: int = 0
    before: State | None = None
    after: State | None = None


def write_operations(path: Path, operations: Iterable[Operation]) -> None:
    """Write a list of operations durably, one JSON object a line. Raise OSError."""
    temporary = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        for operation in operations:
            file.write(json.dumps({**asdict(operation), "path": os.fsdecode(operation.path)}) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)
    fsync_directory(path.parent)


def read_operations(path: Path) -> list[Operation]:
    """Read the list again. Raise OSError."""
    with open(path, encoding="ascii") as file:
        return [Operation(**{**fields, "path": os.fsencode(fields["path"])}) for fields in map(json.loads, file)]


def entry_state(entry: Entry) -> State:
    """The metadata that an entry gives its directory."""
    return _state(entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.xattrs)


def directory_state(descriptor: int) -> State:
    """The metadata that an open directory has."""
    found = os.fstat(descriptor)
    return _state(found.st_mode & 0o7777, found.st_uid, found.st_gid, found.st_mtime_ns, read_xattrs(descriptor))


def _state(mode: int, uid: int, gid: int, mtime_ns: int, xattrs: dict[bytes, bytes]) -> State:
    encoded = {os.fsdecode(name): base64.b64encode(value).decode() for name, value in xattrs.items()}
    return {"mode": mode, "uid": uid, "gid": gid, "mtime_ns": mtime_ns, "xattrs": encoded}


def _as_entry(path: bytes, state: State) -> Entry:
    xattrs = {os.fsencode(name): base64.b64decode(value) for name, value in state["xattrs"].items()}
    return Entry(path, "d", state["mode"], state["uid"], state["gid"], state["mtime_ns"], xattrs=xattrs)


class Swap:
    """A live path and the holder with what was restored for it, open for operations. Use as a context manager."""

    def __init__(self, live: Path, holder: Path) -> None:
        self._live_parent = os.open(live.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._holder = os.open(holder, OPEN_DIRECTORY)
        except BaseException:
            os.close(self._live_parent)
            raise
        self.live = DirectoryCache(self._live_parent, os.fsencode(live.name))
        self.staged = DirectoryCache(self._holder, STAGED)
        self._set = MetadataSetter(Losses())

    def __enter__(self) -> Swap:
        return self

    def __exit__(self, *_: object) -> None:
        self.live.close()
        self.staged.close()
        os.close(self._live_parent)
        os.close(self._holder)

    def undo(self, operations: Sequence[Operation]) -> None:
        """Undo all operations that were done, the last first, and make that durable. Raise OSError."""
        for operation in reversed(operations):
            self._undo(operation)
        self.sync(operations)

    # -- one operation ------------------------------------------------------------------------------------------------

    def apply(self, operation: Operation) -> None:
        """Do one operation, unless it is done. `sync` makes it durable. Raise OSError."""
        path = operation.path
        if operation.kind == "directory":
            assert operation.after is not None
            self._set.set_directory(self.live.get(path), _as_entry(path, operation.after))
        elif operation.kind == "exchange":
            if self._inode(self.live, path) == operation.inode:
                self._finish_aside(path)
            else:
                self._exchange(path)
            self._keep_time(path, operation.after)
        elif operation.kind == "add":
            if self._inode(self.live, path) != operation.inode:
                self._move(self.staged, self.live, path)
        elif self._inode(self.staged, path) != operation.inode:
            self._make_parents(path)
            self._move(self.live, self.staged, path)
        self._forget(path)

    def _undo(self, operation: Operation) -> None:
        path = operation.path
        if operation.kind == "directory":
            assert operation.before is not None
            self._set.set_directory(self.live.get(path), _as_entry(path, operation.before))
        elif operation.kind == "exchange":
            if self._inode(self.live, path) == operation.inode:
                self._finish_aside(path)
                self._exchange(path)
                self._keep_time(path, operation.before)
            elif self._inode(self.live, path) is None:
                os.rename(
                    _ASIDE,
                    self.live.place(path)[1],
                    src_dir_fd=self._holder,
                    dst_dir_fd=self.live.place(path)[0],
                )
        elif operation.kind == "add":
            if self._inode(self.live, path) == operation.inode:
                self._move(self.live, self.staged, path)
        elif self._inode(self.staged, path) == operation.inode:
            self._move(self.staged, self.live, path)
        self._forget(path)

    def _exchange(self, path: bytes) -> None:
        """Exchange at one instant, or where the filesystem cannot, by way of a third name."""
        staged, staged_name = self.staged.place(path)
        live, live_name = self.live.place(path)
        staged, staged_name = self.staged.place(path)
        if self._inode(self.live, path) is not None:
            if exchange(staged, staged_name, live, live_name):
                return
            os.rename(live_name, _ASIDE, src_dir_fd=live, dst_dir_fd=self._holder)
        os.rename(staged_name, live_name, src_dir_fd=staged, dst_dir_fd=live)
        self._finish_aside(path)

    def _keep_time(self, path: bytes, state: State | None) -> None:
        """Give a live directory the time that it has in `state`, if that says one."""
        if state is not None:
            directory, name = self.live.place(path)
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode) and found.st_mtime_ns != state["mtime_ns"]:
                times = (found.st_atime_ns, state["mtime_ns"])
                os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)

    def _finish_aside(self, path: bytes) -> None:
        if lstat_or_none(_ASIDE, self._holder) is not None:
            directory, name = self.staged.place(path)
            rename_new(self._holder, _ASIDE, directory, name)

    def _move(self, source: DirectoryCache, destination: DirectoryCache, path: bytes) -> None:
        directory, name = source.place(path)
        to_directory, to_name = destination.place(path)
        rename_new(directory, name, to_directory, to_name)

    def _make_parents(self, path: bytes) -> None:
        """Make the directories in the holder under which a removed entry is kept."""
        missing = []
        step = path
        while step:
            step = parent_and_name(step)[0]
            if self._inode(self.staged, step) is not None:
                break
            missing.append(step)
        for step in reversed(missing):
            directory, name = self.staged.place(step)
            os.mkdir(name, 0o700, dir_fd=directory)

    @staticmethod
    def _inode(cache: DirectoryCache, path: bytes) -> int | None:
        try:
            directory, name = cache.place(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return identity(name, directory)

    def _forget(self, path: bytes) -> None:
        """Descriptors of directories that were moved no longer belong to their paths."""
        if path:
            for cache in (self.live, self.staged):
                cache.drop_below(path)
        else:
            self.live.close()
            self.staged.close()

    def sync(self, operations: Sequence[Operation]) -> None:
        """Make the names durable that operations changed. Raise OSError."""
        os.fsync(self._live_parent)
        os.fsync(self._holder)
        for parent in {parent_and_name(operation.path)[0] for operation in operations if operation.path}:
            for cache in (self.live, self.staged):
                try:
                    os.fsync(cache.get(parent))
                except (FileNotFoundError, NotADirectoryError):
                    pass
