"""Durable files: the old one or the new one, never anything between, and never less than promised."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from trinity_snap.durable import make_directory_durably, write_file_durably


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o400])
def test_a_file_gets_contents_and_exactly_the_mode(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    for umask in (0, 0o077, 0o777):
        old = os.umask(umask)
        try:
            write_file_durably(path, memoryview(b"some data"), mode=mode)
        finally:
            os.umask(old)
        assert path.read_bytes() == b"some data"
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert os.listdir(tmp_path) == ["file"]


def test_without_replace_whatever_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file_durably(path, b"first", replace=False)
    with pytest.raises(FileExistsError):
        write_file_durably(path, b"second", replace=False)
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["write", "fchmod", "fsync", "rename"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    write_file_durably(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(OSError, match="full"):
            write_file_durably(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_contents_are_durable_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        events.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real_fsync(descriptor)

    def rename(source: Path, destination: Path) -> None:
        events.append("rename")
        real_rename(source, destination)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    write_file_durably(tmp_path / "file", b"data")
    assert events == ["file", "rename", "directory"]


def test_directories_are_made_private_and_kept_as_they_are(tmp_path: Path) -> None:
    make_directory_durably(tmp_path / "a" / "b" / "c")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    (tmp_path / "a").chmod(0o755)
    make_directory_durably(tmp_path / "a" / "b" / "c")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=r"exists|Not a directory"):
            make_directory_durably(path)
