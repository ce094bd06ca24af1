"""Discovery on a real daemon."""

import pytest

from tests.lab.policies import Discover, Policy, Rule
from trinity_snap.agents import PLATFORM_AGENT, connect, create_body, discover
from trinity_snap.errors import AgentMissing, DockerUnavailable

pytestmark = pytest.mark.host

HOME = "/home/developer"


def find(policy=None):
    return discover(connect(), policy or Policy())


def names(discovery):
    return {agent.name: [source.name for source in agent.sources] for agent in discovery.agents}


def test_agents_are_found_by_name_and_their_volumes_by_mounts(btrfs_daemon):
    btrfs_daemon.client.volumes.create("agent-web-workspace", labels={"trinity.agent-name": "web"})
    btrfs_daemon.run("agent-web", volumes=[f"agent-web-workspace:{HOME}", f"agent-web-public:{HOME}/public"])
    btrfs_daemon.run("database", volumes=["pg:/var/lib/postgresql"])
    found = find()
    assert names(found) == {"web": ["agent-web-public", "agent-web-workspace"]}
    workspace = found.agent("web").sources[1]
    assert workspace.path == btrfs_daemon.data_root / "volumes/agent-web-workspace/_data"
    assert workspace.destination == HOME
    assert workspace.labels == {"trinity.agent-name": "web"}
    assert [ignored.container for ignored in found.ignored] == ["database"]
    assert [held.name for held in found.quiesce_set] == ["agent-web"]


def test_a_renamed_agent_keeps_its_old_volumes_whatever_its_labels_say(btrfs_daemon):
    labels = {"trinity.platform": "agent", "trinity.agent-name": "old"}
    container = btrfs_daemon.run("agent-old", volumes=[f"agent-old-workspace:{HOME}"], labels=labels)
    container.rename("agent-new")
    assert names(find()) == {"new": ["agent-old-workspace"]}


def test_a_labelled_container_counts_whatever_its_name_is(btrfs_daemon):
    labels = {"trinity.platform": "agent"}
    btrfs_daemon.create("odd", volumes=[f"agent-odd-workspace:{HOME}"], labels=labels)
    btrfs_daemon.create("web", volumes=["extra:/x"], labels=labels)
    btrfs_daemon.create("agent-web", volumes=[f"agent-web-workspace:{HOME}"])
    btrfs_daemon.create("agent-platform", volumes=["other:/y"])
    assert set(names(find())) == {"odd", "web", "web-container", f"{PLATFORM_AGENT}-container"}
    assert find().agent("web").container_name == "agent-web"


def test_the_unlabelled_system_agent_and_stopped_agents_are_found(btrfs_daemon):
    btrfs_daemon.create("agent-trinity-system", volumes=[f"agent-trinity-system-workspace:{HOME}"])
    found = find()
    assert names(found) == {"trinity-system": ["agent-trinity-system-workspace"]}
    assert found.agents[0].state == "created"


def test_a_shared_volume_is_backed_up_once_with_its_owner(btrfs_daemon):
    shared = "agent-zed-shared"
    btrfs_daemon.run("agent-amy", volumes=[f"agent-amy-workspace:{HOME}", f"{shared}:{HOME}/shared-in/zed"])
    btrfs_daemon.run("agent-zed", volumes=[f"agent-zed-workspace:{HOME}", f"{shared}:{HOME}/shared-out"]).rename(
        "agent-zoe"
    )
    found = find()
    assert names(found) == {"amy": ["agent-amy-workspace"], "zoe": [shared, "agent-zed-workspace"]}
    assert found.agent("amy").shared == ((shared, f"{HOME}/shared-in/zed", "zoe"),)
    only_owner = found.select(["zoe"])
    assert {held.name for held in only_owner.quiesce_set} == {"agent-amy", "agent-zoe"}
    only_other = found.select(["amy"])
    assert {held.name for held in only_other.quiesce_set} == {"agent-amy"}


def test_a_shared_volume_of_an_excluded_owner_is_reported_as_not_covered(btrfs_daemon):
    btrfs_daemon.run("agent-amy", volumes=[f"agent-amy-workspace:{HOME}", f"agent-zed-shared:{HOME}/shared-in/zed"])
    btrfs_daemon.run("agent-zed", volumes=[f"agent-zed-shared:{HOME}/shared-out"])
    policy = Policy()
    policy.agents.exclude = ["z*"]
    found = find(policy)
    (not_covered,) = found.agent("amy").not_covered
    assert not_covered.what == "agent-zed-shared"
    assert "zed" in not_covered.why
    assert "agent-zed" in [ignored.container for ignored in found.ignored]


def test_what_is_no_volume_is_reported_with_the_reason(btrfs_daemon, tmp_path):
    btrfs_daemon.run("agent-a", volumes=[f"{tmp_path}:/bind"], tmpfs={"/scratch": ""})
    agent = find().agent("a")
    assert agent.sources == ()
    assert [(each.kind, bool(each.why)) for each in agent.not_covered] == [
        ("bind", True), ("tmpfs", True), ("agent", True)
    ]  # fmt: skip


