"""Whole backups and restores through S3 stores: with lost caches, interrupted, slow, failing, and with hardly any rights."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.engine.test_backup_engine import make_tree, on_disk
from tests.faults.faulty import Crash, CrashingTarget
from tests.faults.proxy import DROP, Answer, Proxy, Request, proxy_before, refusal
from tests.faults.rights import enforce
from tests.faults.stores import rclone_server, settings_for, write_credentials
from trinity_snap.backup.engine import Committed, backup_tree
from trinity_snap.errors import TargetDenied
from trinity_snap.progress import NullProgress
from trinity_snap.repository.keys import HostSecret, Identity, generate_host_secret
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.verify import verify
from trinity_snap.restore.write import write_and_check
from trinity_snap.targets import Target
from trinity_snap.targets.s3 import S3Target
from trinity_snap.targets.s3_policy import control_policy, host_policy


@dataclass
class Bucket:
    """A repository in a prefix of its own, reached through the proxy."""

    proxy: Proxy
    target: S3Target
    home: Path
    identities: tuple[Identity, Identity]
    host: HostSecret = field(default_factory=generate_host_secret)

    def make(self) -> None:
        Repository.create(self.target, self.host, [identity.recipient for identity in self.identities])

    def open(self, target: Target | None = None) -> Repository:
        return Repository.open(target or self.target, host=self.host, identity=self.identities[0])

    def backup(self, root: Path, target: Target | None = None) -> Committed:
        host_only = Repository.open(target or self.target, host=self.host)
        return backup_tree(host_only, self.home / "cache", root, agent="web")

    def restore(self, point_id: str, name: str) -> Path:
        repository = self.open()
        point = repository.read_point(point_id)
        reader = repository.reader(point)
        (volume,) = point.volumes
        holder = os.open(self.home, os.O_RDONLY | os.O_DIRECTORY)
        try:
            write_and_check(
                reader, holder, name.encode(), "web", lambda: reader.entries(volume), NullProgress(),
                devices=False, total=0, damaged_is_fatal=True,
            )  # fmt: skip
        finally:
            os.close(holder)
        return self.home / name


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Proxy, S3Target]]:
    directory = tmp_path_factory.mktemp("rclone")
    (directory / "bucket").mkdir()
    credentials = write_credentials(directory)
    with rclone_server(directory) as endpoint, proxy_before(endpoint) as proxy:
        yield proxy, S3Target(settings_for(proxy.address, credentials))


@pytest.fixture
def bucket(served: tuple[Proxy, S3Target], tmp_path: Path, identities: tuple[Identity, Identity]) -> Iterator[Bucket]:
    proxy, target = served
    proxy.rule, proxy.latency = lambda request: None, 0.0
    target._root = f"{os.urandom(8).hex()}/"
    made = Bucket(proxy, target, tmp_path, identities)
    made.make()
    proxy.forget()
    yield made
    proxy.rule, proxy.latency = lambda request: None, 0.0


def fill(root: Path, megabytes: int, seed: int = 7) -> None:
    """Files of all sizes that neither compress nor repeat."""
    source = random.Random(seed)
    root.mkdir(exist_ok=True)
    for number in range(200):
        (root / f"small-{seed}-{number}").write_bytes(source.randbytes(source.randrange(20_000)))
    (root / f"large-{seed}").write_bytes(source.randbytes(megabytes << 20))


def test_every_byte_comes_back_and_a_lost_cache_costs_no_second_upload(bucket: Bucket, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    make_tree(root, 100)
    committed = bucket.backup(root)
    assert on_disk(bucket.restore(committed.id, "back")) == on_disk(root)
    shutil.rmtree(tmp_path / "cache")
    bucket.proxy.forget()
    again = bucket.backup(root)
    assert again.bytes_read > 5_000_000
    assert bucket.proxy.count("PUT", "/packs/") == 0
    assert on_disk(bucket.restore(again.id, "again")) == on_disk(root)
    assert verify(bucket.open(), bucket.open().points(), read_data=True).good


def test_an_interrupted_run_goes_on_where_it_was(bucket: Bucket, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    fill(root, 24)

    class DiesAtTheCommit(CrashingTarget):
        def put_if_absent(self, name: str, data: bytes | bytearray | memoryview) -> bool:
            if name.startswith("points/"):
                raise Crash
            return super().put_if_absent(name, data)

    with pytest.raises(Crash):
        bucket.backup(root, DiesAtTheCommit(bucket.target))
    stored = set(bucket.target.list_prefix("packs/"))
    assert len(stored) > 1
    shutil.rmtree(tmp_path / "cache")
    bucket.proxy.forget()
    committed = bucket.backup(root)
    assert bucket.proxy.count("PUT", "/packs/") == 0
    assert set(bucket.target.list_prefix("packs/")) == stored
    assert on_disk(bucket.restore(committed.id, "back")) == on_disk(root)


def test_a_host_makes_backups_with_the_printed_rights_and_can_do_nothing_else(bucket: Bucket, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    make_tree(root, 50)
    bucket.proxy.rule = enforce(host_policy(bucket.target.url))
    first = bucket.backup(root)
    shutil.rmtree(tmp_path / "cache")
    (root / "new").write_bytes(b"new" * 100_000)
    second = bucket.backup(root)
    assert not first.problems and not second.problems
    target, client = bucket.target, bucket.target.client
    pack, point = (next(target.list_prefix(kind)) for kind in ("packs/", "points/"))
    session = next(target.list_prefix("sessions/"))
    key = target._root + point
    refused: list[Callable[[], object]] = [
        *(lambda name=name: target.get(name) for name in (pack, point, session)),
        lambda: target.stat(pack),
        lambda: target.get_range(pack, 0, 10),
        *(lambda name=name: target.delete(name) for name in (pack, point, session, "repository")),
        lambda: target.run("x", lambda _: client.put_object(Bucket="bucket", Key=key, Body=b"replaced")),
        lambda: target.run("x", lambda _: client.put_object(Bucket="bucket", Key="other/x", Body=b"", IfNoneMatch="*")),
        lambda: target.run("x", lambda _: client.list_objects_v2(Bucket="bucket")),
        lambda: target.run("x", lambda _: client.list_objects_v2(Bucket="bucket", Prefix="other/")),
        lambda: target.run("x", lambda _: client.delete_bucket(Bucket="bucket")),
    ]
    for operation in refused:
        with pytest.raises(TargetDenied):
            operation()
    bucket.proxy.rule = enforce(control_policy(bucket.target.url))
    assert on_disk(bucket.restore(second.id, "back")) == on_disk(root)
    assert verify(bucket.open(), bucket.open().points(), read_data=True).good


def test_uploads_go_on_side_by_side_and_restores_read_eight_at_a_time(bucket: Bucket, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    fill(root, 96)
    bucket.proxy.latency = 0.03
    bucket.proxy.rule = faults = OneIn(50)
    committed = bucket.backup(root)
    assert faults.failed >= 1
    packs = len(list(bucket.target.list_prefix("packs/")))
    assert 2 <= bucket.proxy.most_at_once["PUT"] <= bucket.target.parallel_puts
    assert packs <= bucket.proxy.count("PUT", "/packs/") <= packs + faults.failed
    bucket.proxy.forget()
    bucket.proxy.latency = 0.1  # long enough for eight to come together on a busy machine
    back = bucket.restore(committed.id, "back")
    assert on_disk(back) == on_disk(root)
    assert bucket.proxy.most_at_once["GET"] == bucket.target.parallel_gets == 8
    assert bucket.proxy.count("GET") <= 6 * packs + 20  # neighbours come together; there are some 25 segments in a pack


class OneIn:
    """Of so many requests one fails, the tenth first, in turn because the store is too busy and because the connection breaks."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.failed = 0

    def __call__(self, request: Request) -> Answer | str | None:
        if request.number % self.every != 10:
            return None
        self.failed += 1
        return DROP if request.number // self.every % 2 else refusal(503, "SlowDown")


