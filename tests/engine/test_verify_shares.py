"""Data is read in rolling shares, oldest-checked first; what was read is remembered, and nobody has to believe it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.conftest import Store
from trinity_snap.errors import TargetDenied
from trinity_snap.repository import packcheck
from trinity_snap.repository.checks import ALL, DataChecked, Share, data_checked, parse_share
from trinity_snap.repository.keys import HostSecret
from trinity_snap.repository.packcheck import check_packs
from trinity_snap.repository.packs import pack_name
from trinity_snap.repository.prune import prune
from trinity_snap.repository.receipts import put_checks, read_receipts
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.verify import VerifyReport, verify
from trinity_snap.targets import LocalTarget

DAY_NS = 86400 * 10**9


class Watched(LocalTarget):
    """Notes which packs are read whole, and may do something first."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.read: list[str] = []
        self.before: Callable[[str], None] = lambda name: None
        self.after: Callable[[str, bytes], bytes] = lambda name, data: data

    def get(self, name: str) -> bytes:
        if name.startswith("packs/"):
            self.before(name)
            self.read.append(name)
        return self.after(name, super().get(name))


class Shares:
    """A repository of some dozens of packs, and a clock that goes on a day with each check."""

    def __init__(self, store: Store, root: Path) -> None:
        self.store = store
        self.target = Watched(store.directory)
        self.repository = Repository.open(self.target, host=store.host, identity=store.operator)
        self.now_ns = time.time_ns() - 1000 * DAY_NS
        root.mkdir()
        for number in range(16):
            (root / f"file-{number}").write_bytes(random.Random(number).randbytes(200_000))
            store.backup(root)
        self.packs = store.objects("packs/")

    def check(self, share: Share | bool, *, condemn: bool = True) -> VerifyReport:
        self.now_ns += DAY_NS
        self.target.read.clear()
        points = self.repository.points()
        return verify(self.repository, points, read_data=share, record=True, condemn=condemn, clock=lambda: self.now_ns)


@pytest.fixture
def shares(store: Store, tmp_path: Path) -> Shares:
    return Shares(store, tmp_path / "tree")


def known(shares: Shares) -> DataChecked:
    found = data_checked(shares.repository, read_receipts(shares.target, shares.store.host), shares.now_ns)
    assert found is not None
    return found


def spoil(store: Store, name: str) -> bytes:
    """Change a bit in the middle of an object; return what it was."""
    path = store.directory / name
    data = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
    return data


@pytest.mark.parametrize("runs", [3, 7])
def test_after_n_runs_of_a_share_of_one_nth_every_pack_was_read_and_then_the_oldest_come_again(
    shares: Shares, runs: int
) -> None:
    assert len(shares.packs) >= 20
    last_read = dict.fromkeys(shares.packs, 0)
    for number in range(1, 2 * runs + 1):
        report = shares.check(Share(percent=100 / runs))
        read = set(shares.target.read)
        assert report.good
        assert report.packs_read == len(shares.target.read) == len(read) < len(shares.packs)
        left = [last_read[name] for name in shares.packs - read]
        assert max(last_read[name] for name in read) <= min(left), "something was read before what is older"
        last_read |= dict.fromkeys(read, number)
        assert number < runs or 0 not in last_read.values(), "N shares of one Nth are not all"
    assert shares.check(Share(amount=1)).packs_read == 1


def test_a_check_that_is_cut_short_keeps_what_it_has_done(shares: Shares) -> None:
    def stop(name: str) -> None:
        if len(shares.target.read) == 9:
            raise KeyboardInterrupt

    shares.target.before = stop
    with pytest.raises(KeyboardInterrupt):
        shares.check(ALL)
    done = set(shares.target.read)
    shares.target.before = lambda name: None
    shares.check(Share(percent=30))
    assert len(done & set(shares.target.read)) < shares.target.parallel_gets, (
        "more than what was under way is read again"
    )
    assert len(done) == 9


