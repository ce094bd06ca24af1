"""A host as Trinity makes it, with an API that refuses what the real one refuses: a day, a disaster, and everything back."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.faults.trinity import AGENT_KEY, KEY, FakeAgent, FakeTrinity, serve
from tests.host.test_main_job import wait_until
from tests.lab.daemon import Daemon
from tests.lab.images import PYTHON
from tests.lab.product import Product, install, volume
from tests.unit.test_cli_json import assert_same_shape, documented
from trinity_snap import __main__ as entry
from trinity_snap.events import EventJournal

pytestmark = pytest.mark.host

NAMES = ("web", "ledger", "renamed", "trinity-system")
ALL = (*NAMES, *(f"worker-{number}" for number in range(6)))
READERS = ("ledger", "worker-0", "worker-1")
HOME = "/home/developer"


@dataclass
class RealTrinity(FakeTrinity):
    """The fake with containers and volumes of a real Docker behind it."""

    daemon: Daemon = field(kw_only=True)

    def _act(self, method: str, name: str, action: str, body: Any) -> tuple[int, object]:
        answer = super()._act(method, name, action, body)
        if (method, action) == ("POST", "start"):
            self.start_container(name)
        return answer

    def start_container(self, name: str) -> None:
        volume_name = self.volume_of(name)
        labels = {"trinity.agent-name": self.agents[name].base or name, "trinity.platform": "agent-workspace"}
        self.daemon.client.volumes.create(volume_name, labels={} if self.agents[name].system else labels)
        mounts = [f"{volume_name}:{HOME}"]
        if name in ("web", *READERS):
            mounts.append(f"agent-web-shared:{HOME}/{'shared-out' if name == 'web' else 'shared-in/web'}")
        self.daemon.run(f"agent-{name}", ["sleep", "infinity"], volumes=mounts, labels={"trinity.platform": "agent"})

    def sweep_docker(self) -> list[str]:
        owned = {self.volume_of(name) for name in self.agents} | {"agent-web-shared"}
        gone = []
        for one in self.daemon.client.volumes.list():
            if "trinity.agent-name" in (one.attrs["Labels"] or {}) and one.name not in owned:
                one.remove()
                gone.append(one.name)
        return gone


@pytest.fixture
def trinity(btrfs_daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[RealTrinity]:
    names = getattr(request, "param", NAMES)
    agents = {name: FakeAgent(True, {"nightly": True, "off": False}) for name in names}
    agents["ledger"].autonomy = False
    agents["renamed"].base = "first-name"
    agents["trinity-system"].system = True
    with serve(RealTrinity(agents=agents, daemon=btrfs_daemon)) as running:
        assert isinstance(running, RealTrinity)
        yield running


@pytest.fixture
def product(btrfs_daemon: Daemon, trinity: RealTrinity, tmp_path: Path) -> Product:
    data = tmp_path / "trinity-data"
    (data / "backups").mkdir(parents=True)
    (data / "trinity.db").write_text("rows")
    (data / "backups" / time.strftime("trinity-backup-%Y%m%d.db", time.gmtime())).touch()
    os.chown(data / "trinity.db", 1000, 1000)
    (data / "trinity.db").chmod(0o640)
    (tmp_path / "etc").mkdir(mode=0o700)
    for key, text in (("trinity-key", KEY), ("agent-key", AGENT_KEY)):
        (tmp_path / "etc" / key).touch(mode=0o600)
        (tmp_path / "etc" / key).write_text(text)
    for name in trinity.agents:
        trinity.start_container(name)
        home = volume(btrfs_daemon, trinity.volume_of(name))
        (home / "data").mkdir()
        (home / "data/state").write_text(name)
        (home / "code").write_text("code")
    shared = volume(btrfs_daemon, "agent-web-shared")
    (shared / "file").write_text("shared")
    ledger = volume(btrfs_daemon, trinity.volume_of("ledger"))
    (ledger / ".trinity").mkdir()
    (ledger / ".trinity/data-paths.yaml").write_text("data_paths: ['data/**']")
    return install(
        tmp_path, btrfs_daemon, trinity={"url": trinity.url, "key_file": "trinity-key", "hold_schedules": True},
        quiesce={"drain": {"budget_seconds": 1}}, platform={"paths": [str(data)]},
        overrides={"ledger": {"paths": "declared"}},
        monitor={"trinity": True, "trinity_key_file": "agent-key", "free_percent": 1},
    )  # fmt: skip


def autonomy(trinity: FakeTrinity) -> dict[str, bool]:
    return {name: agent.autonomy for name, agent in trinity.agents.items()}


def puts(trinity: FakeTrinity) -> list[str]:
    return [path.split("/")[3] for method, path in trinity.asked if method == "PUT"]


def test_schedules_are_held_for_a_run_and_given_back_after_a_kill(product: Product, trinity: RealTrinity) -> None:
    before = autonomy(trinity)
    answer = product.run("backup")
    assert (answer["outcome"], autonomy(trinity)) == ("done", before)
    assert sorted(puts(trinity)) == ["renamed", "renamed", "trinity-system", "web", "web"]
    for step in ("all-paused", "shipping"):
        product.run("backup", code=-9, TRINITY_SNAP_CRASH_AT=step)
        wait_until(lambda: autonomy(trinity) == before, 60)
        product.run("recover")
        assert all(one.status == "running" for one in product.daemon.client.containers.list(all=True))
    assert trinity.agents["web"].enabled == {"nightly": True, "off": False}


@pytest.mark.parametrize("trinity", [ALL], indirect=True, ids=["ten agents"])
def test_after_a_disaster_all_is_back_and_runs_and_alarms_began_and_ended_once(
    product: Product, trinity: RealTrinity, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon, data = product.daemon, tmp_path / "trinity-data"
    daemon.run("trinity-backend", volumes=[f"{data}:/data"])
    answer = product.run("backup")
    assert {one["agent"] for one in answer["agents"]} == {*ALL, "platform"}
    assert {one["consistency"] for one in answer["agents"]} == {"host-crash-consistent"}
    assert product.run("monitor")["well"] is True
    tar = tmp_path / "ledger.tar"
    assert_same_shape(product.run("export", "ledger", "--portable", str(tar)), documented("export"))

    daemon.clean()
    shutil.rmtree(data)
    lost, trinity.agents, trinity.broken = trinity.agents, {}, True
    assert product.run("backup")["agents"][0]["outcome"] == "skipped"
    seen = product.run("monitor", code=10)
    wrong = {f"{one['kind']}:{one['subject']}" for one in seen["alarms"]}
    assert wrong == {"emptied:host", "missing:platform"}
    assert seen["problems"], "whom alarms would go to is down, too"

    daemon.run("trinity-backend")
    refused = product.run("restore", "platform", "--yes", code=2)
    assert "docker stop trinity-backend" in refused["next_step"]
    daemon.client.containers.get("trinity-backend").stop(timeout=0)
    product.run("restore", "platform", "--yes")
    status = (data / "trinity.db").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (1000, 1000, 0o640)
    assert (data / "trinity.db").read_text() == "rows"
    daemon.client.containers.get("trinity-backend").start()
    trinity.agents, trinity.broken = lost, False  # its database has its rows again
    for _ in range(2):
        product.run("monitor", code=1)
    assert trinity.open_alarms() == ["emptied:host"]

    for name in ALL:  # in this process, as ten starts of the command take longer than what it does
        capsys.readouterr()
        assert entry.run(["restore", name, "--yes", "--json", "--quiet", "--policy", str(product.policy_file)]) == 0
        restored = json.loads(capsys.readouterr().out)
        assert f"Trinity has started {name}." in restored["notes"], restored["notes"]
        assert trinity.sweep_docker() == []
    for name in ALL:
        assert daemon.client.containers.get(f"agent-{name}").status == "running"
        assert (volume(daemon, trinity.volume_of(name)) / "data/state").read_text() == name
    assert trinity.volume_of("renamed") == "agent-first-name-workspace"
    assert not (volume(daemon, trinity.volume_of("ledger")) / "code").exists(), "it was not declared"
    assert (volume(daemon, "agent-web-shared") / "file").read_text() == "shared"

    assert product.run("backup")["outcome"] == "done"
    assert product.run("monitor")["well"] is True
    assert trinity.open_alarms() == []
    told = [one.body["message"].rpartition(", ")[2] for one in trinity.notifications]
    alarms = [one for one in EventJournal(tmp_path / "state").read() if one["event"] == "alarm"]
    for news in ("raised", "cleared"):
        noted = [f"{one['kind']}:{one['subject']}" for one in alarms if one["news"] == news]
        assert sorted(noted) == sorted(set(noted)) == sorted(wrong), "each once"
    assert sorted(told) == sorted(set(told))
    assert set(told) <= wrong


_WRITES_BOTH = """
import os
number = 0
while True:
    number += 1
    for place in ("/data/first", "/web/data/second"):
        with open(place + ".new", "w") as file:
            file.write(str(number))
        os.replace(place + ".new", place)
