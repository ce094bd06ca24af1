"""Deterministic data to back up: the same seed gives the same bytes."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
_COMPLETE = ".complete"


@dataclass(frozen=True)
class DataSet:
    """A tree to make: how many text files of which mean size, media files and databases."""

    name: str
    title: str
    text_files: int
    text_bytes: int
    media_files: int = 0
    media_bytes: int = 0
    databases: int = 0
    database_bytes: int = 0

    @property
    def files(self) -> int:
        return self.text_files + self.media_files + self.databases

    def scaled(self, factor: float) -> DataSet:
        """The same mixture with `factor` times as many files."""
        return DataSet(
            self.name,
            f"{self.title} x {factor:g}" if factor != 1 else self.title,
            max(100, int(self.text_files * factor)),
            self.text_bytes,
            int(self.media_files * factor),
            self.media_bytes,
            int(self.databases * factor),
            self.database_bytes,
        )


DATA_SETS = {
    "A": DataSet("A", "30,000 files, 1.36 GB, mixed", 28_000, 6_000, 1_900, 500_000, 100, 2_400_000),
    "B": DataSet("B", "300,000 files of about 1 KB", 300_000, 1_000),
}


def make(data_set: DataSet, root: Path, seed: int = 1) -> None:
    """Make the tree at `root`, unless it is there complete already."""
    marker = root.parent / f"{root.name}{_COMPLETE}"
    wanted = f"{data_set} {seed}"
    if root.is_dir() and marker.is_file() and marker.read_text() == wanted:
        return
    marker.unlink(missing_ok=True)
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    rng = random.Random(f"{data_set.name} {seed}")
    words = _Words(rng)
    for number in range(data_set.text_files):
        directory = root / "source" / f"{number // 4000:03d}" / f"module_{number // 40 % 100:02d}"
        if number % 40 == 0:
            directory.mkdir(parents=True, exist_ok=True)
        size = min(20 * data_set.text_bytes, int(rng.lognormvariate(0, 0.8) * data_set.text_bytes * 0.73))
        (directory / f"{words.name()}_{number}.py").write_bytes(words.text(max(20, size)))
    for number in range(data_set.media_files):
        directory = root / "content" / f"{number // 200:02d}"
        directory.mkdir(parents=True, exist_ok=True)
        size = int(data_set.media_bytes * rng.uniform(0.2, 1.8))
        (directory / f"picture_{number:05d}.jpg").write_bytes(rng.randbytes(size))
    for number in range(data_set.databases):
        (root / "data").mkdir(exist_ok=True)
        _make_database(root / "data" / f"memory_{number:03d}.db", data_set.database_bytes, words, rng)
    os.sync()
    marker.write_text(wanted)


def change_few(root: Path, seed: int) -> int:
    """Change 61 files: 40 rewritten, 10 appended to, 10 new, 1 removed. Return how many."""
    rng = random.Random(f"changes {seed}")
    words = _Words(rng)
    files = sorted((root / "source").rglob("*.py"))
    chosen = rng.sample(files, 51)
    for path in chosen[:40]:
        path.write_bytes(words.text(path.stat().st_size))
    for path in chosen[40:50]:
        with path.open("ab") as file:
            file.write(words.text(300))
    chosen[50].unlink()
    for number in range(10):
        (chosen[number].parent / f"new_{seed}_{number}.py").write_bytes(words.text(2_000))
    os.sync()
    return 61


def measure_tree(root: Path) -> tuple[int, int]:
    """Count the files and sum up their sizes, by reading every byte, which warms the cache."""
    count = total = 0
    for directory, _, names in os.walk(root):
        for name in names:
            with open(os.path.join(directory, name), "rb", buffering=0) as file:
                while piece := file.read(MIB):
                    total += len(piece)
            count += 1
    return count, total


class _Words:
    """Text that compresses about as source text does: a vocabulary used as Zipf's law has it."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        letters = "etaoinshrdlucmfwypvbgk"
        vocabulary = ["".join(rng.choices(letters, k=rng.randint(2, 11))) for _ in range(5_000)]
        self._names = vocabulary[:500]
        endings = (" ", " ", " ", "(", ") ", " = ", ".", ",\n    ", ":\n        ", "\n")
        self._tokens = [word + rng.choice(endings) for word in vocabulary]
        self._weights = list(itertools.accumulate(1 / (rank + 2.7) for rank in range(len(vocabulary))))

    def name(self) -> str:
        return self._rng.choice(self._names)

    def text(self, size: int) -> bytes:
        pieces: list[str] = []
        length = 0
        while length < size:
            text = "".join(self._rng.choices(self._tokens, cum_weights=self._weights, k=(size - length) // 8 + 1))
            pieces.append(text)
            length += len(text)
        return "".join(pieces)[:size].encode()


def _make_database(path: Path, size: int, words: _Words, rng: random.Random) -> None:
    def rows() -> Iterator[tuple[int, str, bytes]]:
        for number in range(size // 1_100):
            yield number, words.text(700).decode(), rng.randbytes(300)

    database = sqlite3.connect(path)
    database.execute("CREATE TABLE memory (id INTEGER PRIMARY KEY, note TEXT, vector BLOB)")
    database.executemany("INSERT INTO memory VALUES (?, ?, ?)", rows())
    database.commit()
    database.close()
