"""A run whose machine stood still for days stores nothing that could never be opened, whatever its own clock says."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.memory import DAY_NS, HOUR_NS, Kept
from tests.engine.test_backup_engine import contents, on_disk
from tests.faults.faulty import CrashingTarget
from tests.model.storage import Storage
from trinity_snap.errors import RepositoryError, TargetDenied
from trinity_snap.repository.counting import void_points
from trinity_snap.repository.lease import LEASE
from trinity_snap.repository.packs import pack_name
from trinity_snap.repository.prune import prune
from trinity_snap.repository.tenure import Tenure
from trinity_snap.repository.verify import verify
from trinity_snap.targets import ObjectStat

WEEK_NS = LEASE.session_ns + HOUR_NS
SESSION = "sessions/" + "5" * 32


class Slow(CrashingTarget):
    """A storage at which days go by, or anything else happens, just before an operation."""

    when: tuple[str, Callable[[], None]] | None = None
    came = False

    def _run(self, what, operation):
        if self.when is not None and what.startswith(self.when[0]):
            happen, self.when, self.came = self.when[1], None, True
            happen()
        return super()._run(what, operation)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    """A repository with a point, and sessions of eight runs that died: fewer are not tidied."""
    kept = Kept(tmp_path / "host")
    kept.backup(grown(tmp_path / "tree"))
    for number in range(8):
        kept.storage.put_if_absent(f"sessions/{number:032x}", b"")
    kept.pass_time(DAY_NS)
    return kept


def grown(root: Path, name: str = "first") -> Path:
    root.mkdir(exist_ok=True)
    (root / name).write_bytes(random.Random(name).randbytes(20_000))
    return root


def a_week_and_a_prune(kept: Kept) -> None:
    before = kept.names("sessions/")
    kept.pass_time(WEEK_NS)
    prune(kept.open())
    assert before - kept.names("sessions/")


@pytest.mark.parametrize("place", ["put packs/", "put index/", "list fences/", "stat sessions/"])
def test_a_run_that_stands_still_for_a_week_fails_and_nothing_is_left_that_cannot_be_read(
    kept: Kept, tmp_path: Path, place: str
) -> None:
    root = grown(tmp_path / "tree", "second")
    target = Slow(kept.storage)
    target.when = (place, lambda: a_week_and_a_prune(kept))
    points = kept.names("points/")
    with pytest.raises(RepositoryError, match="stood still"):
        kept.backup(root, target=target)
    assert target.came
    assert kept.names("points/") == points
    prune(kept.open())  # which refuses if there is a point that cannot be read
    for cache in ("cache", "another cache"):  # and no later run relies on what has no key
        point = kept.backup(root, cache=tmp_path / cache)
        assert contents(kept.open(), point.id) == on_disk(root)
    assert verify(kept.open(), kept.open().points(), read_data=True).good


def test_a_run_without_anything_new_that_stands_still_for_a_week_fails_as_well(kept: Kept, tmp_path: Path) -> None:
    target = Slow(kept.storage)
    target.when = ("list packs/", lambda: a_week_and_a_prune(kept))
    points = kept.names("points/")
    with pytest.raises(RepositoryError, match="stood still"):
        kept.backup(tmp_path / "tree", target=target)
    assert kept.names("points/") == points
    assert kept.backup(tmp_path / "tree").id


def test_a_run_that_stands_still_for_two_days_begins_its_lease_anew(kept: Kept, tmp_path: Path) -> None:
    """It learns of that from the times of what it stores, though its own clock stood still as well."""
    root = grown(tmp_path / "tree", "second")
    target = Slow(kept.storage)
    target.when = ("put packs/", lambda: kept.pass_time(2 * DAY_NS))
    sessions = kept.names("sessions/")
    point = kept.backup(root, target=target)
    assert len(kept.names("sessions/") - sessions) == 2
    repository = kept.open()
    assert not void_points(repository, repository.points())
    assert contents(repository, point.id) == on_disk(root)


def test_a_run_that_stands_still_just_before_its_point_does_not_claim_to_have_made_one(
    kept: Kept, tmp_path: Path
) -> None:
    target = Slow(kept.storage)
    target.when = ("put points/", lambda: kept.pass_time(2 * DAY_NS))
    with pytest.raises(RepositoryError, match="too late to count"):
        kept.backup(grown(tmp_path / "tree", "second"), target=target)
    repository = kept.open()
    assert len(void_points(repository, repository.points())) == 1


def test_what_is_stored_after_a_renewal_is_under_the_new_key(kept: Kept, tmp_path: Path) -> None:
    with kept.open().begin_session(tmp_path / "cache") as session:
        session.store(os.urandom(1000))
        session.flush()
        first = session.session_id
        before = kept.names("packs/")
        session.renew([kept.operator.recipient])
        assert session.session_id != first
        session.store(os.urandom(1000))
        session.flush()
    (pack,) = kept.names("packs/") - before
    assert kept.storage.get(pack)[24:40] == session.session_id


class Watched:
    """A session and its packs, by the clock of the storage. Without the right, the storage does not say how old objects are."""

    def __init__(self, *, may_look: bool = True) -> None:
        self.storage = Storage()
        if not may_look:
            self.storage.stat = self.deny  # type: ignore[method-assign]
        self.storage.put_if_absent(SESSION, b"")
        self.tenure = Tenure(self.storage, SESSION)
        self.packs = 0

    def deny(self, name: str) -> ObjectStat:
        raise TargetDenied("No.")

    def put(self, kind: str = "packs", *, after_ns: int = 0) -> str:
        self.storage.now_ns += after_ns
        self.packs += 1
        digest = f"{self.packs:064x}"
        name = pack_name(digest) if kind == "packs" else f"points/{digest[32:]}"
        self.storage.put_if_absent(name, b"")
        return name


def test_a_session_is_relied_on_while_it_is_young_or_in_use_without_a_gap() -> None:
    watched = Watched()
    watched.tenure.vouch_for(watched.put(after_ns=LEASE.session_ns - LEASE.wait_ns - 10**6))
    for _ in range(20):  # a run that takes weeks, and stores something every day
        watched.tenure.vouch_for(watched.put(after_ns=LEASE.lease_ns - 10**6))
    with pytest.raises(RepositoryError, match="stood still"):
        watched.tenure.vouch_for(watched.put(after_ns=LEASE.lease_ns + 1))


def test_the_first_pack_of_a_session_comes_within_a_week() -> None:
    watched = Watched()
    with pytest.raises(RepositoryError, match="stood still"):
        watched.tenure.vouch_for(watched.put(after_ns=LEASE.session_ns - LEASE.wait_ns))


def test_a_pack_that_is_gone_again_vouches_for_nothing() -> None:
    watched = Watched()
    name = watched.put()
    watched.storage.delete(name)
    with pytest.raises(RepositoryError, match="stood still"):
        watched.tenure.vouch_for(name)


def test_a_session_that_is_gone_is_missed() -> None:
    watched = Watched()
    watched.storage.delete(SESSION)
    for ask in (watched.tenure.look, lambda: watched.tenure.vouch_for(watched.put())):
        with pytest.raises(RepositoryError, match="stood still"):
            ask()


@pytest.mark.parametrize(("late_ns", "counts"), [(-1000, True), (1, False)])
def test_a_point_counts_by_the_times_that_the_storage_gave(late_ns: int, counts: bool) -> None:
    watched = Watched()
    watched.tenure.look()
    before = watched.tenure.is_aging
    assert watched.tenure.counts(watched.put("points", after_ns=LEASE.lease_ns + late_ns)) is counts
    assert (before, watched.tenure.is_aging) == (False, True)
    assert watched.tenure.counts("points/" + "f" * 32) is None, "one that was let go of at once"


def test_where_the_storage_does_not_say_how_old_objects_are_it_says_whether_the_session_is_there() -> None:
    watched = Watched(may_look=False)
    watched.tenure.look()
    watched.tenure.vouch_for(watched.put(after_ns=WEEK_NS))
    assert not watched.tenure.is_aging
    assert watched.tenure.counts(watched.put("points")) is None
    watched.storage.delete(SESSION)
    for ask in (watched.tenure.look, lambda: watched.tenure.vouch_for(watched.put())):
        with pytest.raises(RepositoryError, match="stood still"):
            ask()
