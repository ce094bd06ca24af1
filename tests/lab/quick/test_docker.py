"""Docker's data root on logical volumes: agents are paused, snapshotted, and go on; databases come back whole."""

import shutil

import pytest

from tests.host.test_main_job import check_databases, extract, said, start_writer, wait_until
from tests.lab.daemon import docker_daemon
from tests.lab.product import install
from tests.lab.quick.volumes import volume_group
from trinity_snap.backup.run import run_backup
from trinity_snap.snapshot.logicalvolumes import our_snapshots

pytestmark = pytest.mark.skipif(shutil.which("dockerd") is None, reason="needs dockerd")


@pytest.fixture
def group(tmp_path):
    with volume_group("lab-4", "/dev/ubdf", tmp_path / "group") as made:
        made.pool("pool", "500M")
        made.thick("thick", "ext4", "700M")
        made.thin("thin", "xfs", "400M")
        yield made


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_busy_databases_on_thick_and_thin_volumes_come_back_whole(group, tmp_path, monkeypatch):
    with docker_daemon(group.place / "thick" / "docker") as daemon:
        monkeypatch.setenv("DOCKER_HOST", daemon.host)
        product = install(tmp_path, daemon, quiesce={"budget_seconds": 15})
        for name in ("workspace", "public"):
            place = group.place / "thin" / name
            place.mkdir()
            bind = {"type": "none", "o": "bind", "device": str(place)}
            daemon.client.volumes.create(f"agent-two-{name}", driver="local", driver_opts=bind)
        for name in ("one", "two"):
            start_writer(daemon, name)
        wait_until(lambda: all(said(daemon, name) > 20 for name in ("one", "two")), 120)
        for _ in range(2):
            before = {name: said(daemon, name) for name in ("one", "two")}
            result = run_backup(product.policy)
            assert result.outcome == "done", result
            assert {each.agent: each.provider for each in result.agents} == {"one": "lvm", "two": "lvm-thin"}
            repository = product.repository()
            for agent in result.agents:
                assert agent.consistency == "host-crash-consistent"
                assert agent.point is not None
                extract(repository, repository.read_point(agent.point), tmp_path / "check")
                assert check_databases(tmp_path / "check", agent.agent) >= before[agent.agent]
                shutil.rmtree(tmp_path / "check")
            assert our_snapshots() == ()
            assert daemon.paused() == []
