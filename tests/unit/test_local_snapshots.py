"""The notes of local snapshots."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from trinity_snap.snapshot import local
from trinity_snap.snapshot.local import LocalAgent, LocalSnapshot, local_snapshots, remove_local, write_local
from trinity_snap.snapshot.protocol import Kept


def test_a_local_snapshot_can_be_removed_from_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is what makes room."""

    def full(*ignored: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(local._KEEPERS, "image", "tests.lab.image_keeper")
    kept = Kept("image", "run", str(tmp_path / "image"), str(tmp_path / "made"), "uuid", ())
    snapshot = LocalSnapshot("run", 1, (LocalAgent("a", "crash-consistent", ()),), (kept,))
    write_local(tmp_path, snapshot)
    assert local_snapshots(tmp_path) == [snapshot]
    monkeypatch.setattr(local, "write_file_durably", full)
    remove_local(tmp_path, snapshot)
    assert local_snapshots(tmp_path) == []
