"""The main job with real parts: back up running agents, lose everything, have it back; whatever dies on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab.daemon import Daemon, environment
from tests.lab.disks import filesystem
from tests.lab.images import PYTHON
from tests.lab.product import CHECKOUT, Product, install, leftovers, volume
from trinity_snap.backup.run import run_backup
from trinity_snap.quiesce.steps import SHIPPING_STEPS
from trinity_snap.repository.points import RecoveryPoint
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.verify import verify

pytestmark = pytest.mark.host

# Commits to two databases as fast as it can, and says so in another volume after each commit: what that file says must be in
# the databases of the same recovery point.
WRITER = """
import os, sqlite3
home = "/home/developer"
databases = []
for mode in ("wal", "delete"):
    database = sqlite3.connect(f"{home}/{mode}.db", isolation_level=None)
    database.execute(f"pragma journal_mode={mode}")
    database.execute("pragma synchronous=off")
    database.execute("create table if not exists log (n integer primary key, text)")
    databases.append(database)
said = os.open(f"{home}/public/said", os.O_RDWR | os.O_CREAT, 0o644)
n = max(database.execute("select coalesce(max(n), 0) from log").fetchone()[0] for database in databases)
while True:
    n += 1
    for database in databases:
        database.execute("insert or replace into log values (?, ?)", (n, "x" * (n % 300)))
        if n % 50 == 0:
            database.execute("delete from log where n < ? and n % 7", (n - 2000,))
    os.pwrite(said, b"%020d" % n, 0)
"""


def start_writer(daemon: Daemon, name: str) -> Any:
    return daemon.run(
        f"agent-{name}",
        ["python3", "-c", WRITER],
        image=PYTHON,
        volumes=[f"agent-{name}-workspace:/home/developer", f"agent-{name}-public:/home/developer/public"],
        labels={"trinity.platform": "agent", "trinity.agent-name": name},
    )


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.02)


def said(daemon: Daemon, name: str) -> int:
    path = volume(daemon, f"agent-{name}-public") / "said"
    return int(path.read_bytes() or b"0") if path.exists() else 0


def extract(repository: Repository, point: RecoveryPoint, destination: Path) -> None:
    """Write every file of a point below `destination`, one directory per volume, without the product's restore."""
    reader = repository.reader(point)
    for stored in point.volumes:
        for entry in reader.entries(stored):
            if entry.type == "f":
                path = destination / stored.name / entry.path.decode()
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    file.truncate(entry.size)
                    extents = entry.extents or [(0, entry.size)]
                    data = b"".join(bytes(chunk) for _, chunk in reader.chunks(entry.chunk_ids()))
                    at = 0
                    for offset, length in extents:
                        file.seek(offset)
                        file.write(data[at : at + length])
                        at += length


def check_databases(place: Path, name: str) -> int:
    """Return the last transaction that was told of; fail if a database is torn or lacks a transaction."""
    told = int((place / f"agent-{name}-public" / "said").read_bytes() or b"0")
    for mode in ("wal", "delete"):
        database = sqlite3.connect(place / f"agent-{name}-workspace" / f"{mode}.db")
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        assert database.execute("select max(n) from log").fetchone()[0] >= told
        last = [row[0] for row in database.execute("select n from log order by n desc limit 1000")]
        assert last == list(range(last[0], last[0] - len(last), -1))
        database.close()
    return told


