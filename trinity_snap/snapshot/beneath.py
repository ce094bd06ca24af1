"""Reaching into a tree that a hostile agent may change at the same moment, without ever following a link out of it.

`O_NOFOLLOW` looks only at the last part of a path. Here every directory on the way is opened by itself, from the root down, so
that a directory which is exchanged for a symbolic link between two steps is noticed and nothing outside is read.
"""

from __future__ import annotations

import os

__all__ = ["Beneath"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Beneath:
    """The tree at `root`. For one thread; the directory that was used last is kept open.

    A tree `at_rest` (a snapshot, which nobody changes) is reached by plain paths, by as many threads as there are.
    """

    def __init__(self, root: bytes, *, at_rest: bool = False) -> None:
        self._root = root
        self._at_rest = at_rest
        self._path: bytes | None = None
        self._descriptor = -1

    def directory(self, path: bytes) -> int:
        """A new descriptor of the directory at `path` (`b""`: the root). Raise OSError, ELOOP or ENOTDIR for a link."""
        descriptor = os.open(self._root, _DIRECTORY)
        for name in path.split(b"/") if path else ():
            try:
                inner = os.open(name, _DIRECTORY, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = inner
        return descriptor

    def held(self, path: bytes) -> int:
        """As `directory`; -1 for a tree at rest, where the path will do."""
        return -1 if self._at_rest else self.directory(path)

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """A descriptor of the directory that holds `path`, good until the next call, and the name in it."""
        above, _, name = path.rpartition(b"/")
        if above != self._path:
            self.close()
            self._descriptor = self.directory(above)
            self._path = above
        return self._descriptor, name

    def name(self, path: bytes) -> bytes:
        """A path by which the kernel finds the entry at `path` and no other, good until the next call."""
        if not path:
            return self._root
        if self._at_rest:
            return self._root + b"/" + path
        descriptor, name = self.parent(path)
        return b"/proc/self/fd/%d/%s" % (descriptor, name)

    def close(self) -> None:
        """Let go of the directory."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._path = -1, None

    def __del__(self) -> None:
        self.close()