def test_anonymous_volumes_are_covered_and_named_in_the_definition(btrfs_daemon):
    btrfs_daemon.run("agent-a", volumes=["/anonymous"])
    agent = find().agent("a")
    (source,) = agent.sources
    assert len(source.name) == 64
    assert agent.definition["HostConfig"]["Binds"] == [f"{source.name}:/anonymous"]


def test_any_container_can_be_an_agent_by_a_rule(btrfs_daemon):
    btrfs_daemon.run("shop-db-1", volumes=["data:/data", "cache:/cache"], labels={"tier": "db"})
    btrfs_daemon.run("shop-web-1", volumes=["web:/web"], labels={"tier": "web"})
    policy = Policy()
    rule = Rule(name="databases", container="shop-*", label="tier=db", volumes=["d*"], agent="db.{container}")
    policy.agents.rules = [rule]
    found = find(policy)
    assert names(found) == {"db.shop-db-1": ["data"]}
    (not_covered,) = found.agents[0].not_covered
    assert not_covered[:2] == ("volume", "cache")
    assert "databases" in not_covered.why


def test_another_trinity_instance_on_the_same_daemon_is_left_alone(btrfs_daemon):
    for name, instance in (("a", "blue"), ("b", "green"), ("c", None)):
        labels = {"trinity.instance": instance} if instance else {}
        btrfs_daemon.client.volumes.create(f"agent-{name}-workspace", labels=labels)
        btrfs_daemon.create(f"agent-{name}", volumes=[f"agent-{name}-workspace:{HOME}"])
    policy = Policy()
    policy.agents.discover = Discover(instance="blue")
    found = find(policy)
    assert set(names(found)) == {"a", "c"}
    assert "green" in found.ignored[0].why


def test_volumes_whose_container_is_gone_are_still_protected(btrfs_daemon):
    btrfs_daemon.client.volumes.create("agent-lost-workspace")
    btrfs_daemon.client.volumes.create("something-else")
    btrfs_daemon.create("agent-here", volumes=[f"agent-here-workspace:{HOME}"])
    btrfs_daemon.client.volumes.create("agent-here-shared")
    found = find()
    assert names(found) == {"lost": ["agent-lost-workspace"], "here": ["agent-here-shared", "agent-here-workspace"]}
    assert found.agent("lost").state == "missing"
    assert found.agent("lost").sources[0].destination == HOME


def test_platform_paths_hold_whoever_can_write_to_them(btrfs_daemon, tmp_path):
    data = tmp_path / "trinity-data"
    data.mkdir()
    (tmp_path / ".env").write_text("KEY=1")
    btrfs_daemon.run("backend", volumes=[f"{data}:/data"])
    btrfs_daemon.run("reader", volumes=[f"{data}:/data:ro"])
    btrfs_daemon.run("elsewhere", volumes=[f"{tmp_path / 'other'}:/data"])
    policy = Policy()
    policy.platform.paths = [data, tmp_path / ".env", tmp_path / "missing", data / "inside"]
    found = find(policy)
    platform = found.agent(PLATFORM_AGENT)
    assert [source.path for source in platform.sources] == [data, tmp_path / ".env"]
    assert {each.what for each in platform.not_covered} == {str(tmp_path / "missing"), str(data / "inside")}
    assert [held.name for held in found.quiesce_set] == ["backend"]


def test_a_container_made_from_its_definition_is_the_same_container(btrfs_daemon):
    client = btrfs_daemon.client
    client.networks.create("trinity-net", driver="bridge", labels={"x": "y"})
    try:
        btrfs_daemon.create(
            "agent-a", ["sleep", "77"], volumes=[f"agent-a-workspace:{HOME}"], environment={"A": "1"},
            labels={"trinity.platform": "agent"}, mem_limit="128m", nano_cpus=500_000_000, cap_drop=["ALL"],
            cap_add=["CHOWN"], security_opt=["no-new-privileges"], user="1000:1000", working_dir="/tmp",
            restart_policy={"Name": "unless-stopped"}, network_mode=None, network="trinity-net",
            ports={"8000/tcp": ("127.0.0.1", 18000)},
        )  # fmt: skip
        definition = find().agent("a").definition
        client.containers.get("agent-a").remove()
        made = client.api.create_container_from_config(create_body(definition), definition["Name"])
        again = find().agent("a")
        assert again.container_id == made["Id"]
        assert again.definition == definition
        host = definition["HostConfig"]
        assert (host["Memory"], host["NanoCpus"], host["CapDrop"]) == (128 << 20, 500_000_000, ["ALL"])
        assert list(definition["NetworkingConfig"]["EndpointsConfig"]) == ["trinity-net"]
    finally:
        btrfs_daemon.clean()
        client.networks.prune()


def test_an_unknown_agent_is_answered_with_the_known_ones(btrfs_daemon):
    btrfs_daemon.create("agent-a", volumes=[f"agent-a-workspace:{HOME}"])
    with pytest.raises(AgentMissing, match="agents here: a"):
        find().select(["b"])


@pytest.mark.parametrize("host", ["unix:///run/no-such-socket", "tcp://127.0.0.1:9"])
def test_no_docker_is_a_clear_error(monkeypatch, host):
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(DockerUnavailable, match="Docker daemon at"):
        connect()
