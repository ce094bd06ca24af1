"""Repacking moves what is alive out of mostly dead packs, and no point, and nobody who reads, loses anything by it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.engine.memory import AFTER_WAIT_NS, DAY_NS, Kept
from tests.engine.test_backup_engine import contents, on_disk
from tests.engine.test_prune import keep_last
from trinity_snap.errors import IntegrityError
from trinity_snap.repository.fences import put_fence
from trinity_snap.repository.forget import forget
from trinity_snap.repository.holds import held_points, hold
from trinity_snap.repository.keys import generate_session_key
from trinity_snap.repository.lease import LEASE
from trinity_snap.repository.packs import pack_name
from trinity_snap.repository.points import RecoveryPoint, Repacked, seal_point
from trinity_snap.repository.prune import prune
from trinity_snap.repository.recipients import seal_session
from trinity_snap.repository.repack import RepackReport, repack
from trinity_snap.repository.repack_plan import SMALL_BYTES, ChunkFilter, PackUse, RepackWish, Uses, choose
from trinity_snap.repository.sealed import POINT_MAGIC, new_header
from trinity_snap.repository.survey import survey
from trinity_snap.repository.verify import verify
from trinity_snap.repository.vouching import voucher

ALL = RepackWish(unused=0.0)


def tree_of(root: Path, seed: int, *names: str) -> Path:
    """A tree with these files new, and all others as they are."""
    root.mkdir(exist_ok=True)
    chance = random.Random(seed)
    for name in names:
        (root / name).write_bytes(chance.randbytes(20_000))
    return root


def mostly_dead(tmp_path: Path, days: int = 3) -> tuple[Kept, Path, dict[str, object]]:
    """A repository whose oldest packs are needed for one file of ten, and what its points give back."""
    kept, root = Kept(tmp_path / "host"), tmp_path / "tree"
    expected: dict[str, object] = {}
    for day in range(days):
        names = [f"file-{number}" for number in range(10) if not day or number % 10]
        point = kept.backup(tree_of(root, day, *names)).id
        expected[point] = on_disk(root)
        kept.pass_time(DAY_NS)
    kept.pass_time(AFTER_WAIT_NS)
    oldest = next(iter(expected))
    forget(kept.open(), keep_last(days - 1))
    assert f"points/{oldest}" not in kept.storage.objects
    del expected[oldest]
    return kept, root, expected


def settle(kept: Kept, times: int = 2) -> None:
    for _ in range(times):
        prune(kept.open())
        kept.pass_time(AFTER_WAIT_NS)
    prune(kept.open())


def points_by_content(kept: Kept, expected: dict[str, object]) -> dict[str, RecoveryPoint]:
    """The points of now by the ids of then; each gives back what it did, from its own packs, and nothing else is there."""
    repository = kept.open()
    points = {point.repacked.original if point.repacked else point.id: point for point in repository.points()}
    assert points.keys() == expected.keys() and len(repository.points()) == len(expected)
    for original, point in points.items():
        assert contents(repository, point.id) == expected[original]
        reader = repository.reader(point, tables_from_packs=True)
        assert not reader.damaged_packs
    assert verify(repository, repository.points(), read_data=True).good
    return points


def test_what_is_alive_in_mostly_dead_packs_moves_and_the_packs_go(tmp_path: Path) -> None:
    kept, _, expected = mostly_dead(tmp_path)
    prune(kept.open())
    before = {point.id: point for point in kept.open().points()}
    old_packs = {one.name for point in before.values() for one in point.pack_references()}
    report = repack(kept.open(), wish=ALL)
    assert report.packs and report.written_bytes < report.freed_bytes
    assert report.superseded == sorted(report.moved_points) == sorted(before)
    points = points_by_content(kept, expected)
    for original, point in points.items():
        same = {"id": "", "session_id": b"", "packs": b"", "repacked": None}
        assert replace(point, **same) == replace(before[original], **same)
    size = kept.bytes_of("packs/")
    settle(kept)
    assert size - kept.bytes_of("packs/") > 0.9 * report.freed_bytes
    packs = {name[-64:] for name in kept.names("packs/")}
    assert packs == {one.name for point in points.values() for one in point.pack_references()}
    assert len(old_packs - packs) >= report.packs
    points_by_content(kept, expected)
    again = repack(kept.open(), wish=ALL)
    assert not again.packs and not again.moved_points, "what was repacked is repacked again"


def test_a_dry_run_says_what_it_would_free_and_changes_nothing(tmp_path: Path) -> None:
    kept, _, _ = mostly_dead(tmp_path)
    before = dict(kept.storage.objects)
    planned = repack(kept.open(), wish=ALL, dry_run=True)
    assert kept.storage.objects == before
    done = repack(kept.open(), wish=ALL)
    assert (planned.packs, planned.written_bytes, planned.freed_bytes, planned.dead_bytes) == (
        done.packs, done.written_bytes, done.freed_bytes, done.dead_bytes,
    )  # fmt: skip
    assert done.bytes_stored >= done.written_bytes


def test_a_repacked_point_keeps_its_time_its_hold_and_its_name(tmp_path: Path) -> None:
    kept, _, expected = mostly_dead(tmp_path)
    original = min(expected)
    hold(kept.open(), [original])
    before = {point.id: point.time_ns for point in survey(kept.open()).points}
    moved = repack(kept.open(), wish=ALL).moved_points
    assert held_points(kept.open()) == [moved[original]]
    found = survey(kept.open())
    assert {point.lineage: point.time_ns for point in found.points} == before
    assert {point.id: point.receipted_ns for point in found.points} == {moved[one]: before[one] for one in before}
    assert kept.open().resolve(original[:8]).id == moved[original]
    # Repacked once more, it is still the same point.
    kept.pass_time(AFTER_WAIT_NS)
    assert kept.open().resolve(original).repacked is not None


def test_the_rules_take_a_repacked_point_for_the_one_that_it_was(tmp_path: Path) -> None:
    kept, root, expected = mostly_dead(tmp_path, days=5)
    repack(kept.open(), wish=ALL)
    expected[kept.backup(tree_of(root, 99, "file-3")).id] = on_disk(root)
    newest = sorted(kept.open().points(), key=lambda one: one.created_ns)[-2:]
    forget(kept.open(), keep_last(2), accept=("tree",))
    assert {point.id for point in kept.open().points()} == {point.id for point in newest}


def test_a_point_that_counts_by_no_proof_of_this_identity_is_judged_by_the_storages_time(tmp_path: Path) -> None:
    """A host cannot make a point older than it is, or have another one go for it."""
    kept, _, expected = mostly_dead(tmp_path)
    original = min(expected)
    repository = kept.open()
    point = repository.read_point(original)
    stranger = Kept(tmp_path / "other").operator
    said = Repacked(original=original, stored_ns=1, times=7, by=kept.operator.recipient.id, mac=b"")
    with repository.begin_session(tmp_path / "forged") as session:
        forged = session.commit(replace(point, repacked=said), signed=voucher(stranger, repository.id))
    found = {one.id: one for one in survey(kept.open()).points}
    assert found[forged].lineage == forged and found[forged].time_ns > found[original].time_ns
    repack(kept.open(), wish=RepackWish(budget_bytes=0))
    assert f"points/{original}" in kept.storage.objects


def test_a_genuine_word_for_a_point_says_nothing_for_another(tmp_path: Path) -> None:
    kept, _, _ = mostly_dead(tmp_path)
    repack(kept.open(), wish=ALL)
    repository = kept.open()
    point = repository.points()[0]
    with repository.begin_session(tmp_path / "forged") as session:
        forged = session.commit(point)  # the same, with the same word
    found = {one.id: one for one in survey(kept.open()).points}
    assert found[point.id].repacked == 1
    assert not found[forged].repacked


def test_a_host_that_takes_the_first_id_of_a_repacked_point_does_not_have_that_one_forgotten(tmp_path: Path) -> None:
    kept, root, expected = mostly_dead(tmp_path, days=4)
    repack(kept.open(), wish=ALL)
    oldest = min(kept.open().points(), key=lambda one: one.created_ns)
    assert oldest.repacked is not None
    key, session = generate_session_key(), bytes(range(16))
    sealed = seal_session(key, kept.host.repository_id, session, [kept.operator.recipient], kept.host.mac_key)
    kept.storage.put_if_absent(f"sessions/{session.hex()}", sealed)
    forged = replace(oldest, id=oldest.repacked.original, session_id=session, created_ns=0, repacked=None)
    header = new_header(POINT_MAGIC, kept.host.repository_id, session)
    kept.storage.put_if_absent(f"points/{forged.id}", seal_point(forged, header, key, kept.host.mac_key))
    for day in range(3):  # it would be the newest of all for a moment
        kept.pass_time(DAY_NS)
        kept.backup(tree_of(root, 50 + day, "file-1"))
    assert len(expected) == 3
    forget(kept.open(), keep_last(6), accept=("tree",))
    assert f"points/{oldest.id}" in kept.storage.objects
    repack(kept.open(), wish=ALL)
    assert contents(kept.open(), kept.open().resolve(oldest.id).id) == expected[oldest.repacked.original]


def test_a_point_that_relies_on_something_fenced_is_not_moved(tmp_path: Path) -> None:
    kept, _, expected = mostly_dead(tmp_path)
    moving = repack(kept.open(), wish=ALL, dry_run=True)
    assert moving.packs
    newest = max(kept.open().points(), key=lambda one: one.created_ns)
    before = {one.name for point in kept.open().points() for one in point.pack_references() if point.id != newest.id}
    own = {bytes.fromhex(one.name) for one in newest.pack_references() if one.name not in before}
    put_fence(kept.storage, kept.host, own)
    report = repack(kept.open(), wish=ALL)
    assert report.moved_points.keys() == expected.keys() - {newest.id}
    settle(kept, 3)
    points_by_content(kept, expected)


def test_a_run_that_comes_to_need_what_looked_dead_keeps_the_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old content comes back while its pack is repacked; the run's point names the old pack."""
    from trinity_snap.repository import repack as module

    kept, root, expected = mostly_dead(tmp_path)
    copy = module._Repack._copy
    late: list[str] = []

    def meanwhile(self: module._Repack, *arguments: object) -> object:
        held = copy(self, *arguments)  # type: ignore[arg-type]  # passed on as they are
        late.append(kept.backup(tree_of(root, 0, *(f"file-{number}" for number in range(10)))).id)
        return held

    monkeypatch.setattr(module._Repack, "_copy", meanwhile)
    repack(kept.open(), wish=ALL)
    assert f"points/{late[0]}" in kept.storage.objects
    expected[late[0]] = on_disk(root)
    settle(kept)
    points_by_content(kept, expected)