def test_latency_and_failures_cost_less_than_half_of_the_speed(bucket: Bucket, tmp_path: Path) -> None:
    def seconds(
        number: int, latency: float, rule: Callable[[Request], Answer | str | None], megabytes: int = 64
    ) -> float:
        bucket.proxy.latency, bucket.proxy.rule = latency, rule
        root = tmp_path / f"tree-{number}"
        fill(root, megabytes, seed=number)
        start = time.monotonic()
        bucket.proxy.forget()
        committed = bucket.backup(root)
        backing_up = len(bucket.proxy.requests)
        bucket.proxy.forget()  # counts anew, so that the restore has failures of its own
        bucket.restore(committed.id, f"back-{number}")
        took = time.monotonic() - start
        requests = backing_up + len(bucket.proxy.requests)
        if isinstance(rule, OneIn):
            assert rule.failed >= 2, f"{requests} requests, none of which failed, say nothing"
            assert rule.failed >= requests / 100
        assert on_disk(tmp_path / f"back-{number}") == on_disk(root)
        shutil.rmtree(root)
        return took

    seconds(0, 0.0, lambda request: None, megabytes=8)
    ratios = []
    for number in range(1, 7, 2):  # on a busy machine one comparison says little
        quick = seconds(number, 0.0, lambda request: None)
        ratios.append(seconds(number + 1, 0.03, OneIn(100)) / quick)
        if ratios[-1] < 2:
            return
    raise AssertionError(ratios)
