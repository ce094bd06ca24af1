"""What makes the product's code run in the model: its clocks are the test's, and it does nothing at random."""

from __future__ import annotations

import pytest

from tests.model.storage import clock_of_actor
from trinity_snap.repository import chunkindex, session


@pytest.fixture(autouse=True)
def _deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "running_ns", clock_of_actor)
    monkeypatch.setattr(session, "_OPEN_PACKS", 1)
    monkeypatch.setattr(session, "_WORKERS", 1)
    monkeypatch.setattr(session, "_SPARE_BUFFERS", 2)
    monkeypatch.setattr(chunkindex, "write_file_durably", lambda path, data, mode=0o600: path.write_bytes(data))
