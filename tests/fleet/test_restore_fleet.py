"""Hosts are lost, and their agents come to other hosts: several "hosts" with Docker daemons of their own on this machine."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.engine.fidelity import assert_same, facts
from tests.lab.daemon import Daemon, docker_daemon
from tests.lab.disks import filesystem
from tests.lab.product import CHECKOUT, Product, install, volume

pytestmark = [pytest.mark.host, pytest.mark.fleet]
pytest.importorskip("ansible_runner")

SHARED = "agent-web-shared"
AGENTS = {
    "old1": {
        "web": ["agent-web-workspace:/home/developer", f"{SHARED}:/home/developer/shared-out"],
        "reader": ["agent-reader-workspace:/home/developer", f"{SHARED}:/home/developer/shared-in/web"],
        "asleep": ["agent-asleep-workspace:/home/developer"],
    },
    "old2": {
        "db": ["agent-db-workspace:/home/developer"],
        "cache": ["agent-cache-workspace:/home/developer"],
    },
}  # fmt: skip
WORKSPACES = [f"agent-{name}-workspace" for agents in AGENTS.values() for name in agents]


@dataclass
class Site:
    """A control node, two lost hosts of which it has the policies, and two new ones on the same two daemons."""

    home: Path
    daemons: dict[str, Daemon]
    run_ids: list[str] = field(default_factory=list)
    then: dict[str, Any] = field(default_factory=dict)
    new: dict[str, Product] = field(default_factory=dict)
    rounds: int = 0

    def fresh(self) -> None:
        """New hosts that have nothing."""
        self.rounds += 1
        for name, daemon in self.daemons.items():
            daemon.clean()
            self.new[name] = install(
                self.home / f"{name}-{self.rounds}", daemon, platform={"paths": [str(self.platform)]}
            )
        for path in self.platform.iterdir():
            path.unlink()

    @property
    def platform(self) -> Path:
        return self.home / "platform"

    def crash(self, name: str, step: str) -> None:
        """The host's command kills itself at this step, of whatever comes by it next, once."""
        (self.home / f"crash-{name}").write_text(step)

    def fleet(self, *arguments: str, extra: dict[str, object] | None = None) -> tuple[int, dict[str, Any]]:
        hosts: dict[str, Any] = {}
        for name, product in self.new.items():
            crash = self.home / f"crash-{name}"
            command = product.home / "trinity-snap"
            calls = product.home / "calls"
            words = shlex.join([sys.executable, "-m", "trinity_snap"])
            command.write_text(
                f'#!/bin/sh\ncd {CHECKOUT}\necho "$@" >>{calls}\n'
                f'[ -e {crash} ] && export TRINITY_SNAP_CRASH_AT=$(cat {crash})\n{words} "$@"\ncode=$?\n'
                f"[ $code = 137 ] && rm {crash}\nexit $code\n"
            )
            command.chmod(0o755)
            hosts[name] = {
                "trinity_snap_link": str(command), "trinity_snap_policy": str(product.policy_file),
                "trinity_snap_docker_host": product.daemon.host,
            }  # fmt: skip
        control = self.home / "control"
        control.write_text(
            f'#!/bin/sh\ncd {CHECKOUT}\nexec {shlex.join([sys.executable, "-m", "trinity_snap"])} "$@"\n'
        )
        control.chmod(0o755)
        common = {
            "ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3",
            "trinity_snap_onto_command": str(control), "trinity_snap_onto_policy": f"{self.home}/{{host}}/etc/policy.yml",
            "trinity_snap_onto_target": f"{self.home}/{{host}}/target",
            **(extra or {}),
        }  # fmt: skip
        inventory = self.home / "inventory.yml"
        inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": common}}))
        done = subprocess.run(
            [sys.executable, "-m", "trinity_snap", "fleet", arguments[0], "-i", str(inventory), "--json", "-q", *arguments[1:]],
            cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.stdout.startswith("{"), done.stdout + done.stderr
        return done.returncode, json.loads(done.stdout)

    def restore(self, *onto: str, more: tuple[str, ...] = (), **extra: object) -> tuple[int, dict[str, Any]]:
        words = [word for one in onto for word in ("--onto", one)]
        return self.fleet("restore", "--yes", "--containers", *words, *more, extra=extra)

    def look(self, name: str) -> Any:
        """Everything of a volume, on whichever host it is."""
        (where,) = (one for one in self.daemons.values() if name in [each.name for each in one.client.volumes.list()])
        return facts(volume(where, name), layout=False)

    def states(self, name: str) -> dict[str, str]:
        listed = self.daemons[name].client.api.containers(all=True)
        return {one["Names"][0].lstrip("/"): one["State"] for one in listed}


def agents_of(answer: dict[str, Any], host: str) -> dict[str, dict[str, Any]]:
    (found,) = (one for one in answer["hosts"] if one["host"] == host)
    return {agent["agent"]: agent for agent in found["answer"]["agents"]}


def outcomes(answer: dict[str, Any], host: str) -> dict[str, str]:
    return {name: agent["outcome"] for name, agent in agents_of(answer, host).items()}


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Both hosts have backed up twice, in runs of one id each, and are gone."""
    home = tmp_path_factory.mktemp("site")
    with filesystem("btrfs", home / "disk") as disk, ExitStack() as stack:
        daemons = {name: stack.enter_context(docker_daemon(disk / name)) for name in ("new1", "new2")}
        site = Site(home, daemons)
        site.platform.mkdir()
        olds = {}
        for (old, agents), daemon in zip(AGENTS.items(), daemons.values(), strict=True):
            for name, mounts in agents.items():
                labels = {"trinity.platform": "agent", "trinity.agent-name": name}
                for mount in mounts:
                    daemon.client.volumes.create(
                        mount.split(":")[0], labels={"trinity.agent-name": name, "kept": "yes"}
                    )
                daemon.run(f"agent-{name}", volumes=mounts, labels=labels)
            paths: dict[str, Any] = {"platform": {"paths": [str(site.platform)]}} if old == "old1" else {}
            olds[old] = install(home / old, daemon, **paths)
        daemons["new1"].client.containers.get("agent-asleep").stop(timeout=1)
        for number, run_id in enumerate(("1" * 32, "2" * 32)):
            (site.platform / "trinity.db").write_text(f"platform {number}")
            for name in (*WORKSPACES, SHARED):
                where = next(
                    one for one in daemons.values() if name in [each.name for each in one.client.volumes.list()]
                )
                (volume(where, name) / "file").write_text(f"{name} {number}")
                (volume(where, name) / "link").unlink(missing_ok=True)
                (volume(where, name) / "link").symlink_to("file")
            site.then[run_id] = {name: site.look(name) for name in (*WORKSPACES, SHARED)}
            for product in olds.values():
                product.run("backup", "--run-id", run_id)
            site.run_ids.append(run_id)
        yield site


@pytest.fixture
def site(lost: Site) -> Site:
    lost.fresh()
    return lost


def assert_all_as_of(site: Site, run_id: str, *names: str) -> None:
    for name in names or (*WORKSPACES, SHARED):
        assert_same(site.then[run_id][name], site.look(name))


def test_all_agents_of_lost_hosts_run_on_new_ones_and_a_second_time_nothing_is_done(site: Site) -> None:
    """The agents of one are spread over both."""
    onto = ("old1=new1", "old2:db=new1", "old2=new2")
    code, planned = site.restore(*onto, more=("--dry-run",))
    assert code == 0, planned
    assert set(outcomes(planned, "new1").values()) == {"planned"} and site.states("new1") == {}

    code, answer = site.restore(*onto)
    assert code == 0, answer
    assert list(outcomes(answer, "new1")) == ["platform", "asleep", "db", "reader", "web"]
    assert {**outcomes(answer, "new1"), **outcomes(answer, "new2")} == dict.fromkeys(
        ("platform", "asleep", "db", "reader", "web", "cache"), "restored"
    )
    assert_all_as_of(site, site.run_ids[1])
    assert (site.platform / "trinity.db").read_text() == "platform 1"
    assert site.states("new1") == {
        "agent-web": "running", "agent-reader": "running", "agent-db": "running", "agent-asleep": "created",
    }  # fmt: skip
    assert site.states("new2") == {"agent-cache": "running"}
    assert agents_of(answer, "new1")["asleep"]["state"] == "created"
    client = site.daemons["new1"].client
    assert client.volumes.get(SHARED).attrs["Labels"] == {"trinity.agent-name": "web", "kept": "yes"}
    noted = site.new["new1"].run("restored")["agents"]
    made = [client.api.inspect_container(one["container"])["Created"] for one in noted if one["container"]]
    assert max(one["restored"] for one in noted)[:26] < min(made)[:26], "volumes of all come before the first container"

    (volume(site.daemons["new1"], "agent-web-workspace") / "since").write_text("the agent went on")
    code, again = site.restore(*onto)
    assert code == 0, again
    assert {host["changed"] for host in again["hosts"]} == {False}, json.dumps(again)
    assert set(outcomes(again, "new1").values()) == {"there"}
    assert (volume(site.daemons["new1"], "agent-web-workspace") / "since").exists()

    code, backed = site.fleet("backup", "--batch", "1")
    assert code == 0, json.dumps(backed)
    assert len(site.new["new1"].run("list")["points"]) == 5 and len(site.new["new2"].run("list")["points"]) == 2
    assert not [path for path in site.new["new1"].home.rglob("*.json") if b'definition": {' in path.read_bytes()]


@pytest.mark.parametrize("step", ["restore.volume-swapped", "restored.container-made"])
def test_it_goes_on_where_it_was_killed(site: Site, step: str) -> None:
    site.crash("new1", step)
    code, answer = site.restore("old1=new1")
    assert code != 0 and answer["hosts"][0]["outcome"] == "failed", answer
    first = {one["agent"]: one["restored"] for one in site.new["new1"].run("restored")["agents"]}
    code, answer = site.restore("old1=new1")
    assert code == 0, answer
    assert {name for name, one in outcomes(answer, "new1").items() if one == "there"} == set(first)
    second = {one["agent"]: one["restored"] for one in site.new["new1"].run("restored")["agents"]}
    assert set(second) == {"platform", "web", "reader", "asleep"} and first.items() <= second.items()
    assert_all_as_of(site, site.run_ids[1], "agent-web-workspace", "agent-reader-workspace", SHARED)
    states = site.states("new1")
    assert states == {"agent-web": "running", "agent-reader": "running", "agent-asleep": "created"}
    assert list((site.daemons["new1"].data_root / "volumes").glob("*/.trinity-snap-*")) == []


def test_what_was_restored_and_is_gone_or_another_is_restored_again(site: Site) -> None:
    assert site.restore("old2=new2")[0] == 0
    client = site.daemons["new2"].client
    for name in ("agent-db", "agent-cache"):
        client.containers.get(name).remove(force=True)
    client.volumes.get("agent-db-workspace").remove()
    client.volumes.create("agent-db-workspace")
    code, answer = site.restore("old2=new2")
    assert (code, outcomes(answer, "new2")) == (0, {"cache": "there", "db": "restored"}), answer
    assert_all_as_of(site, site.run_ids[1], "agent-db-workspace", "agent-cache-workspace")


def test_the_points_of_a_fleet_run_or_of_a_time_are_taken(site: Site) -> None:
    code, answer = site.restore("old2=new2", more=("--run", site.run_ids[0][:8]))
    assert code == 0, answer
    assert_all_as_of(site, site.run_ids[0], "agent-db-workspace", "agent-cache-workspace")
    created = agents_of(answer, "new2")["db"]["created"]
    code, answer = site.restore("old2:db=new2", more=("--at", created))
    assert (code, outcomes(answer, "new2")) == (0, {"db": "there"})
    code, answer = site.restore("old2=new2", more=("db",))
    assert (code, outcomes(answer, "new2")) == (0, {"db": "restored"}), "another point than the one that is there"
    assert_all_as_of(site, site.run_ids[1], "agent-db-workspace")
    assert site.states("new2") == {"agent-db": "running", "agent-cache": "running"}


def test_a_container_whose_shared_folder_went_elsewhere_is_not_made_and_the_others_run(site: Site) -> None:
    code, answer = site.restore("old1:reader=new2", "old2:cache=new2")
    assert code != 0
    found = agents_of(answer, "new2")
    assert found["reader"]["outcome"] == "restored" and f"It mounts {SHARED}" in found["reader"]["error"]
    assert site.states("new2") == {"agent-cache": "running"}
    assert SHARED not in [one.name for one in site.daemons["new2"].client.volumes.list()]
    site.daemons["new2"].client.volumes.create(SHARED)
    code, answer = site.restore("old1:reader=new2", "old2:cache=new2")
    assert (code, site.states("new2")) == (0, {"agent-cache": "running", "agent-reader": "running"}), answer


@pytest.mark.parametrize(
    ("onto", "more", "words"),
    [
        (("old1=new1", "old2:wep=new2"), (), "old2 has no recovery point of wep"),
        (("old1=new9", "old2=new2"), (), "The inventory has no host new9"),
        (("old2=new1", "old3=new1"), (), "The repository of old3 cannot be read"),
        (("old2=new1",), ("--run", "3" * 32), "has no recovery point of the run"),
    ],
    ids=str,
)
def test_a_mapping_that_cannot_be_is_said_and_its_host_is_left_alone(
    lost: Site, onto: tuple[str, ...], more: tuple[str, ...], words: str
) -> None:
    if not lost.new:
        lost.fresh()
    for product in lost.new.values():
        (product.home / "calls").unlink(missing_ok=True)
    code, answer = lost.restore(*onto, more=more)
    assert code != 0
    bad = [host for host in answer["hosts"] if host["outcome"] == "failed"]
    assert bad and all(words in host["message"] and "Nothing was restored" in host["message"] for host in bad), answer
    for host in bad:
        assert not (lost.new[host["host"]].home / "calls").exists()