def test_what_is_stored_damaged_moves_no_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, _, expected = mostly_dead(tmp_path)
    put = kept.storage.put_if_absent

    def flip(name: str, data: bytes | bytearray | memoryview) -> bool:
        broken = bytearray(data)
        if name.startswith("packs/"):
            broken[200] ^= 1
        return put(name, broken)

    monkeypatch.setattr(kept.storage, "put_if_absent", flip)
    with pytest.raises(IntegrityError, match="just stored"):
        repack(kept.open(), wish=ALL)
    monkeypatch.undo()
    assert {name[7:] for name in kept.names("points/")} == expected.keys()
    settle(kept)
    points_by_content(kept, expected)


def test_a_damaged_pack_is_left_as_it_is(tmp_path: Path) -> None:
    kept, _, _ = mostly_dead(tmp_path)
    planned = repack(kept.open(), wish=ALL, dry_run=True)
    assert planned.packs
    shared = set.intersection(*({one.name for one in point.pack_references()} for point in kept.open().points()))
    for digest in shared:
        data, when = kept.storage.objects[pack_name(digest)]
        kept.storage.objects[pack_name(digest)] = (data[:-40] + bytes([data[-40] ^ 1]) + data[-39:], when)
    report = repack(kept.open(), wish=ALL)
    assert report.notes
    for digest in shared:
        assert any(one.name == digest for point in kept.open().points() for one in point.pack_references())


