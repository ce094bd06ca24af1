"""Instant rollback with real parts: local snapshots that runs keep, an agent brought back from one, and undoing that."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.engine.fidelity import assert_same, facts, make_everything
from tests.lab.daemon import Daemon
from tests.lab.product import Product, install, volume
from trinity_snap.agents import discover
from trinity_snap.errors import TrinitySnapError
from trinity_snap.quiesce.steps import KEEPING_STEPS
from trinity_snap.rollback import execute, plan_rollback
from trinity_snap.rollback.copy import TreeCopier
from trinity_snap.rollback.run import STEPS
from trinity_snap.snapshot.local import local_snapshots, remove_local

pytestmark = pytest.mark.host

WORKSPACE, SHARED, OTHER = "agent-web-workspace", "agent-web-shared", "agent-db-workspace"


@dataclass
class Host:
    """An agent with two volumes, another agent, and trinity-snap."""

    product: Product
    daemon: Daemon

    def path(self, name: str = WORKSPACE) -> Path:
        return volume(self.daemon, name)

    def look(self) -> list[Any]:
        return [facts(self.path(name)) for name in (WORKSPACE, SHARED)]

    def status(self, name: str = "agent-web") -> str:
        return str(self.daemon.client.containers.get(name).status)

    def read(self, path: str, name: str = "agent-web") -> str:
        output = self.daemon.client.containers.get(name).exec_run(["cat", path]).output
        assert isinstance(output, bytes)
        return output.decode()

    def started(self, name: str) -> str:
        return str(self.daemon.client.containers.get(name).attrs["State"]["StartedAt"])

    def ours(self) -> list[Path]:
        return sorted((self.daemon.data_root / "volumes").rglob(".trinity-snap-*"))

    @property
    def state(self) -> Path:
        return self.product.home / "state"

    @property
    def store(self) -> Path:
        return self.daemon.data_root.parent / ".trinity-snap"

    def snapshots(self) -> list[str]:
        return sorted(os.listdir(self.store)) if self.store.exists() else []

    def recover(self) -> dict[str, Any]:
        """Recover, and see that it left nothing; other filesystems of this machine may have snapshots of other tests."""
        answer = self.product.run("recover")
        assert answer["problems"] == []
        assert [path for path in answer["strays"] if Path(path).parent == self.store] == []
        return answer

    def local(self, *arguments: str) -> list[dict[str, Any]]:
        found = self.product.run("rollback", "--list", *arguments)["local_snapshots"]
        assert isinstance(found, list)
        return found

    def rollback(self, *arguments: str, code: int | None = 0, **more: str) -> dict[str, Any]:
        return self.product.run("rollback", "web", "--yes", *arguments, code=code, **more)


def btrfs(*arguments: object) -> None:
    subprocess.run(["btrfs", *map(str, arguments)], check=True, capture_output=True)


def assert_all_same(expected: list[Any], actual: list[Any]) -> None:
    for one, other in zip(expected, actual, strict=True):
        assert_same(one, other)


def make_without_copy_on_write(directory: Path) -> None:
    """A directory and a database in it as operators make them on btrfs, and a file that is not so."""
    directory.mkdir()
    (directory / "with").write_bytes(b"x" * 100_000)
    subprocess.run(["chattr", "+C", str(directory)], check=True)
    (directory / "db").write_bytes(b"y" * 100_000)


def is_without_copy_on_write(path: Path) -> bool:
    shown = subprocess.run(["lsattr", "-d", str(path)], check=True, capture_output=True, text=True).stdout
    return "C" in shown.split()[0]


@pytest.fixture
def host(btrfs_daemon: Daemon, tmp_path: Path) -> Iterator[Host]:
    product = install(tmp_path, btrfs_daemon, snapshot={"keep": 2})
    btrfs_daemon.run("agent-web", volumes=[f"{WORKSPACE}:/home/developer", f"{SHARED}:/home/developer/shared-out"])
    btrfs_daemon.run("agent-db", volumes=[f"{OTHER}:/home/developer"])
    found = Host(product, btrfs_daemon)
    set_state(found, "then")
    (found.path(OTHER) / "file").write_text("then")
    yield found
    for one in local_snapshots(found.state):
        remove_local(found.state, one)


def test_an_agent_is_as_it_was_with_everything_and_then_as_it_had_become(host: Host) -> None:
    make_everything(host.path() / "all")
    make_without_copy_on_write(host.path() / "nocow")
    then = host.look()
    assert host.product.run("backup")["outcome"] == "done"
    (host.path() / "file").write_text("now")
    (host.path() / "new").write_text("new")
    (host.path(SHARED) / "file").unlink()
    subprocess.run(["rm", "-r", str(host.path() / "all/links"), str(host.path() / "all/large")], check=True)
    (host.path(OTHER) / "file").write_text("now")
    now = host.look()
    other = (host.started("agent-db"), os.stat(host.path(OTHER)).st_ino, facts(host.path(OTHER)))

    plan = host.product.run("rollback", "web", "--dry-run")
    assert plan["outcome"] == "planned"
    assert [held["name"] for held in plan["containers"]] == ["agent-web"]
    assert_all_same(now, host.look())
    assert host.product.run("rollback", "web", code=2)["error"] == "RestoreRefused"  # not confirmed

    done = host.rollback()
    assert done["outcome"] == "rolled-back" and done["notes"] == []
    assert done["bytes_copied"] == 0
    assert [is_without_copy_on_write(host.path() / "nocow" / name) for name in (".", "db", "with")] == [
        True,
        True,
        False,
    ]
    assert_all_same(then, host.look())
    assert host.status() == "running"
    assert host.read("/home/developer/file") == "then"
    assert host.read("/home/developer/shared-out/file") == "then"
    assert (host.started("agent-db"), os.stat(host.path(OTHER)).st_ino, facts(host.path(OTHER))) == other
    assert host.ours() == []
    assert [bool(one["before_rollback"]) for one in host.local()] == [True, False]
    assert host.product.run("status")["local_snapshots"] == 2

    undone = host.rollback("--to", done["before"][:10])
    assert undone["local"] == done["before"]
    assert_all_same(now, host.look())
    assert host.read("/home/developer/file") == "now"
    assert host.rollback()["local"] == done["local"]  # what was before rollbacks has to be named
    assert_all_same(then, host.look())
    host.recover()


def state_of(host: Host) -> str:
    """`then` or `now`, if both volumes say so."""
    (word,) = {(host.path(name) / "file").read_text() for name in (WORKSPACE, SHARED)}
    return word


def set_state(host: Host, word: str) -> None:
    for name in (WORKSPACE, SHARED):
        (host.path(name) / "file").write_text(word)


BEFORE_EXCHANGE = ("restore.before-holder", "restore.stopped", *STEPS[1:])
AFTER_EXCHANGE = ("restore.swapping", "restore.first-operation", "restore.swapped", "restore.closing")


def test_a_rollback_killed_at_any_step_leaves_the_old_or_the_new_whole(host: Host) -> None:
    set_state(host, "then")
    host.product.run("backup")
    (local,) = host.snapshots()
    for step in (*BEFORE_EXCHANGE, *AFTER_EXCHANGE):
        set_state(host, "now")
        process = host.product.start("rollback", "web", "--yes", "--json", TRINITY_SNAP_CRASH_AT=step)
        output = process.communicate(timeout=120)
        assert process.returncode == -9, (step, output)
        answer = host.recover()
        new = step in AFTER_EXCHANGE
        assert [one["outcome"] for one in answer["restores"]] == ["finished" if new else "undone"], step
        assert state_of(host) == ("then" if new else "now"), step
        assert host.read("/home/developer/file") == state_of(host), step
        assert host.ours() == [], step
        before = [one for one in local_snapshots(host.state) if one.before_rollback]
        assert len(before) == new, step
        assert host.snapshots() == sorted([local, *(f"keep-{one.id}-1" for one in before)]), step
        for one in before:
            remove_local(host.state, one)
    set_state(host, "now")
    assert host.rollback()["outcome"] == "rolled-back"
    assert state_of(host) == "then"


def test_runs_keep_as_many_as_the_policy_says_and_touch_no_others(host: Host) -> None:
    foreign = host.store / "keep-mine-1"
    host.store.mkdir(mode=0o700)
    btrfs("subvolume", "create", foreign)
    (foreign / "precious").write_text("precious")
    try:
        runs = [host.product.run("backup")["run_id"] for _ in range(3)]
        assert [one["local"] for one in host.local()] == [runs[2], runs[1]]
        assert {one["agent"] for one in host.local()[0]["agents"]} == {"web", "db"}
        assert host.snapshots() == sorted(["keep-mine-1", f"keep-{runs[1]}-1", f"keep-{runs[2]}-1"])
        # A run over one agent does not cost the other its snapshots; an agent that is gone keeps none.
        only_db = [host.product.run("backup", "db")["run_id"] for _ in range(2)]
        assert [one["local"] for one in host.local("web")] == [runs[2], runs[1]]
        assert [one["local"] for one in host.local("db")] == [*reversed(only_db), runs[2], runs[1]]
        host.daemon.client.containers.get("agent-db").remove(force=True)
        host.daemon.client.volumes.get(OTHER).remove()
        last = host.product.run("backup")["run_id"]
        assert [one["local"] for one in host.local()] == [last, runs[2]]
        assert str(foreign) in host.product.run("recover")["strays"]
        # By hand, and only by its name, what nothing has a note of can be removed; what is not read-only not even so.
        assert host.product.run("rollback", "--remove", "mine", code=1)["error"] == "SnapshotError"
        btrfs("property", "set", "-ts", foreign, "ro", "true")
        assert str(foreign) in str(host.product.run("status")["warnings"])
        host.product.write_policy(snapshot={"keep": 0})
        host.product.run("backup")
        assert host.local() == []
        assert (foreign / "precious").read_text() == "precious"
        assert host.product.run("rollback", "--remove", "mine")["where"] == [str(foreign)]
        assert host.snapshots() == []
    finally:
        if foreign.exists():
            btrfs("subvolume", "delete", foreign)


def test_a_run_killed_while_it_keeps_has_decided(host: Host) -> None:
    for step in KEEPING_STEPS:
        process = host.product.start("backup", "--json", TRINITY_SNAP_CRASH_AT=step)
        process.communicate(timeout=120)
        assert process.returncode == -9, step
        host.recover()
        kept = local_snapshots(host.state)
        assert len(kept) == (step != "before-keep"), step
        assert host.snapshots() == [f"keep-{one.id}-1" for one in kept], step
        if step == "keep-noted":
            set_state(host, "now")
            host.rollback("--to", kept[0].id)
            assert state_of(host) == "then"
        for one in local_snapshots(host.state):
            remove_local(host.state, one)


def test_what_took_the_place_of_a_local_snapshot_is_neither_used_nor_removed(host: Host) -> None:
    host.product.run("backup")
    (name,) = host.snapshots()
    btrfs("subvolume", "delete", host.store / name)
    btrfs("subvolume", "create", host.store / name)
    (host.store / name / "mine").write_text("mine")
    btrfs("property", "set", "-ts", host.store / name, "ro", "true")
    set_state(host, "now")
    refused = host.rollback(code=2)
    assert "something else" in refused["message"]
    assert state_of(host) == "now" and host.status() == "running"
    host.product.run("rollback", "--remove", name.split("-")[1])
    assert host.local() == []
    assert (host.store / name / "mine").read_text() == "mine"
    btrfs("subvolume", "delete", host.store / name)


def test_without_a_local_snapshot_the_error_says_what_to_do(host: Host) -> None:
    refused = host.rollback(code=2)
    assert "no local snapshot of web" in refused["message"]
    assert "snapshot: keep:" in refused["next_step"] and "trinity-snap restore web" in refused["next_step"]
    assert host.product.run("rollback", "nobody", "--yes", code=2)["error"] == "AgentMissing"
    host.product.run("backup")
    assert "nothing" not in host.rollback("--to", "ffff", code=2)["message"]
    assert host.status() == "running"


def test_subvolumes_that_an_agent_made_come_back_as_subvolumes(host: Host) -> None:
    """Also directly below the top of a volume that is one itself, where all roots have the same inode."""
    data = host.path(SHARED)
    host.daemon.client.containers.get("agent-web").stop()
    data.rename(data.with_name("aside"))
    btrfs("subvolume", "create", data)
    shutil.rmtree(data.with_name("aside"))
    (data / "file").write_text("then")
    host.daemon.client.containers.get("agent-web").start()
    for top in (host.path(), data):
        btrfs("subvolume", "create", top / "sub")
        btrfs("subvolume", "create", top / "sub/inner")
        (top / "sub/inner/file").write_text("then")
        (top / "sub/file").write_text("then")
        (top / "plain").write_text("then")
        os.utime(top / "sub", ns=(1, 1_500_000_000_123_456_789))
    then = host.look()
    host.product.run("backup")
    for top in (host.path(), data):
        (top / "sub/inner/file").write_text("now")
        (top / "sub/file").unlink()
        (top / "plain").write_text("now")
        btrfs("subvolume", "create", top / "late")
    now = host.look()
    done = host.rollback()
    assert done["notes"] == []
    assert_all_same(then, host.look())
    for top in (host.path(), data):
        for path in ("sub", "sub/inner"):
            assert os.stat(top / path).st_ino == 256
    assert host.ours() == []
    host.rollback("--to", done["before"])
    assert_all_same(now, host.look())
    assert host.ours() == []
    process = host.product.start("rollback", "web", "--yes", TRINITY_SNAP_CRASH_AT="restore.first-operation")
    process.communicate(timeout=120)
    assert process.returncode == -9
    assert [one["outcome"] for one in host.recover()["restores"]] == ["finished"]
    assert_all_same(then, host.look())
    assert host.ours() == []


def test_a_full_disk_leaves_everything_as_it_was(host: Host) -> None:
    host.product.run("backup")
    set_state(host, "now")
    since = host.started("agent-web")
    filler = host.daemon.data_root / "filler"
    try:
        with filler.open("wb") as file:
            size, piece = 0, 1 << 30
            while piece > 1 << 20:
                try:
                    os.posix_fallocate(file.fileno(), size, piece)
                    size += piece
                except OSError:
                    piece //= 2
        refused = host.rollback(code=2)
        assert "not enough room" in refused["message"]
        assert state_of(host) == "now"
        assert host.started("agent-web") == since
    finally:
        filler.unlink(missing_ok=True)
    os.sync()
    host.rollback()
    assert state_of(host) == "then"


@pytest.mark.parametrize("at", ["copy", "present"])
def test_a_disk_that_fills_up_meanwhile_leaves_everything_as_it_was(
    host: Host, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.product.run("backup")
    set_state(host, "now")
    settings, client = host.product.policy, host.daemon.client
    plan = plan_rollback("web", to=None, state_dir=host.state, discovery=discover(client, settings), docker=client)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if at == "copy":
        monkeypatch.setattr(TreeCopier, "graft" if plan.volumes[0].trees[0][1].at else "copy", full)
    else:
        monkeypatch.setattr(os, "rename", full)
    with pytest.raises(TrinitySnapError, match=r"full|No space") as caught:
        execute(plan, settings, client)
    monkeypatch.undo()
    monkeypatch.setenv("DOCKER_HOST", host.daemon.host)
    assert "is as it was" in caught.value.untouched
    assert state_of(host) == "now" and host.read("/home/developer/file") == "now"
    assert host.ours() == []
    assert [one for one in local_snapshots(host.state) if one.before_rollback] == []
    assert len(host.snapshots()) == 1
    assert host.recover()["runs"] == []


def test_shared_volumes_of_others_are_left_and_users_of_ones_own_are_told_of(host: Host) -> None:
    client = host.daemon.client
    client.containers.get("agent-db").remove(force=True)
    host.daemon.run("agent-db", volumes=[f"{OTHER}:/home/developer", f"{SHARED}:/home/developer/shared-in/web"])
    set_state(host, "then")
    host.product.run("backup")
    set_state(host, "now")
    (host.path(OTHER) / "file").write_text("now")
    plan = host.product.run("rollback", "db", "--dry-run")
    assert [one["volume"] for one in plan["volumes"]] == [OTHER]
    assert f"{SHARED} belongs to agent web" in str(plan["warnings"])
    host.product.run("rollback", "db", "--yes")
    assert (host.path(OTHER) / "file").read_text() == "then"
    assert state_of(host) == "now"
    plan = host.product.run("rollback", "web", "--dry-run")
    assert "Container agent-db mounts one of these volumes" in str(plan["warnings"])
    host.rollback()
    assert host.read("/home/developer/shared-in/web/file", "agent-db") == "then"
    assert host.read("/home/developer/file", "agent-db") == "then"


def test_a_volume_that_is_gone_is_made_again(host: Host) -> None:
    client = host.daemon.client
    set_state(host, "then")
    host.product.run("backup")
    client.containers.get("agent-web").remove(force=True)
    client.volumes.get(WORKSPACE).remove()
    done = host.rollback()
    assert [one["exists"] for one in done["volumes"]] == [True, False]
    assert (host.path() / "file").read_text() == "then"


def test_where_nothing_can_be_kept_the_run_says_so_and_rollback_says_what_else_there_is(
    ext4_daemon: Daemon, tmp_path: Path
) -> None:
    product = install(tmp_path, ext4_daemon, snapshot={"keep": 2, "provider": "precopy"})
    ext4_daemon.run("agent-web", volumes=[f"{WORKSPACE}:/home/developer"])
    answer = product.run("backup")
    assert answer["outcome"] == "done"
    assert [note for note in answer["notes"] if "local snapshot of web" in note and "precopy" in note]
    assert "trinity-snap restore web" in product.run("rollback", "web", "--yes", code=2)["next_step"]
