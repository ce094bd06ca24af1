"""Local snapshots in thin pools, and rolling back to them, on real logical volumes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.engine.fidelity import Facts, assert_same, facts
from tests.engine.test_restore_paths import crash, fill, spoil
from tests.lab.policies import Policy
from tests.lab.quick.volumes import Group, run, volume_group
from trinity_snap.agents import Discovery
from trinity_snap.agents.platform import platform_agent
from trinity_snap.backup.keep import keep_locally
from trinity_snap.errors import RestoreRefused
from trinity_snap.progress import NullProgress
from trinity_snap.quiesce import Journal, recover
from trinity_snap.restore import resume_restores
from trinity_snap.rollback import RollbackResult, execute, forget_undone, plan_rollback
from trinity_snap.snapshot import Deadline, Prepare, select_providers
from trinity_snap.snapshot.local import LocalAgent, local_snapshots, local_source, prune, remove_local, unregistered
from trinity_snap.snapshot.logicalvolumes import our_snapshots
from trinity_snap.snapshot.mounts import read_mounts


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    with volume_group("lab-r", "/dev/ubdc", tmp_path_factory.mktemp("group") / "mnt") as made:
        made.pool("pool", "1000M")
        made.thin("ext4", "ext4", "320M")
        made.thin("xfs", "xfs", "400M")
        made.thick("thick", "ext4")
        yield made


@dataclass
class Host:
    data: Path
    state: Path

    def agent(self) -> Any:
        return platform_agent([self.data])

    def backup(self, run_id: str, at: str = "") -> list[str]:
        """What a run does with its snapshots, without a repository."""
        agent = self.agent()
        providers = select_providers(agent.sources, Policy(), self.state)
        journal = Journal.start(self.state, run_id)
        try:
            for provider in providers:
                provider.prepare(Prepare(run_id, journal, NullProgress()))
                provider.flush()
                provider.snapshot(Deadline())
                for source in provider.sources:
                    provider.view(source)
            wanted = LocalAgent(agent.name, "crash-consistent", tuple(map(local_source, agent.sources)))
            return keep_locally(self.state, run_id, int(run_id, 16), [wanted], providers)
        finally:
            for provider in providers:
                provider.release()
            assert journal.end()

    def rollback(self, to: str | None = None) -> RollbackResult:
        found = Discovery((self.agent(),), ())
        plan = plan_rollback("platform", to=to, state_dir=self.state, discovery=found, docker=None)
        assert plan.mode == "in_place"
        return execute(plan, Policy())

    def recover(self) -> list[str]:
        report = recover(self.state, None)
        assert report.problems == [] and report.strays == []
        ended = resume_restores(self.state, None)
        assert forget_undone(self.state, {one.id for one in ended if one.outcome == "undone"}) == []
        return [one.outcome for one in ended]

    def kept(self) -> list[str]:
        """The volumes that are kept; none of them is mounted or active."""
        assert not [
            mount for mount in read_mounts() if "trinity-snap" in mount.device or "trinity-snap" in str(mount.path)
        ]
        listed = run("lvs", "--noheadings", "-o", "lv_active,lv_name", "-S", "tags=trinity-snap").split("\n")
        assert not [line for line in listed if line.split()[:1] == ["active"]]
        return sorted(path.name for path in our_snapshots())

    def facts(self) -> dict[bytes, Facts]:
        return facts(self.data)


@pytest.fixture
def host(request: pytest.FixtureRequest, group: Group, tmp_path: Path) -> Iterator[Host]:
    data = group.place / getattr(request, "param", "ext4") / "volumes" / tmp_path.name / "data"
    data.mkdir(parents=True)
    fill(data)
    os.sync()
    found = Host(data, tmp_path / "state")
    yield found
    for one in local_snapshots(found.state):
        remove_local(found.state, one)
    assert found.kept() == []


@pytest.mark.parametrize("host", ["ext4", "xfs"], indirect=True)
def test_only_what_differs_comes_back_and_it_can_be_undone(host: Host) -> None:
    then = host.facts()
    same = os.stat(host.data / "same/deep/file").st_ino
    assert host.backup("a" * 15) == []
    assert host.kept() == [f"trinity-snap-keep-{'a' * 15}-t1"]
    spoil(host.data)
    now = host.facts()
    done = host.rollback()
    assert done.notes == ()
    assert_same(then, host.facts())
    assert os.stat(host.data / "same/deep/file").st_ino == same
    assert done.copied.files < 12
    assert len(host.kept()) == 2
    assert done.before is not None
    host.rollback(done.before.id)
    assert_same(now, host.facts())
    assert host.recover() == []
    assert len(host.kept()) == 3


def test_the_oldest_go_and_those_without_a_note_are_told_of(host: Host) -> None:
    for run_id in ("a1", "a2", "a3"):
        host.backup(run_id)
        assert prune(host.state, 2, {"platform"}) == []
    assert host.kept() == ["trinity-snap-keep-a2-t1", "trinity-snap-keep-a3-t1"]
    note = host.state / "local/a2.json"
    text = note.read_bytes()
    note.unlink()
    assert [(one.id, Path(one.where).name) for one in unregistered(host.state)] == [("a2", "trinity-snap-keep-a2-t1")]
    assert [path.name for path in recover(host.state, None).strays] == ["trinity-snap-keep-a2-t1"]
    note.write_bytes(text)
    # What took its place is not used.
    name = f"{our_snapshots()[0].parent.name}/trinity-snap-keep-a3-t1"
    run("lvrename", name, f"{name.partition('/')[0]}/mine")
    with pytest.raises(RestoreRefused, match="not there any more"):
        host.rollback("a3")
    run("lvrename", f"{name.partition('/')[0]}/mine", name)


def test_a_run_that_dies_while_it_keeps_has_decided(host: Host) -> None:
    assert crash("keep-noted", lambda: host.backup("b1"))
    host.recover()
    assert host.kept() == ["trinity-snap-keep-b1-t1"]
    then = host.facts()
    spoil(host.data)
    host.rollback()
    assert_same(then, host.facts())


@pytest.mark.parametrize("at", ["rollback.present-noted", "rollback.copied", "restore.first-operation"])
def test_a_rollback_that_dies_is_undone_or_finished(host: Host, at: str) -> None:
    then = host.facts()
    host.backup("c1")
    spoil(host.data)
    now = host.facts()
    assert crash(at, host.rollback)
    finished = at == "restore.first-operation"
    assert host.recover() == ["finished" if finished else "undone"]
    assert_same(then if finished else now, host.facts())
    assert len(host.kept()) == 1 + finished
    host.rollback("c1")
    assert_same(then, host.facts())


def test_thick_snapshots_are_not_kept_and_the_run_says_so(group: Group, tmp_path: Path) -> None:
    data = group.place / "thick" / "data"
    data.mkdir()
    (left_out,) = Host(data, tmp_path / "state").backup("d1")
    assert "lvm" in left_out and "cannot keep" in left_out
    assert our_snapshots() == ()