def test_a_void_point_is_not_made_to_count(tmp_path: Path) -> None:
    kept, root, _ = mostly_dead(tmp_path)
    late = kept.backup(tree_of(root, 7, "file-5")).id
    name = f"points/{late}"
    data, when = kept.storage.objects[name]
    kept.storage.objects[name] = (data, when + 2 * LEASE.wait_ns)
    kept.pass_time(4 * LEASE.wait_ns)
    needed = {one.name for one in kept.open().read_point(late).pack_references()}
    report = repack(kept.open(), wish=ALL)
    assert late not in report.moved_points and name in kept.storage.objects
    settle(kept)
    assert needed <= {name[-64:] for name in kept.names("packs/")}


def test_a_budget_and_a_tolerance_bound_what_is_chosen() -> None:
    uses = Uses()
    uses.take(PackUse(bytes([number]) * 32, 10 * number, 100 - 10 * number, 5) for number in range(11))
    assert choose(uses, (), RepackWish(10**9, 1.0)).packs == []
    everything = choose(uses, (), RepackWish(10**9, 0.0))
    assert [use.live_bytes for use in everything.packs] == [10 * number for number in range(10)]
    assert choose(uses, (), RepackWish(60, 0.0)).written_bytes == 60
    assert bytes(32) not in {use.digest for use in choose(uses, (bytes(32),), RepackWish(60, 0.0)).packs}
    some = choose(uses, (), RepackWish(10**9, 0.2))
    assert (550 - some.freed_bytes) <= 0.2 * (1100 - some.freed_bytes)