def test_an_agent_whose_volume_vanishes_before_it_is_looked_at_fails_alone(
    btrfs_daemon: Daemon, tmp_path: Path
) -> None:
    product = install(tmp_path, btrfs_daemon)
    for name in ("one", "two"):
        btrfs_daemon.run(f"agent-{name}", volumes=[f"agent-{name}-workspace:/home/developer"])
    process = product.start("backup", "--json", TRINITY_SNAP_HANG_AT="discovered")
    os.waitpid(process.pid, os.WUNTRACED)
    shutil.rmtree(volume(btrfs_daemon, "agent-one-workspace"))
    os.kill(process.pid, signal.SIGCONT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 10, output + errors
    found = {agent["agent"]: agent for agent in json.loads(output)["agents"]}
    assert {name: agent["outcome"] for name, agent in found.items()} == {"one": "failed", "two": "done"}
    assert "nothing is there" in found["one"]["error"]


@pytest.mark.slow
def test_fifty_backups_of_busy_databases_are_all_whole(daemon: Daemon, tmp_path: Path) -> None:
    product = install(tmp_path, daemon)
    names = ("one", "two")
    for name in names:
        start_writer(daemon, name)
    for name in names:
        wait_until(lambda name=name: said(daemon, name) > 100)  # type: ignore[misc]
    policy = product.policy
    pauses = []
    before = dict.fromkeys(names, 0)
    for _ in range(50):
        told_before = {name: said(daemon, name) for name in names}
        result = run_backup(policy)
        assert result.outcome == "done", result
        repository = product.repository()
        for agent in result.agents:
            assert agent.consistency == "host-crash-consistent"
            assert agent.point is not None
            pauses.append(agent.pause_seconds)
            place = tmp_path / "check"
            extract(repository, repository.read_point(agent.point), place)
            told = check_databases(place, agent.agent)
            assert told >= told_before[agent.agent] >= before[agent.agent]
            shutil.rmtree(place)
        before = told_before
        for name in names:
            wait_until(lambda name=name, told=told_before[name]: said(daemon, name) > told)  # type: ignore[misc]
    assert verify(product.repository(), product.repository().points()).good
    assert not leftovers(product)
    assert sorted(pauses)[len(pauses) // 2] < 1.0
    assert daemon.paused() == []


def test_a_run_killed_at_any_step_leaves_nothing_that_the_next_does_not_mend(daemon: Daemon, tmp_path: Path) -> None:
    product = install(tmp_path, daemon)
    start_writer(daemon, "one")
    daemon.run("agent-still", volumes=["agent-still-workspace:/home/developer"]).pause()
    wait_until(lambda: said(daemon, "one") > 100)
    product.run("backup")
    for step in ("all-paused", *SHIPPING_STEPS, "before-release"):
        process = product.start("backup", TRINITY_SNAP_CRASH_AT=step)
        process.communicate(timeout=120)
        assert process.returncode == -9, step
        wait_until(lambda: daemon.paused() == ["agent-still"], 10)
        reported = {point["id"] for point in product.run("list")["points"]}
        product.run("recover")
        assert leftovers(product) == [], step
        told = said(daemon, "one")
        wait_until(lambda told=told: said(daemon, "one") > told)  # type: ignore[misc]
        answer = product.run("backup")
        assert answer["outcome"] == "done"
        assert reported < {point["id"] for point in product.run("list")["points"]}
    assert product.run("verify", "--read-data")
    repository = product.repository()
    for point in repository.points("one"):
        extract(repository, point, tmp_path / "check")
        check_databases(tmp_path / "check", "one")
        shutil.rmtree(tmp_path / "check")


def test_a_snapshot_that_cannot_be_removed_is_no_success(daemon: Daemon, tmp_path: Path) -> None:
    product = install(tmp_path, daemon)
    daemon.run("agent-one", volumes=["agent-one-workspace:/home/developer"])
    (volume(daemon, "agent-one-workspace") / "note").write_text("kept")
    process = product.start("backup", "--json", TRINITY_SNAP_HANG_AT="shipping")
    wait_until(lambda: bool(leftovers(product)))
    wait_until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T")
    (left,) = leftovers(product)
    on_btrfs = "staging" not in left
    # An immutable directory keeps btrfs from deleting, a mount keeps anybody from removing what it lies on.
    hold, let_go = (
        (["chattr", "+i", str(Path(left).parent)], ["chattr", "-i", str(Path(left).parent)])
        if on_btrfs
        else (["mount", "--bind", left, left], ["umount", left])
    )
    subprocess.run(hold, check=True)
    try:
        process.send_signal(signal.SIGCONT)
        output, _ = process.communicate(timeout=120)
        answer = json.loads(output)
        assert process.returncode == 12
        assert answer["outcome"] == "downgraded"
        assert answer["agents"][0]["outcome"] == "done"
        assert Path(left).name in answer["left_behind"][0]
        assert leftovers(product) == [left]
        warnings = product.run("status", code=None)["warnings"]
        assert any("left something behind" in warning for warning in warnings)
    finally:
        subprocess.run(let_go, check=True)
    assert product.run("recover")["removed"] == [left]
    assert leftovers(product) == []
    assert product.run("backup")["left_behind"] == []


def test_a_state_directory_that_is_broken_is_named_and_remembered(ext4_daemon: Daemon, tmp_path: Path) -> None:
    product = install(tmp_path, ext4_daemon)
    ext4_daemon.run("agent-one", volumes=["agent-one-workspace:/home/developer"])
    product.run("backup")
    cache = product.home / "state" / "cache"
    shutil.rmtree(cache)
    cache.write_text("no directory")
    answer = product.run("backup", code=1)
    assert answer["outcome"] == "failed"
    assert str(cache) in answer["error"]["message"]
    assert "agent runs" not in answer["error"]["untouched"]
    assert answer["agents"][0]["outcome"] == "failed"
    assert ext4_daemon.paused() == []
    status = product.run("status", code=None)
    assert any(str(cache) in warning for warning in status["warnings"])
    cache.unlink()
    assert product.run("backup")["outcome"] == "done"


def adopt_from_words(product: Product, words: Path, repository_id: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trinity_snap", "init", "--from-words", "--repository-id", repository_id, "--json"],
        input=words.read_text(),
        env=environment(product.daemon, TRINITY_SNAP_POLICY=str(product.policy_file)),
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_everything_lost_and_brought_back_on_a_fresh_host_from_the_words(
    btrfs_daemon: Daemon, ext4_session: Daemon, tmp_path: Path
) -> None:
    words_file = tmp_path / "words"
    product = Product(tmp_path / "old", btrfs_daemon, tmp_path / "disk")
    product.write_policy()
    product_id = product.run("init", "--recovery-words-file", str(words_file))["repository"]
    start_writer(btrfs_daemon, "one")
    wait_until(lambda: said(btrfs_daemon, "one") > 100)
    product.run("backup")
    shutil.rmtree(product.home)  # keys, policy and state are gone with the host
    btrfs_daemon.clean()

    ext4_session.image(PYTHON)
    fresh = Product(tmp_path / "new", ext4_session, tmp_path / "disk")
    fresh.write_policy()
    process = fresh.start("init", "--adopt", "--identity", "/nonexistent", "--json")
    process.communicate(timeout=60)
    assert process.returncode != 0
    refused = adopt_from_words(fresh, words_file, "f" * 32)
    assert refused.returncode != 0
    assert not fresh.policy_file.with_name("host.key").exists()
    adopted = adopt_from_words(fresh, words_file, product_id)
    assert adopted.returncode == 0, adopted.stdout + adopted.stderr
    try:
        fresh.run("restore", "one", "--containers", "--yes")
        container = ext4_session.client.containers.get("agent-one")
        place = tmp_path / "check"
        for name in ("workspace", "public"):
            shutil.copytree(volume(ext4_session, f"agent-one-{name}"), place / f"agent-one-{name}")
        told = check_databases(place, "one")
        if container.status != "running":
            container.start()
        wait_until(lambda: said(ext4_session, "one") > told)
        assert fresh.run("backup")["outcome"] == "done"
        assert len(fresh.run("list")["points"]) == 2
    finally:
        ext4_session.clean()


def test_a_full_target_costs_the_run_and_nothing_else(ext4_daemon: Daemon, tmp_path: Path) -> None:
    with filesystem("ext4", tmp_path / "disk", 16 << 20) as disk:
        product = install(tmp_path / "home", ext4_daemon, disk / "target")
        ext4_daemon.run("agent-one", volumes=["agent-one-workspace:/home/developer"])
        data = volume(ext4_daemon, "agent-one-workspace")
        (data / "small").write_bytes(b"kept")
        product.run("backup")
        for number in range(12):
            (data / f"big-{number}").write_bytes(os.urandom(4 << 20))
            answer = product.run("backup", code=None)
            if answer["outcome"] != "done":
                break
        assert answer["outcome"] == "failed"
        assert "space" in str(answer).lower() or "full" in str(answer).lower()
        assert ext4_daemon.paused() == []
        assert leftovers(product) == []
        assert verify(product.repository(), product.repository().points(), read_data=True).good
        for path in data.glob("big-*"):
            path.unlink()
        answer = product.run("backup", code=None)
        # What the dead end had stored of packs stays until prune exists; a small point still fits.
        assert answer["outcome"] == "done", answer


def test_a_second_run_is_told_who_holds_the_host(ext4_daemon: Daemon, tmp_path: Path) -> None:
    product = install(tmp_path, ext4_daemon)
    ext4_daemon.run("agent-one", volumes=["agent-one-workspace:/home/developer"])
    first = product.start("backup", TRINITY_SNAP_HANG_AT="shipping")
    try:
        wait_until(lambda: Path(f"/proc/{first.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T", 30)
        assert ext4_daemon.paused() == []
        answer = product.run("backup", code=3)
        assert str(first.pid) in answer["message"]
    finally:
        first.kill()
        first.communicate()
    assert product.run("backup")["outcome"] == "done"
