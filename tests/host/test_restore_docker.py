"""Restoring volumes of a real Docker daemon: containers stop and start, volumes come back with their labels."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import docker
import msgspec
import pytest

from tests.engine.conftest import Store, identities, make_store, store  # noqa: F401  # fixtures
from tests.engine.fidelity import TreeRepository, assert_same, facts, fake_point
from tests.engine.test_restore_paths import crash
from tests.lab.daemon import Daemon
from trinity_snap.agents.definition import definition_of
from trinity_snap.errors import LeftQuiesced, RestoreError, RestoreRefused, UsageError
from trinity_snap.repository.points import RecoveryPoint, Volume
from trinity_snap.restore import execute, list_kept, plan_restore, release, resume_restores
from trinity_snap.restore.journal import STEPS

pytestmark = [pytest.mark.host, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

LABELS = {"trinity.platform": "agent-workspace", "trinity.agent-name": "web", "other": "label"}
WORKSPACE, SHARED = "agent-web-workspace", "agent-web-shared"
MOUNTS = [f"{WORKSPACE}:/home/developer", f"{SHARED}:/home/developer/shared-out"]


@dataclass
class Agent:
    """An agent with two volumes, a point of it, and what it looks like since it was spoilt."""

    daemon: Daemon
    repository: TreeRepository
    point: RecoveryPoint
    state: Path
    then: tuple
    now: tuple

    def path(self, name: str) -> Path:
        return Path(self.daemon.client.volumes.get(name).attrs["Mountpoint"])

    def look(self) -> tuple:
        return tuple(facts(self.path(name), layout=False) for name in (WORKSPACE, SHARED))

    def plan(self, **wishes):
        return plan_restore(self.repository, self.point, state_dir=self.state, docker=self.daemon.client, **wishes)

    def restore(self, **wishes):
        return execute(self.plan(**wishes), self.repository, self.daemon.client)

    def status(self, name: str) -> str:
        return str(self.daemon.client.containers.get(name).status)

    def read(self, name: str, path: str) -> str:
        output = self.daemon.client.containers.get(name).exec_run(["cat", path]).output
        assert isinstance(output, bytes)
        return output.decode()

    def ours(self) -> list[Path]:
        return sorted((self.daemon.data_root / "volumes").glob("*/.trinity-snap-*"))


def fill(workspace: Path, shared: Path) -> None:
    (workspace / "content").mkdir()
    (workspace / "content/file").write_text("then")
    (workspace / "data.db").write_bytes(random.Random(1).randbytes(5_000_000))
    os.mkdir(workspace / "shared-out")
    (shared / "out").write_text("shared then")
    for top in (workspace, shared):
        for directory, directories, files in os.walk(top):
            for name in [*directories, *files]:
                os.chown(os.path.join(directory, name), 1000, 1000)
        os.chown(top, 1000, 1000)
        os.utime(top, ns=(1, 1_600_000_000_123_456_789))


@pytest.fixture
def agent(daemon: Daemon, store: Store, tmp_path: Path) -> Agent:  # noqa: F811
    repository = TreeRepository(store)
    client = daemon.client
    for name in (WORKSPACE, SHARED):
        client.volumes.create(name, labels=LABELS)
    container = daemon.create("agent-web", volumes=MOUNTS, labels={"trinity.platform": "agent"}, environment={"A": "b"})
    paths = [Path(client.volumes.get(name).attrs["Mountpoint"]) for name in (WORKSPACE, SHARED)]
    fill(*paths)
    container.start()
    definition = definition_of(client.api.inspect_container("agent-web"))
    volumes: list[Volume] = [
        repository.volume(path, name=name, kind="volume", destination=mount.split(":")[1], labels=LABELS)
        for path, name, mount in zip(paths, (WORKSPACE, SHARED), MOUNTS, strict=True)
    ]
    point = fake_point(volumes, "web", container=definition)
    then = tuple(facts(path, layout=False) for path in paths)
    (paths[0] / "content/file").write_text("now")
    (paths[0] / "new").write_text("new")
    (paths[0] / "data.db").unlink()
    (paths[1] / "out").write_text("shared now")
    now = tuple(facts(path, layout=False) for path in paths)
    return Agent(daemon, repository, point, tmp_path / "state", then, now)


def assert_state(expected: tuple, actual: tuple) -> None:
    for one, other in zip(expected, actual, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("wishes", [{}, {"in_place": True}])
def test_containers_stop_and_go_on_as_they_were(agent: Agent, wishes: dict) -> None:
    daemon = agent.daemon
    daemon.run("reader", volumes=[f"{SHARED}:/in:ro"])
    daemon.run("sleeper", volumes=[f"{SHARED}:/in"]).pause()
    daemon.create("never-started", volumes=[f"{SHARED}:/in"])
    bystander = daemon.run("bystander")
    bystander.reload()
    since = bystander.attrs["State"]["StartedAt"]
    plan = agent.plan(**wishes)
    assert {held.name for held in plan.containers} == {"agent-web", "reader", "sleeper", "never-started"}
    assert "container agent-web (running): stopped, then started" in "\n".join(plan.lines())
    result = agent.restore(**wishes)
    assert_state(agent.then, agent.look())
    states = {name: agent.status(name) for name in ("agent-web", "reader", "sleeper", "never-started", "bystander")}
    assert states == {
        "agent-web": "running", "reader": "running", "sleeper": "paused", "never-started": "created",
        "bystander": "running",
    }  # fmt: skip
    bystander.reload()
    assert bystander.attrs["State"]["StartedAt"] == since
    # What they see is the restored data, through their own mounts.
    assert agent.read("agent-web", "/home/developer/content/file") == "then"
    assert agent.read("agent-web", "/home/developer/shared-out/out") == "shared then"
    assert agent.read("reader", "/in/out") == "shared then"
    assert len(agent.ours()) == 2
    assert 0 < result.downtime_seconds < 60
    release(agent.state, "web")
    assert agent.ours() == []
    # And what they write is where Docker says.
    daemon.client.containers.get("agent-web").exec_run(["touch", "/home/developer/written"])
    assert (agent.path(WORKSPACE) / "written").exists()


def test_everything_lost_comes_back_before_any_container(agent: Agent) -> None:
    client = agent.daemon.client
    client.containers.get("agent-web").remove(force=True)
    for name in (WORKSPACE, SHARED):
        client.volumes.get(name).remove()
    plan = agent.plan(containers=True)
    assert plan.create_container == "agent-web"
    assert [volume.created for volume in plan.volumes] == [1, 1]
    result = execute(plan, agent.repository, client)
    assert result.created_container == "agent-web"
    assert result.previous == ()
    assert_state(agent.then, agent.look())
    assert client.volumes.get(WORKSPACE).attrs["Labels"] == LABELS
    container = client.containers.get("agent-web")
    assert container.status == "created"
    assert container.labels == {"trinity.platform": "agent"}
    container.start()
    assert agent.read("agent-web", "/home/developer/content/file") == "then"
    assert agent.ours() == []
    assert list_kept(agent.state) == []
    assert agent.plan(containers=True).create_container == ""


def test_networks_come_back_with_their_container(agent: Agent) -> None:
    client = agent.daemon.client
    client.containers.get("agent-web").remove(force=True)
    definition = dict(agent.point.container or {})
    definition["HostConfig"] = {**definition["HostConfig"], "NetworkMode": "agents"}
    definition["NetworkingConfig"] = {"EndpointsConfig": {"agents": {"Aliases": ["web"]}, "more": {}}}
    agent.point = msgspec.structs.replace(agent.point, container=definition)
    try:
        agent.restore(containers=True)
        container = client.containers.get("agent-web")
        assert set(container.attrs["NetworkSettings"]["Networks"]) == {"agents", "more"}
    finally:
        for found in client.api.containers(all=True):
            client.api.remove_container(found["Id"], force=True)
        for network in client.networks.list(names=["agents", "more"]):
            network.remove()


def test_a_missing_image_is_named_and_the_volumes_stay(agent: Agent) -> None:
    client = agent.daemon.client
    client.containers.get("agent-web").remove(force=True)
    definition = {**(agent.point.container or {}), "Image": "registry.example/agent:9"}
    agent.point = msgspec.structs.replace(agent.point, container=definition)
    with pytest.raises(RestoreError, match=r"registry\.example/agent:9"):
        agent.restore(containers=True)
    assert_state(agent.then, agent.look())


def test_a_clone_has_none_of_trinitys_labels(agent: Agent) -> None:
    client = agent.daemon.client
    result = agent.restore(as_name="copy")
    assert_state(agent.now, agent.look())
    assert agent.status("agent-web") == "running"
    names = ["agent-copy-workspace", "agent-copy-shared"]
    for name, then in zip(names, agent.then, strict=True):
        volume = client.volumes.get(name)
        assert not [label for label in volume.attrs["Labels"] if label.startswith("trinity.")]
        assert volume.attrs["Labels"]["other"] == "label"
        assert volume.attrs["Labels"]["trinity-snap.clone-of"] == name.replace("copy", "web")
        assert_same(then, facts(Path(volume.attrs["Mountpoint"]), layout=False))
    assert result.previous == ()
    with pytest.raises(RestoreRefused, match="already"):
        agent.restore(as_name="copy")


def test_one_file(agent: Agent) -> None:
    result = agent.restore(paths=["/home/developer/content/file"])
    assert agent.read("agent-web", "/home/developer/content/file") == "then"
    assert (agent.path(WORKSPACE) / "new").exists()
    assert [volume.name for volume in result.plan.volumes] == [WORKSPACE]
    assert result.plan.volumes[0].replaced == 1
    with pytest.raises(UsageError):
        agent.plan(paths=["/home/developer/nothing"])


def test_a_path_below_a_nested_mount_is_found_in_its_own_volume(agent: Agent) -> None:
    plan = agent.plan(paths=["/home/developer/shared-out/out"])
    assert [(volume.name, volume.paths) for volume in plan.volumes] == [(SHARED, (b"out",))]
    assert agent.plan(paths=[f"{WORKSPACE}:content"]).volumes[0].paths == (b"content",)


def test_a_volume_that_is_a_directory_elsewhere_is_exchanged_inside(agent: Agent, tmp_path: Path) -> None:
    client = agent.daemon.client
    client.containers.get("agent-web").remove(force=True)
    client.volumes.get(WORKSPACE).remove()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "old").write_text("old")
    subprocess.run(["mount", "--bind", str(elsewhere), str(elsewhere)], check=True)
    try:
        client.volumes.create(WORKSPACE, driver_opts={"type": "none", "o": "bind", "device": str(elsewhere)})
        agent.daemon.run("agent-web", volumes=MOUNTS)
        result = agent.restore()
        assert [volume.how for volume in result.plan.volumes] == ["contents", "swap"]
        assert agent.read("agent-web", "/home/developer/content/file") == "then"
        assert (elsewhere / "content/file").read_text() == "then"
        assert not (elsewhere / "old").exists()
        assert (result.previous[0] / "data/old").read_text() == "old"
        release(agent.state, result.plan.id)
        client.containers.get("agent-web").remove(force=True)
    finally:
        subprocess.run(["umount", str(elsewhere)], check=True)


def test_a_volume_that_docker_mounts_by_itself_is_refused(agent: Agent) -> None:
    client = agent.daemon.client
    client.containers.get("agent-web").remove(force=True)
    client.volumes.get(SHARED).remove()
    client.volumes.create(SHARED, driver_opts={"type": "tmpfs", "device": "tmpfs"})
    with pytest.raises(RestoreRefused, match="--to"):
        agent.restore()


def test_a_container_that_does_not_start_is_reported_and_tried_again(agent: Agent, tmp_path: Path) -> None:
    client = agent.daemon.client
    source = tmp_path / "source"
    source.mkdir()
    agent.daemon.run("fragile", volumes=[f"{SHARED}:/in"], mounts=[docker.types.Mount("/x", str(source), type="bind")])
    plan = agent.plan()
    shutil.rmtree(source)
    with pytest.raises(LeftQuiesced, match="fragile"):
        execute(plan, agent.repository, client)
    assert_state(agent.then, agent.look())
    assert agent.status("agent-web") == "running"
    with pytest.raises(LeftQuiesced, match="fragile"):
        resume_restores(agent.state, client)
    source.mkdir()
    (ended,) = resume_restores(agent.state, client)
    assert ended.outcome == "finished"
    assert agent.status("fragile") == "running"
    assert len(list_kept(agent.state)) == 1


@pytest.mark.parametrize("wishes", [{}, {"in_place": True}], ids=["exchange", "in-place"])
@pytest.mark.parametrize("at", STEPS)
def test_after_a_crash_the_data_is_whole_and_the_agent_runs(agent: Agent, at: str, wishes: dict) -> None:
    client = agent.daemon.client
    agent.daemon.run("sleeper", volumes=[f"{SHARED}:/in"]).pause()
    then, now = agent.then, agent.now
    if at in ("restore.before-volume", "restore.volume-created"):
        # These steps exist only for volumes that are missing.
        client.containers.get("agent-web").remove(force=True)
        client.volumes.get(WORKSPACE).remove()
    else:
        wishes = dict(wishes)

    def work() -> None:
        own = docker.DockerClient(base_url=agent.daemon.host)
        plan = plan_restore(agent.repository, agent.point, state_dir=agent.state, docker=own, **wishes)
        execute(plan, agent.repository, own)

    assert crash(at, work)
    (ended,) = resume_restores(agent.state, client)
    assert agent.status("sleeper") == "paused"
    if at in ("restore.before-volume", "restore.volume-created"):
        assert ended.outcome == "undone"
        assert WORKSPACE not in [volume.name for volume in client.volumes.list()]
        assert agent.ours() == []
        return
    assert agent.status("agent-web") == "running"
    old = STEPS.index(at) < STEPS.index("restore.swapping")
    # In place stops before it stages.
    assert ended.outcome == ("undone" if old else "finished")
    assert_state(now if old else then, agent.look())
    assert agent.read("agent-web", "/home/developer/content/file") == ("now" if old else "then")
    assert resume_restores(agent.state, client) == []
    assert len(agent.ours()) == (0 if old else 2)
    if not old:
        release(agent.state, "web")
        assert agent.ours() == []


def test_a_full_disk_leaves_everything_as_it_was(agent: Agent) -> None:
    filler = agent.daemon.data_root / "filler"
    try:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(os.urandom(1 << 20)):
                pass
        with pytest.raises(RestoreRefused, match="not enough room"):
            agent.restore()
        plan = replace(agent.plan(), space=())
        with pytest.raises(RestoreError, match=r"full|No space"):
            execute(plan, agent.repository, agent.daemon.client)
        assert_state(agent.now, agent.look())
        assert agent.ours() == []
    finally:
        filler.unlink(missing_ok=True)
    assert agent.status("agent-web") == "running"