def test_packs_are_read_several_at_a_time_and_no_more_than_memory_is_meant_for(
    shares: Shares, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(shares.target.parallel_gets)
    shares.packs = set(sorted(shares.packs)[: len(shares.packs) // 2 * 2])
    sizes = {name: shares.target.stat(name).size for name in shares.packs}
    packs = [(name[-64:], sizes[name]) for name in sorted(shares.packs)]

    def wait(name: str) -> None:
        together.wait(20)  # one alone would wait in vain

    shares.target.before = wait
    assert [verdict.digest for verdict in check_packs(shares.repository, packs)] == [digest for digest, _ in packs]

    reading: set[str] = set()
    most = [0]

    def begins(name: str) -> None:
        reading.add(name)
        most[0] = max(most[0], len(reading))

    def ends(name: str, data: bytes) -> bytes:
        reading.discard(name)
        return data

    shares.target.before, shares.target.after = begins, ends
    monkeypatch.setattr(packcheck, "_AHEAD_BYTES", 1)
    assert len(list(check_packs(shares.repository, packs))) == len(packs)
    assert most == [1]


def test_receipts_of_checks_do_not_grow_and_prune_keeps_what_they_say(shares: Shares) -> None:
    for _ in range(6):
        shares.check(Share(percent=10))
    before = read_receipts(shares.target, shares.store.host)
    assert len(before.check_receipts) == 6
    prune(shares.repository)
    after = read_receipts(shares.target, shares.store.host)
    assert len(after.check_receipts) == 1
    assert after.checked == before.checked
    left = shares.packs - {pack_name(digest.hex()) for digest in after.checked}
    shares.check(Share(percent=10))
    assert set(shares.target.read) <= left or left <= set(shares.target.read)


def test_a_forged_receipt_delays_a_check_and_does_no_more(shares: Shares) -> None:
    """By whoever has the host secret; anybody else's says nothing, nor does one from the future."""
    packs = {bytes.fromhex(name[-64:]) for name in shares.packs}
    damaged = sorted(shares.packs)[0]
    spoil(shares.store, damaged)
    stranger = HostSecret(bytes(32), shares.store.host.repository_id)
    put_checks(shares.target, stranger, dict.fromkeys(packs, shares.now_ns), {})
    put_checks(shares.target, shares.store.host, dict.fromkeys(packs, time.time_ns() + 10**6 * DAY_NS), {})
    assert known(shares).never == len(packs)
    put_checks(shares.target, shares.store.host, {bytes.fromhex(damaged[-64:]): shares.now_ns}, {})
    fresh = read_receipts(shares.target, shares.store.host)
    assert fresh.checked.keys() == packs
    report = shares.check(True)
    assert set(shares.target.read) == shares.packs
    assert damaged in report.damaged_objects


def test_what_was_flipped_on_the_way_is_read_again_and_not_held_against_the_pack(shares: Shares) -> None:
    flipped: set[str] = set()

    def flip(name: str, data: bytes) -> bytes:
        if not name.startswith("packs/") or name in flipped:
            return data
        flipped.add(name)
        return data[:-1] + bytes([data[-1] ^ 1])

    shares.target.after = flip
    assert shares.check(True).good
    assert flipped == shares.packs
    assert not shares.store.objects("fences/")


def test_damage_is_remembered_until_the_pack_is_found_whole(shares: Shares) -> None:
    damaged = sorted(shares.packs)[3]
    original = spoil(shares.store, damaged)
    assert damaged in shares.check(True).damaged_objects
    for share in (Share(amount=1), False):
        assert damaged in shares.check(share).damaged_objects
        assert damaged in shares.target.read
    assert len(shares.store.objects("fences/")) == 1, "a fence for each check"
    noted = known(shares)
    assert (noted.damaged, noted.complete_ns) == (1, None)
    (shares.store.directory / damaged).write_bytes(original)
    assert shares.check(False).good
    assert shares.check(False).packs_read == 0


def test_a_storage_that_takes_no_notes_is_checked_all_the_same(shares: Shares, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object) -> bool:
        raise TargetDenied("No.")

    monkeypatch.setattr(shares.target, "put_if_absent", deny)
    report = shares.check(True)
    assert report.good
    assert report.packs_read == len(shares.packs)
    assert "takes no notes" in report.notes[0]


def test_when_all_was_read_last_is_known(shares: Shares) -> None:
    shares.check(Share(percent=50))
    first = shares.now_ns
    assert known(shares).complete_ns is None
    shares.check(Share(percent=60))
    assert known(shares).complete_ns == first
    shares.check(True)
    assert known(shares).complete_ns == shares.now_ns


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("all", ALL),
        ("5%", Share(percent=5)),
        ("0.5%", Share(percent=0.5)),
        ("10GiB", Share(amount=10 << 30)),
        ("1.5 MB", Share(amount=1_500_000)),
        ("1234", None),  # the beginning of a point's id
        ("0%", None),
        ("101%", None),
        ("abcd", None),
    ],
)
def test_a_share_is_a_percentage_or_a_size(text: str, share: Share | None) -> None:
    assert parse_share(text) == share
