"""A session is the key of its run's data: it goes only when nothing of that run is left, whatever happens while prune looks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.engine.memory import DAY_NS, HOUR_NS, Kept
from tests.engine.test_prune import make
from trinity_snap.progress import NullProgress
from trinity_snap.repository.lease import LEASE
from trinity_snap.repository.survey import survey
from trinity_snap.repository.tidy import PackSessions, tidy_sessions


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    """A repository with one point, and a dozen sessions of runs that died at once, all of them long ago."""
    kept = Kept(tmp_path / "host")
    kept.backup(make(tmp_path / "tree", 1, 30_000))
    (session,) = kept.names("sessions/")
    for _ in range(12):
        kept.storage.put_if_absent(f"sessions/{os.urandom(16).hex()}", kept.storage.get(session))
    kept.pass_time(30 * DAY_NS)
    return kept


def tidy(kept: Kept, meanwhile: dict[str, bytes] | None = None) -> int:
    """Look, let things happen, and tidy by what was seen."""
    repository = kept.open()
    found = survey(repository)
    for name, data in (meanwhile or {}).items():
        kept.storage.put_if_absent(name, data)
    return tidy_sessions(repository, found, LEASE, PackSessions(None), NullProgress())


def test_sessions_of_which_nothing_is_left_go_once_they_are_a_week_old(kept: Kept) -> None:
    (point,) = kept.open().points()
    young = f"sessions/{os.urandom(16).hex()}"
    kept.storage.put_if_absent(young, b"of a run that is under way")
    assert tidy(kept) == 12
    assert kept.names("sessions/") == {young, f"sessions/{point.session_id.hex()}"}
    kept.pass_time(6 * DAY_NS)
    assert tidy(kept) == 0


def test_a_few_are_not_worth_a_look_at_every_pack(kept: Kept) -> None:
    for name in sorted(kept.names("sessions/") - {f"sessions/{kept.open().points()[0].session_id.hex()}"})[7:]:
        kept.storage.delete(name)
    assert tidy(kept) == 0
    assert len(kept.names("sessions/")) == 8


@pytest.mark.parametrize("left", ["point", "packs"])
def test_a_point_or_a_pack_that_comes_while_prune_looks_keeps_its_session(kept: Kept, left: str) -> None:
    (point,) = kept.open().points()
    coming = {name: kept.storage.get(name) for name in kept.names("points/" if left == "point" else "packs/")}
    for name in kept.names("points/") | kept.names("packs/"):
        kept.storage.delete(name)
    assert tidy(kept, meanwhile=coming) == 12
    assert kept.names("sessions/") == {f"sessions/{point.session_id.hex()}"}


@pytest.mark.parametrize("name", [f"points/{'ff' * 16}", f"packs/ff/{'ff' * 32}"])
def test_while_something_does_not_say_whose_it_is_no_session_goes(kept: Kept, name: str) -> None:
    before = kept.names("sessions/")
    assert tidy(kept, meanwhile={name: bytes(100)}) == 0
    assert kept.names("sessions/") == before


@pytest.mark.parametrize("comes", ["point", "packs"])
def test_what_goes_while_prune_looks_is_passed_over_and_all_else_is_looked_at(kept: Kept, comes: str) -> None:
    """Another prune deletes packs, and a forget points, between the list and the look."""
    storage, repository = kept.storage, kept.open()
    (point,) = repository.points()
    coming = {name: storage.get(name) for name in kept.names("points/" if comes == "point" else "packs/")}
    for name in kept.names("points/") | kept.names("packs/"):
        storage.delete(name)
    found = survey(repository)
    for name, data in coming.items():
        storage.put_if_absent(name, data)
    numbers = range(0, 256, 4)
    gone = {f"points/{number:02x}{'00' * 15}" for number in numbers}
    gone |= {f"packs/{number:02x}/{number:02x}{'00' * 31}" for number in numbers}
    listed = storage.list_prefix

    def list_prefix(prefix: str) -> object:
        return iter([*(name for name in gone if name.startswith(prefix)), *listed(prefix)])

    storage.list_prefix = list_prefix  # type: ignore[method-assign,assignment]  # of this one only
    assert tidy_sessions(repository, found, LEASE, PackSessions(None), NullProgress()) == 12
    assert kept.names("sessions/") == {f"sessions/{point.session_id.hex()}"}


def test_a_session_is_left_alone_for_seven_times_as_long_as_a_fence_stands(kept: Kept) -> None:
    kept.storage.now_ns -= 30 * DAY_NS
    kept.pass_time(7 * LEASE.wait_ns - HOUR_NS)
    assert tidy(kept) == 0
    kept.pass_time(2 * HOUR_NS)
    assert tidy(kept) == 12


def test_what_is_remembered_of_packs_that_are_gone_keeps_no_session(kept: Kept, tmp_path: Path) -> None:
    (point,) = kept.open().points()
    memory = tmp_path / "memory"

    def tidy_with_memory() -> int:
        repository = kept.open()
        return tidy_sessions(repository, survey(repository), LEASE, PackSessions(memory), NullProgress())

    assert tidy_with_memory() == 12
    kept.storage.delete(f"points/{point.id}")
    for name in kept.names("packs/"):
        kept.storage.delete(name)
    for _ in range(8):
        kept.storage.put_if_absent(f"sessions/{os.urandom(16).hex()}", b"of nothing")
    kept.pass_time(30 * DAY_NS)
    assert tidy_with_memory() == 9
    assert not kept.names("sessions/")
