"""Files are compared by a second process while others are being written: what it finds, and that nothing is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.engine.conftest import Store
from tests.engine.test_backup_engine import on_disk
from trinity_snap.errors import IntegrityError, RestoreError
from trinity_snap.progress import NullProgress
from trinity_snap.repository.manifest import Entry
from trinity_snap.restore import write
from trinity_snap.restore.checker import Checker
from trinity_snap.restore.metadata import Losses
from trinity_snap.restore.write import write_and_check


def make_tree(root: Path) -> None:
    root.mkdir()
    for number in range(300):
        (root / f"small-{number:03}").write_bytes(os.urandom(100))
    (root / "large").write_bytes(os.urandom(6_000_000))
    with (root / "sparse").open("wb") as file:
        file.seek(5_000_000)
        file.write(b"end" * 500_000)


class Meddler(Checker):
    """One that begins at once. Before it is told of the file `victim`, `meddle` is done to it."""

    victim = b""

    def __init__(self, chunk_key: bytes, holder: int, root_name: bytes) -> None:
        super().__init__(chunk_key, holder, root_name, worth_files=1)
        self._place = Path(f"/proc/self/fd/{holder}") / os.fsdecode(root_name)

    @staticmethod
    def meddle(path: Path) -> None: ...

    def add(self, entry: Entry, lengths: Sequence[int], losses: Losses) -> None:
        if entry.path == self.victim:
            self.meddle(self._place / os.fsdecode(entry.path))
        super().add(entry, lengths, losses)


def restored(store: Store, tmp_path: Path) -> Path:
    point = store.open().read_point(store.backup(tmp_path / "tree").id)
    reader = store.open().reader(point)
    holder = os.open(tmp_path, os.O_RDONLY)
    try:
        write_and_check(
            reader, holder, b"out", "data", lambda: reader.entries(point.volumes[0]), NullProgress(),
            devices=False, total=0, damaged_is_fatal=True,
        )  # fmt: skip
    finally:
        os.close(holder)
    return tmp_path / "out"


def test_what_is_compared_beside_the_writing_is_all_there(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(tmp_path / "tree")
    monkeypatch.setattr(write, "Checker", Meddler)
    assert on_disk(restored(store, tmp_path)) == on_disk(tmp_path / "tree")


def flip(path: Path) -> None:
    found = path.stat()
    with path.open("r+b") as file:
        file.seek(found.st_size - 1)
        last = file.read(1)
        file.seek(found.st_size - 1)
        file.write(bytes([last[0] ^ 1]))
    os.utime(path, ns=(found.st_mtime_ns, found.st_mtime_ns))


def grow(path: Path) -> None:
    found = path.stat()
    os.truncate(path, found.st_size + 1)
    os.utime(path, ns=(found.st_mtime_ns, found.st_mtime_ns))


def replace_by_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("victim", [b"small-000", b"small-299", b"large", b"sparse"])
@pytest.mark.parametrize(
    ("meddle", "words"),
    [
        (flip, "content"),
        (grow, "size"),
        (lambda path: path.chmod(0o700), "mode"),
        (lambda path: os.setxattr(path, "user.more", b"x"), "extended attributes"),
        (lambda path: os.utime(path, (1, 1)), "time"),
        (lambda path: path.unlink(), "could not be read again|has other entries"),
        (replace_by_link, "could not be read again"),
    ],
)
def test_every_difference_is_found_and_named(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: bytes, meddle, words: str
) -> None:
    make_tree(tmp_path / "tree")
    monkeypatch.setattr(write, "Checker", Meddler)
    monkeypatch.setattr(Meddler, "victim", victim)
    monkeypatch.setattr(Meddler, "meddle", staticmethod(meddle))
    with pytest.raises(RestoreError, match=words) as caught:
        restored(store, tmp_path)
    assert victim.decode() in str(caught.value) or "other entries" in str(caught.value)


def test_a_comparison_that_is_killed_is_no_comparison(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Meddler):
        victim = b"small-150"

        def add(self, entry: Entry, lengths: Sequence[int], losses: Losses) -> None:
            super().add(entry, lengths, losses)
            if entry.path == self.victim:
                assert self._process is not None
                self._process.kill()
                self._process.wait()

    make_tree(tmp_path / "tree")
    monkeypatch.setattr(write, "Checker", Killed)
    with pytest.raises(RestoreError, match="ended with status -9"):
        restored(store, tmp_path)


def test_files_that_were_passed_over_are_noticed(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(Meddler):
        def add(self, entry: Entry, lengths: Sequence[int], losses: Losses) -> None:
            if entry.path != b"small-150":
                super().add(entry, lengths, losses)

    make_tree(tmp_path / "tree")
    monkeypatch.setattr(write, "Checker", Forgetful)
    with pytest.raises(RestoreError, match="passed over"):
        restored(store, tmp_path)


def test_few_small_files_are_not_worth_a_process(tmp_path: Path) -> None:
    holder = os.open(tmp_path, os.O_RDONLY)
    with Checker(bytes(32), holder, b"out") as checker:
        checker.add(Entry(b"file", "f", 0o600, 0, 0, 0, 1, bytes(32)), (), Losses())
        assert not checker.has_begun
        assert checker.finish() == 0
    os.close(holder)


def test_what_a_point_says_of_itself_is_not_believed_there_either(tmp_path: Path) -> None:
    """Chunks that are longer than the file: a writer refuses that, and so does who compares."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/file").write_bytes(b"12345")
    found = (tmp_path / "out/file").stat()
    entry = Entry(
        b"file", "f", found.st_mode & 0o7777, found.st_uid, found.st_gid, found.st_mtime_ns, 5, bytes(range(64))
    )
    holder = os.open(tmp_path, os.O_RDONLY)
    with Checker(bytes(32), holder, b"out", worth_files=1) as checker:
        checker.add(entry, (4, 4), Losses())
        with pytest.raises((IntegrityError, RestoreError), match="file"):
            checker.finish()
    os.close(holder)


_HOLDS_ON = """
import os, sys, time
from trinity_snap.repository.manifest import Entry
from trinity_snap.restore.checker import Checker
from trinity_snap.restore.metadata import Losses
place = sys.argv[1]
holder = os.open(place, os.O_RDONLY)
found = os.stat(place + "/out/file")
checker = Checker(bytes(32), holder, b"out", worth_files=1)
entry = Entry(b"file", "f", found.st_mode & 0o7777, found.st_uid, found.st_gid, found.st_mtime_ns, 0)
checker.add(entry, (), Losses())
print(checker._process.pid, flush=True)
time.sleep(600)
"""


def test_nothing_is_left_of_it_when_the_restore_is_killed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/file").touch()
    restoring = subprocess.Popen([sys.executable, "-c", _HOLDS_ON, str(tmp_path)], stdout=subprocess.PIPE)
    assert restoring.stdout is not None
    comparing = int(restoring.stdout.readline())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # these are for who restores
        time.sleep(0.3)
        os.kill(comparing, number) if is_ready(comparing) else None
    restoring.kill()
    restoring.wait()
    restoring.stdout.close()
    deadline = time.monotonic() + 10
    while is_alive(comparing):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_ready(process: int) -> bool:
    """Whether it has said that signals are not for it."""
    status = Path(f"/proc/{process}/status").read_text()
    ignored = int(next(line for line in status.splitlines() if line.startswith("SigIgn")).split()[1], 16)
    return bool(ignored & 1 << signal.SIGHUP - 1)


def is_alive(process: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