def test_no_more_is_repacked_at_once_than_its_share_be_it_one_pack() -> None:
    uses = Uses()
    uses.take(PackUse(bytes([number]) * 32, 10, 90, 5) for number in range(10))
    for share, packs in ((1.0, 10), (0.3, 3), (0.29, 2), (0.01, 1)):
        assert len(choose(uses, (), RepackWish(unused=0.0, share=share)).packs) == packs


def test_small_packs_are_merged_when_they_are_many() -> None:
    uses = Uses()
    uses.take(
        PackUse(number.to_bytes(32, "big"), SMALL_BYTES + number - 20, 0, 5) for number in range(40)
    )  # half of them are small
    assert [use.bytes - SMALL_BYTES for use in uses.smallest] == list(range(-20, 0))
    assert choose(uses, (), RepackWish(small_packs=20)).packs == []
    assert choose(uses, (), RepackWish(small_packs=0)).packs == []
    assert choose(uses, (), RepackWish(small_packs=19)).packs == uses.smallest
    barred = {use.digest for use in uses.smallest[:5]}
    assert choose(uses, barred, RepackWish(small_packs=19)).packs == uses.smallest[5:]
    some = choose(uses, (), RepackWish(10 * SMALL_BYTES, small_packs=19))
    assert some.packs == uses.smallest[:10]
    assert choose(uses, (), RepackWish(5 * SMALL_BYTES, small_packs=19)).packs == [], "so few are not worth it"


def test_many_small_packs_become_few_and_no_point_loses_anything(tmp_path: Path) -> None:
    kept, root = Kept(tmp_path / "host"), tmp_path / "tree"
    expected: dict[str, object] = {}
    for day in range(12):
        point = kept.backup(tree_of(root, day, f"file-{day}")).id
        expected[point] = on_disk(root)
        kept.pass_time(DAY_NS)
    kept.pass_time(AFTER_WAIT_NS)
    before = len(kept.names("packs/"))
    wish = RepackWish(unused=1.0, small_packs=10)
    report = repack(kept.open(), wish=wish)
    assert report.packs == before > 10
    settle(kept)
    assert len(kept.names("packs/")) <= 4
    points_by_content(kept, expected)
    assert not repack(kept.open(), wish=wish).packs


def test_a_filter_forgets_nothing_and_mistakes_little() -> None:
    chance = random.Random(3)
    added, others = ([chance.randbytes(32) for _ in range(20_000)] for _ in range(2))
    found = ChunkFilter(len(added))
    for one in added:
        found.add(one)
    assert all(one in found for one in added)
    assert sum(one in found for one in others) < 400


def test_the_report_counts_what_is_alive(tmp_path: Path) -> None:
    kept, _, _ = mostly_dead(tmp_path)
    report: RepackReport = repack(kept.open(), dry_run=True, wish=ALL)
    assert report.live_bytes + report.dead_bytes < kept.bytes_of("packs/")
    assert report.dead_bytes >= report.freed_bytes > 0