"""


def test_the_platform_is_of_the_same_instant_as_the_agents(
    product: Product, trinity: RealTrinity, tmp_path: Path
) -> None:
    mounts = [f"{tmp_path}/trinity-data:/data", f"{trinity.volume_of('web')}:/web"]
    product.daemon.run("trinity-backend", ["python3", "-c", _WRITES_BOTH], image=PYTHON, volumes=mounts)
    wait_until((tmp_path / "trinity-data/first").exists, 30)
    last = 0
    for number in range(3):
        assert product.run("backup", "platform", "web")["outcome"] == "done"
        found = {}
        for agent, name in (("platform", "first"), ("web", "second")):
            product.run("restore", agent, "--to", str(tmp_path / f"{agent}-{number}"))
            (restored,) = (tmp_path / f"{agent}-{number}").rglob(name)
            found[name] = int(restored.read_text())
        assert found["first"] - found["second"] in (0, 1), found
        assert found["second"] > last
        last = found["second"]


def test_portable_data_goes_back_into_an_agent_that_runs(
    product: Product, trinity: RealTrinity, tmp_path: Path
) -> None:
    daemon = product.daemon
    product.run("backup", "ledger")
    tar = tmp_path / "ledger.tar"
    product.run("export", "ledger", "--portable", str(tar))
    ledger = volume(daemon, trinity.volume_of("ledger"))
    (ledger / "data/state").write_text("spoilt")
    (ledger / "code").write_text("newer code")
    assert product.run("import", "ledger", str(tar), code=2)["error"] == "RestoreRefused", "it asks first"
    imported = product.run("import", "ledger", str(tar), "--yes")
    assert_same_shape(imported, documented("import"))
    assert (imported["outcome"], len(imported["previous"])) == ("imported", 1)
    assert imported["manifest"]["agent_name"] == "ledger"
    assert ((ledger / "data/state").read_text(), (ledger / "code").read_text()) == ("ledger", "newer code")
    assert daemon.client.containers.get("agent-ledger").status == "running"
    (ledger / "data/state").write_text("spoilt again")
    product.run("restore", "ledger", "--yes")
    assert ((ledger / "data/state").read_text(), (ledger / "code").read_text()) == ("ledger", "newer code")


def test_a_start_that_trinity_refuses_leaves_the_data_in_place(product: Product, trinity: RealTrinity) -> None:
    product.run("backup", "web")
    product.daemon.clean()
    del trinity.agents["web"]
    restored = product.run("restore", "web", "--yes")
    assert any("Trinity has no such agent" in note for note in restored["notes"])
    assert (volume(product.daemon, "agent-web-workspace") / "data/state").read_text() == "web"
