"""Everything that can happen to a tree of files, as small steps that a test chooses at random."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path


class TreeOperations:
    """Does things to the tree at `root`, and now and then across its border to `outside` on the same filesystem.

    Each operation is given two numbers, by which it chooses what it works on. One that does not apply does nothing.
    """

    def __init__(self, root: Path, outside: Path) -> None:
        self.root, self.outside = root, outside
        self._mappings: list[mmap.mmap] = []
        self._open: list[int] = []
        self._fresh = 0

    def run(self, operation: str, one: int, other: int) -> None:
        """Do one thing."""
        method: Callable[[int, int], None] = getattr(self, operation)
        with contextlib.suppress(OSError, shutil.Error, ValueError):
            method(one, other)

    def run_random(self, seed: int, count: int) -> None:
        """Do that many things."""
        chance = random.Random(seed)
        for _ in range(count):
            self.run(chance.choice(OPERATIONS), chance.randrange(10_000), chance.randrange(10_000))

    def close(self) -> None:
        """Let go of all files."""
        for mapping in self._mappings:
            mapping.close()
        for descriptor in self._open:
            os.close(descriptor)
        self._mappings, self._open = [], []

    def create(self, one: int, other: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK  # there may be a pipe of that name
        descriptor = os.open(self._directory(one) / self._name(other), flags, 0o644)
        os.write(descriptor, os.urandom(other % 5000))
        os.close(descriptor)

    def create_unnamed(self, one: int, other: int) -> None:
        descriptor = os.open(self._directory(one), os.O_TMPFILE | os.O_RDWR)
        try:
            os.write(descriptor, b"unnamed")
            os.link(f"/proc/self/fd/{descriptor}", self._directory(one) / self._name(other), follow_symlinks=True)
        finally:
            os.close(descriptor)

    def make_directory(self, one: int, other: int) -> None:
        (self._directory(one) / self._name(other)).mkdir()

    def make_directories(self, one: int, other: int) -> None:
        inner = self._directory(one) / self._name(other) / "x" / "y"
        inner.mkdir(parents=True)
        (inner / "file").write_bytes(b"deep")

    def make_fifo(self, one: int, other: int) -> None:
        os.mkfifo(self._directory(one) / self._name(other))

    def make_link(self, one: int, other: int) -> None:
        os.symlink(f"target-{other}", self._directory(one) / self._name(other))

    def write(self, one: int, other: int) -> None:
        with open(self._file(one), "r+b") as file:
            file.seek(other % 100)
            file.write(os.urandom(1 + other % 3000))

    def write_to_open(self, one: int, other: int) -> None:
        if len(self._open) < 5:
            self._open.append(os.open(self._file(one), os.O_RDWR))
        os.pwrite(self._open[one % len(self._open)], os.urandom(10), other)

    def close_one(self, one: int, other: int) -> None:
        if self._open:
            os.close(self._open.pop(one % len(self._open)))

    def copy_range(self, one: int, other: int) -> None:
        with open(self._file(one), "rb") as source, open(self._file(other), "r+b") as target:
            os.copy_file_range(source.fileno(), target.fileno(), 100, 0, 0)

    def store(self, one: int, other: int) -> None:
        if self._mappings:
            mapping = self._mappings[one % len(self._mappings)]
            mapping[other % len(mapping)] = other % 256

    def map(self, one: int, other: int) -> None:
        if len(self._mappings) < 5:
            with open(self._file(one), "r+b") as file:
                self._mappings.append(mmap.mmap(file.fileno(), 0))

    def unmap(self, one: int, other: int) -> None:
        if self._mappings:
            mapping = self._mappings.pop(one % len(self._mappings))
            mapping[0] = other % 256
            mapping.close()

    def truncate(self, one: int, other: int) -> None:
        path = self._file(one)
        if not self._mappings:  # a store behind the end of a mapped file is fatal
            os.truncate(path, other % 4000)

    def punch(self, one: int, other: int) -> None:
        with open(self._file(one), "r+b") as file:
            os.posix_fallocate(file.fileno(), other, 100)

    def unlink(self, one: int, other: int) -> None:
        self._entry(one).unlink()

    def remove_tree(self, one: int, other: int) -> None:
        directory = self._directory(one)
        if directory != self.root and other % 3 == 0:
            shutil.rmtree(directory)

    def rename(self, one: int, other: int) -> None:
        os.rename(self._entry(one), self._directory(other) / self._name(other))

    def rename_over(self, one: int, other: int) -> None:
        os.rename(self._entry(one), self._entry(other))

    def move_out(self, one: int, other: int) -> None:
        if other % 2:
            os.rename(self._entry(one), self.outside / self._name(other))

    def move_in(self, one: int, other: int) -> None:
        os.rename(_pick(sorted(self.outside.iterdir()), one), self._directory(other) / self._name(other))

    def link(self, one: int, other: int) -> None:
        os.link(self._file(one), self._directory(other) / self._name(other), follow_symlinks=False)

    def link_outside(self, one: int, other: int) -> None:
        os.link(self._file(one), self.outside / self._name(other), follow_symlinks=False)

    def write_outside(self, one: int, other: int) -> None:
        files = sorted(path for path in self.outside.iterdir() if path.is_file() and not path.is_symlink())
        with open(_pick(files, one), "ab") as file:
            file.write(b"from outside")

    def change_mode(self, one: int, other: int) -> None:
        os.chmod(self._entry(one), 0o700 | other % 0o100)

    def change_owner(self, one: int, other: int) -> None:
        os.chown(self._entry(one), other, other, follow_symlinks=False)

    def change_time(self, one: int, other: int) -> None:
        os.utime(self._entry(one), ns=(other, other * 10**9), follow_symlinks=False)

    def set_attribute(self, one: int, other: int) -> None:
        os.setxattr(self._entry(one), f"trusted.t{other % 3}", b"%d" % other, follow_symlinks=False)

    def remove_attribute(self, one: int, other: int) -> None:
        os.removexattr(self._entry(one), f"trusted.t{other % 3}", follow_symlinks=False)

    def _name(self, number: int) -> str:
        self._fresh += 1
        return f"n{number % 12}" if number % 4 else f"new-{self._fresh}"

    def _entries(self) -> list[Path]:
        return sorted(self.root.rglob("*"))

    def _entry(self, number: int) -> Path:
        return _pick(self._entries(), number)

    def _file(self, number: int) -> Path:
        return _pick([path for path in self._entries() if path.is_file() and not path.is_symlink()], number)

    def _directory(self, number: int) -> Path:
        return _pick(
            [self.root, *(path for path in self._entries() if path.is_dir() and not path.is_symlink())], number
        )


def _pick(paths: list[Path], number: int) -> Path:
    if not paths:
        raise ValueError
    return paths[number % len(paths)]


OPERATIONS = sorted(
    name for name, value in vars(TreeOperations).items() if callable(value) and value.__code__.co_argcount == 3
    and not name.startswith(("_", "run"))
)  # fmt: skip
