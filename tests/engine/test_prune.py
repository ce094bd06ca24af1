"""Forgetting and pruning in a real repository; time passes by making every object older."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.engine.conftest import Store
from tests.engine.test_backup_engine import contents, on_disk
from trinity_snap.backup.engine import AgentPoint, Committed, Engine, SourceSpec
from trinity_snap.backup.shipper import Shipped
from trinity_snap.errors import IdentityNeeded, IntegrityError, PolicyError, RemovalRefused
from trinity_snap.repository import prune as prune_module
from trinity_snap.repository.copies import put_copy_note
from trinity_snap.repository.fences import read_new_fences
from trinity_snap.repository.forget import forget
from trinity_snap.repository.holds import held_points, hold, release
from trinity_snap.repository.lease import running_ns
from trinity_snap.repository.prune import PruneReport, prune
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.retention import RetentionRules
from trinity_snap.repository.verify import verify
from trinity_snap.snapshot.view import DirectoryView
from trinity_snap.targets import Target

HOUR = 3600


class ClockedTarget:
    """A directory whose clock is ahead by as much as a test has let pass."""

    def __init__(self, inner: Target, store: Clocked) -> None:
        self._inner = inner
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def put_if_absent(self, name: str, data: bytes | bytearray | memoryview) -> bool:
        stored = self._inner.put_if_absent(name, data)
        now_ns = self._store.now_ns()
        os.utime(self._store.directory / name, ns=(now_ns, now_ns))
        return stored


@dataclass
class Clocked(Store):
    """A repository at a storage with a clock of its own."""

    ahead_ns: int = 0

    def now_ns(self) -> int:
        return time.time_ns() + self.ahead_ns

    def target(self) -> Target:
        target: Target = ClockedTarget(super().target(), self)
        return target

    def backup(self, root: Path, agent: str = "tree", cache: Path | None = None) -> Committed:
        with Engine(self.open(), cache or self.cache) as engine:
            return commit(engine, ship(engine, root), self.now_ns(), agent)


@pytest.fixture
def make_store(make_store: Callable[[str], Store]) -> Callable[[str], Clocked]:
    def make(name: str) -> Clocked:
        store = make_store(name)
        return Clocked(store.directory, store.cache, store.host, store.operator, store.recovery)

    return make


@pytest.fixture
def store(make_store: Callable[[str], Clocked]) -> Clocked:
    return make_store("repository")


def pass_time(store: Clocked, hours: float) -> None:
    store.ahead_ns += int(hours * HOUR * 1e9)


def make_older(store: Clocked, hours: float, prefix: str) -> None:
    """Give objects other times, as nothing honest does."""
    for name in store.objects(prefix):
        path = store.directory / name
        older = path.stat().st_mtime_ns - int(hours * HOUR * 1e9)
        os.utime(path, ns=(older, older))


def make(root: Path, seed: int, size: int = 300_000) -> Path:
    root.mkdir(exist_ok=True)
    (root / "large").write_bytes(random.Random(seed).randbytes(size))
    for number in range(20):
        (root / f"file-{number}").write_bytes(b"%d %d" % (number, seed))
    return root


def keep_last(count: int) -> Callable[[str], RetentionRules]:
    return lambda agent: RetentionRules(last=count)


def ship(engine: Engine, root: Path) -> tuple[SourceSpec, Shipped]:
    """Ship a tree that has been at rest for long, so that the next run takes it over unread."""
    source = SourceSpec("tree")
    return source, engine.ship(source, DirectoryView(root), time.time_ns() + 10 * 10**9)


def commit(engine: Engine, shipped: tuple[SourceSpec, Shipped], created_ns: int = 1, agent: str = "tree") -> Committed:
    point = AgentPoint(agent, "host", "0" * 32, created_ns, "none", "directory", "file-consistent")
    return engine.commit(point, [shipped])


def days(store: Clocked, root: Path, count: int) -> list[str]:
    """A point a day, each of other data; the last is a day old, too."""
    points = []
    for day in range(count):
        points.append(store.backup(make(root, day)).id)
        pass_time(store, 24)
    return points


def prune_daily(store: Clocked, times: int = 3) -> list[PruneReport]:
    reports = []
    for _ in range(times):
        pass_time(store, 24)
        reports.append(prune(store.open()))
    return reports


def stored_bytes(store: Clocked) -> int:
    return sum((store.directory / name).stat().st_size for name in store.objects("packs/"))


def test_what_only_forgotten_points_needed_is_deleted_a_lease_after_it_was_condemned(
    store: Clocked, tmp_path: Path
) -> None:
    root = tmp_path / "tree"
    points = days(store, root, 3)
    expected = on_disk(root)
    before = stored_bytes(store)
    report = forget(store.open(), keep_last(1))
    assert sorted(report.forgotten) == sorted(points[:2])
    pass_time(store, 26)
    first = prune(store.open())
    assert (first.deleted_packs, first.fenced_packs > 0) == (0, True)
    assert stored_bytes(store) == before
    assert prune(store.open()).deleted_packs == 0, "the lease is not over"
    pass_time(store, 24.5)
    assert prune(store.open()).deleted_packs == 0, "the margin is not over"
    pass_time(store, 1)
    last = prune(store.open())
    assert last.deleted_packs == first.fenced_packs
    assert last.deleted_bytes == first.fenced_bytes == before - stored_bytes(store)
    assert stored_bytes(store) < before / 2
    assert not store.objects("fences/")
    assert contents(store.open(), points[2]) == expected
    assert verify(store.open(), store.open().points(), read_data=True).good
    assert store.backup(root).problems == []


def test_a_prune_every_day_just_works_and_leaves_nothing_behind(store: Clocked, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    for day in range(12):
        store.backup(make(root, day))
        pass_time(store, 24)
        forget(store.open(), keep_last(2))
        prune(store.open())
    assert len(store.objects("points/")) == 2
    assert len(store.objects("fences/")) <= 2
    assert len(store.objects("receipts/")) <= 4
    assert len(store.objects("index/")) <= 6
    needed = {name.name for point in store.open().points() for name in point.pack_references()}
    prune_daily(store)
    assert {name[-64:] for name in store.objects("packs/")} == needed
    assert len(store.objects("index/")) <= 2
    assert not store.objects("fences/")


def test_a_dry_run_tells_and_changes_nothing(store: Clocked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune_module, "time", SimpleNamespace(time_ns=store.now_ns))
    days(store, tmp_path / "tree", 3)
    everything = store.objects("")
    report = forget(store.open(), keep_last(1), dry_run=True)
    assert len(report.forgotten) == 2
    assert store.objects("") == everything
    forget(store.open(), keep_last(1))
    pass_time(store, 26)
    everything = store.objects("")
    told = prune(store.open(), dry_run=True)
    assert store.objects("") == everything
    done = prune(store.open())
    assert (told.fenced_packs, told.fenced_bytes) == (done.fenced_packs, done.fenced_bytes) != (0, 0)


def fenced_by(store: Clocked) -> set[bytes]:
    return set().union(*read_new_fences(store.target(), store.host, ()).values())


def test_a_run_relies_on_nothing_that_is_condemned(store: Clocked, tmp_path: Path) -> None:
    root = make(tmp_path / "tree", 0)
    with Engine(store.open(), store.cache) as engine:
        commit(engine, ship(engine, root))
    store.backup(make(tmp_path / "other", 1), cache=tmp_path / "other-cache")
    pass_time(store, 26)
    forget(store.open(), keep_last(1))
    assert prune(store.open()).fenced_packs
    with Engine(store.open(), store.cache) as engine:
        shipped = ship(engine, root)
        assert shipped[1].bytes_read > 300_000
        point = commit(engine, shipped).id
    needed = {bytes.fromhex(pack.name) for pack in store.open().read_point(point).pack_references()}
    assert fenced_by(store).isdisjoint(needed)
    prune_daily(store)
    assert contents(store.open(), point) == on_disk(root)
    assert verify(store.open(), store.open().points(), read_data=True).good


@pytest.mark.parametrize("knows", ["the tree", "only the index"])
def test_what_is_condemned_while_a_run_is_under_way_is_stored_anew(store: Clocked, tmp_path: Path, knows: str) -> None:
    root = make(tmp_path / "tree", 0)
    with Engine(store.open(), store.cache) as engine:
        commit(engine, ship(engine, root))
    store.backup(make(tmp_path / "other", 1), cache=tmp_path / "other-cache")
    pass_time(store, 26)
    forget(store.open(), keep_last(1))
    if knows == "only the index":
        shutil.rmtree(store.cache)
    repository = Repository.open(store.target(), host=store.host)
    with Engine(repository, store.cache) as engine:
        shipped = ship(engine, root)
        assert (shipped[1].bytes_read == 0) == (knows == "the tree")
        stored = engine.session.chunks_stored
        assert stored == 0
        assert prune(store.open()).fenced_packs
        point = commit(engine, shipped).id
        assert engine.session.chunks_stored > 20
    needed = {bytes.fromhex(pack.name) for pack in store.open().read_point(point).pack_references()}
    assert fenced_by(store).isdisjoint(needed)
    prune_daily(store)
    assert not store.objects("fences/")
    assert contents(store.open(), point) == on_disk(root)
    assert store.backup(root).problems == []


def test_what_a_run_took_into_use_before_it_could_know_is_released(store: Clocked, tmp_path: Path) -> None:
    root = make(tmp_path / "tree", 0)
    with Engine(store.open(), store.cache) as engine:
        commit(engine, ship(engine, root))
    store.backup(make(tmp_path / "other", 1), cache=tmp_path / "other-cache")
    pass_time(store, 26)
    forget(store.open(), keep_last(1))
    repository = Repository.open(store.target(), host=store.host)
    with Engine(repository, store.cache) as engine:
        shipped = ship(engine, root)
        repository.look_again = lambda session: None  # type: ignore[method-assign]  # the fence comes just after the look
        fenced = prune(store.open()).fenced_packs
        point = commit(engine, shipped).id
    pass_time(store, 26)
    last = prune(store.open())
    assert (last.released_packs > 0, last.deleted_packs) == (True, fenced - last.released_packs)
    assert not store.objects("fences/")
    assert contents(store.open(), point) == on_disk(root)


def test_a_run_that_grows_old_renews_its_session_before_it_commits(
    store: Clocked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make(tmp_path / "tree", 0)
    from trinity_snap.repository import session as module

    with Engine(store.open(), store.cache) as engine:
        shipped = ship(engine, root)
        pass_time(store, 30)
        later = running_ns
        monkeypatch.setattr(module, "running_ns", lambda: later() + 30 * HOUR * 10**9)
        point = commit(engine, shipped).id
    assert len(store.objects("sessions/")) == 2
    assert not prune(store.open()).not_counting
    assert contents(store.open(), point) == on_disk(root)


def test_a_point_that_came_too_late_does_not_count_and_keeps_its_data_while_it_is_there(
    store: Clocked, tmp_path: Path
) -> None:
    root = tmp_path / "tree"
    late = store.backup(make(root, 0)).id
    make_older(store, 30, "sessions/")
    first = on_disk(root)
    pass_time(store, 24)
    with pytest.raises(RemovalRefused, match="not one recovery point that counts"):
        prune(store.open())
    store.backup(make(root, 1))
    pass_time(store, 26)
    report = prune(store.open())
    assert [point.id for point in report.not_counting] == [late]
    assert report.fenced_packs == 0
    assert contents(store.open(), late) == first
    assert forget(store.open(), keep_last(1)).forgotten == [late]
    prune_daily(store, 4)
    assert len(store.objects("packs/")) == len({p.name for x in store.open().points() for p in x.pack_references()})


def test_a_point_that_was_copied_counts_from_when_its_copying_was_announced(store: Clocked, tmp_path: Path) -> None:
    point = store.backup(make(tmp_path / "tree", 0)).id
    make_older(store, 48, "sessions/")  # copied on Monday; the point came on Wednesday
    store.backup(make(tmp_path / "tree", 1))

    def late() -> list[str]:
        return [found.id for found in prune(store.open(), dry_run=True).not_counting]

    assert late() == [point]
    put_copy_note(store.target(), store.open().id, [point])
    make_older(store, 30, "copies/")
    assert late() == [point]
    put_copy_note(store.target(), store.open().id, ["0" * 32, point])
    assert late() == []


def test_receipts_keep_a_point_valid_when_the_storage_gives_other_times(store: Clocked, tmp_path: Path) -> None:
    point = store.backup(make(tmp_path / "tree", 0)).id
    assert prune(store.open()).not_counting == []
    make_older(store, 300, "sessions/")
    report = prune(store.open())
    assert report.not_counting == []
    assert store.objects("points/") == {f"points/{point}"}


def test_prune_refuses_while_it_cannot_know_what_is_needed(store: Clocked, tmp_path: Path) -> None:
    points = days(store, tmp_path / "tree", 2)
    everything = store.objects("packs/")
    with pytest.raises(IdentityNeeded):
        prune(Repository.open(store.target(), host=store.host))
    path = store.directory / "points" / points[0]
    whole = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(RemovalRefused, match=points[0]):
        prune(store.open())
    with pytest.raises(RemovalRefused):
        forget(store.open(), keep_last(1))
    assert store.objects("packs/") == everything
    assert forget(store.open(), keep_last(1), [points[0]]).forgotten == [points[0]]
    prune_daily(store)
    assert store.objects("points/") == {f"points/{points[1]}"}


def test_a_point_that_somebody_deleted_stops_forget_and_prune_until_the_operator_agrees(
    store: Clocked, tmp_path: Path
) -> None:
    points = days(store, tmp_path / "tree", 3)
    prune(store.open())
    (store.directory / "points" / points[2]).unlink()
    for attempt in (lambda: prune(store.open()), lambda: forget(store.open(), keep_last(2))):
        with pytest.raises(RemovalRefused, match="are gone"):
            attempt()
    prune(store.open(), accept_missing=True)
    prune(store.open())


def test_a_damaged_fence_stops_runs_and_is_removed_when_its_time_is_over(store: Clocked, tmp_path: Path) -> None:
    root = make(tmp_path / "tree", 0)
    store.backup(root)
    name = f"fences/{'ab' * 16}"
    store.target().put_if_absent(name, b"{}\n" + b"0" * 64 + b"\n")
    with pytest.raises(IntegrityError, match="trinity-snap prune"):
        store.backup(root)
    prune(store.open())
    assert store.objects("fences/")
    pass_time(store, 26)
    prune(store.open())
    assert store.backup(root).problems == []


def test_what_is_spared_is_neither_condemned_nor_deleted(store: Clocked, tmp_path: Path) -> None:
    points = days(store, tmp_path / "tree", 2)
    spared = {bytes.fromhex(name[-64:]) for name in store.objects("packs/")}
    assert forget(store.open(), keep_last(1), spared=points).forgotten == []
    forget(store.open(), keep_last(1))
    pass_time(store, 26)
    assert prune(store.open(), spared=spared).fenced_packs == 0
    assert prune(store.open()).fenced_packs
    pass_time(store, 26)
    assert prune(store.open(), spared=spared).deleted_packs == 0
    assert {bytes.fromhex(name[-64:]) for name in store.objects("packs/")} == spared
    assert not store.objects("fences/")


# -- retention --------------------------------------------------------------------------------------------------------


def test_forget_says_of_each_point_why_it_stays_or_goes(store: Clocked, tmp_path: Path) -> None:
    points = days(store, tmp_path / "tree", 5)
    rules = RetentionRules(last=1, daily=2, within=timedelta(hours=30))
    report = forget(store.open(), lambda agent: rules, dry_run=True)
    [agent] = report.agents
    told = {point.id: decision for point, decision in agent.decisions}
    assert [told[point].keep for point in points] == [False, False, False, True, True]
    assert told[points[0]].reasons == ("no rule keeps it",)
    assert [reason.split(":")[0] for reason in told[points[4]].reasons] == [
        "last",
        "daily",
        "within 30 h of the newest",
    ]


def test_forget_never_leaves_an_agent_without_a_point(store: Clocked, tmp_path: Path) -> None:
    points = days(store, tmp_path / "tree", 2)
    with pytest.raises(PolicyError, match="nothing would stay"):
        forget(store.open(), lambda agent: RetentionRules())
    report = forget(store.open(), keep_last(1), points)
    assert report.agents[0].refused
    assert report.forgotten == []
    assert len(store.objects("points/")) == 2
    assert forget(store.open(), keep_last(1), [points[0][:8]]).forgotten == [points[0]]


def test_forget_leaves_an_agent_alone_whose_newest_point_is_small_or_void(store: Clocked, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    days(store, root, 3)
    small = store.backup(make(root, 9, size=10)).id
    report = forget(store.open(), keep_last(1))
    assert report.agents[0].refused and small[:8] in report.agents[0].refused
    assert len(store.objects("points/")) == 4
    assert len(forget(store.open(), keep_last(1), accept=["tree"]).forgotten) == 3


def test_a_held_point_stays_until_it_is_released(store: Clocked, tmp_path: Path) -> None:
    points = days(store, tmp_path / "tree", 3)
    assert hold(store.open(), [points[0][:10]]) == [points[0]]
    forget(store.open(), keep_last(1))
    assert store.objects("points/") == {f"points/{points[0]}", f"points/{points[2]}"}
    assert forget(store.open(), keep_last(1), [points[0]]).agents[0].refused
    prune_daily(store)
    assert held_points(store.open()) == [points[0]]
    assert verify(store.open(), store.open().points(), read_data=True).good
    release(store.open(), [points[0]])
    assert forget(store.open(), keep_last(1)).forgotten == [points[0]]


def test_points_of_a_removed_agent_go_after_the_stated_time_and_not_if_all_backups_stopped(
    store: Clocked, tmp_path: Path
) -> None:
    rules = RetentionRules(last=5, removed_agents=timedelta(days=30))
    store.backup(make(tmp_path / "gone", 1), agent="gone")
    pass_time(store, 24 * 40)
    assert forget(store.open(), lambda agent: rules).forgotten == []
    kept = store.backup(make(tmp_path / "here", 2), agent="here").id
    assert len(forget(store.open(), lambda agent: rules).forgotten) == 1
    assert store.objects("points/") == {f"points/{kept}"}


def test_a_copy_of_a_repository_that_lost_its_times_forgets_no_more_than_it_should(
    store: Clocked, tmp_path: Path
) -> None:
    days(store, tmp_path / "tree", 4)
    for name in store.objects(""):
        os.utime(store.directory / name)  # all of it copied today: the hosts' own times are what is left
    report = forget(store.open(), lambda agent: RetentionRules(daily=4))
    assert report.forgotten == []
