"""Sealed hosts from the control node: made, backed up, given other recipients. The tests build on each other, in order."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.conftest import Host, Played
from tests.fleet.test_localhost import mount_point

pytestmark = [pytest.mark.host, pytest.mark.fleet]


class Control:
    """What is on the control node only: identities, recipient files, and a policy that names the host's repository."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.home = host.directory.parent / "control"
        self.policy = self.home / "policy.yml"

    def file(self, name: str) -> str:
        return str(self.home / f"{name}.key.recipient")

    def snap(self, *arguments: str) -> Any:
        done = subprocess.run(
            [str(self.host.command), *arguments, "--json", "--policy", str(self.policy)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def install(self, now: list[str], later: list[str] | None = None, *options: str) -> Played:
        files = {
            "trinity_snap_recipients": [self.file(name) for name in now],
            "trinity_snap_recipients_next": [self.file(name) for name in later or []],
        }
        return self.host.play("install", *options, trinity_snap_units=False, **files)

    def points(self, name: str) -> int:
        return len(self.snap("list", "--identity", str(self.home / f"{name}.key"))["points"])


@pytest.fixture(scope="module")
def control(host: Host) -> Control:
    from trinity_snap.repository.identity import save_identity, save_recipient
    from trinity_snap.repository.keys import generate_identity

    made = Control(host)
    made.home.mkdir()
    for name in ("operator", "paper", "new"):
        identity = generate_identity(name)
        save_identity(made.home / f"{name}.key", identity, name)
        save_recipient(made.file(name), identity.recipient)
    made.policy.write_text(
        json.dumps(
            {
                "target": str(host.directory / "repository"),
                "keys": {"identity": "operator.key"},
                "state": {"directory": str(made.home / "state")},
            }
        )
    )
    return made


def test_the_role_makes_a_sealed_host(host: Host, control: Control) -> None:
    played = control.install(["operator", "paper"])
    assert played.code == 0, played.output
    kept = {path.name for path in host.policy.parent.iterdir()}
    assert kept == {"policy.yml", "host.key", "recipients.pins"}
    assert not (host.directory / "words").exists()
    assert {one["label"] for one in host.snap("key", "list")["recipients"]} == {"operator", "paper"}


def test_no_identity_is_anywhere_on_the_host_or_in_the_output(host: Host, control: Control) -> None:
    played = control.install(["operator", "paper"], None, "-vvv")
    assert (played.code, played.stats["changed"]) == (0, 0), played.output
    seeds = [json.loads((control.home / f"{name}.key").read_text())["seed"] for name in ("operator", "paper")]
    for path in host.directory.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 20:
            assert not any(seed.encode() in path.read_bytes() for seed in seeds), path
    assert not any(seed in played.output for seed in seeds)


def test_it_backs_up_and_only_the_control_node_reads(host: Host, control: Control) -> None:
    labels = {"trinity.platform": "agent", "trinity.agent-name": "web"}
    host.daemon.run("agent-web", volumes=["agent-web-workspace:/home/developer"], labels=labels)
    (mount_point(host, "agent-web-workspace") / "notes").write_text("first")
    played = host.play("backup")
    assert played.code == 0, played.output
    done = subprocess.run(
        [str(host.command), "list", "--json", "--policy", str(host.policy)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, json.loads(done.stdout)["error"]) == (1, "IdentityNeeded")
    assert [agent["agent"] for agent in host.snap("status")["agents"]] == ["web"]
    out = control.home / "out"
    control.snap("restore", "web", "--to", str(out))
    assert [path.read_text() for path in Path(out).rglob("notes")] == ["first"]


def test_a_fleet_moves_to_another_recipient_without_missing_a_backup(host: Host, control: Control) -> None:
    def backs_up() -> None:
        played = host.play("backup")
        assert played.code == 0, played.output

    planned = control.install(["operator", "paper"], ["new", "paper"], "--check", "--diff")
    assert (planned.code, planned.stats["changed"]) == (0, 1), planned.output
    played = control.install(["operator", "paper"], ["new", "paper"])
    assert (played.code, played.stats["changed"]) == (0, 1), played.output
    backs_up()
    control.snap("key", "add", control.file("new"))
    retired = json.loads(Path(control.file("operator")).read_text())["id"]
    control.snap("key", "retire", retired, "--identity", str(control.home / "new.key"))
    backs_up()
    assert control.install(["new", "paper"]).stats["changed"] == 1
    backs_up()
    assert (control.points("new"), control.points("paper"), control.points("operator")) == (4, 4, 2)
    assert control.install(["new", "paper"]).stats["changed"] == 0


def test_a_host_with_other_recipients_than_its_repository_stops(host: Host, control: Control) -> None:
    assert control.install(["operator", "paper"]).stats["changed"] == 1
    played = host.play("backup")
    assert played.code == 2
    assert "is pinned to" in played.output, played.output
    assert control.points("new") == 4
