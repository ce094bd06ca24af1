"""The playbooks on one host, from nothing to restored. The tests of this file build on each other, in order."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.fleet.conftest import Host

pytestmark = [pytest.mark.host, pytest.mark.fleet]

VOLUMES = ("agent-web-workspace", "agent-web-public")


def mount_point(host: Host, volume: str) -> Path:
    return Path(host.daemon.client.volumes.get(volume).attrs["Mountpoint"])


def test_check_mode_is_true_on_a_virgin_host_and_leaves_no_trace(host: Host) -> None:
    played = host.play("install", "--check", "--diff")
    assert played.code == 0, played.output
    assert played.stats["changed"] == 2, played.output
    for playbook, variables in (("backup", {}), ("restore", {"trinity_snap_restore_agents": ["web"]})):
        played = host.play(playbook, "--check", "--diff", **variables)
        assert (played.code, played.stats["changed"]) == (0, 1), played.output
    assert not host.directory.exists()


def test_a_backup_of_a_host_without_trinity_snap_says_what_to_do(host: Host) -> None:
    played = host.play("backup")
    assert played.code == 2
    assert "Apply the role trinity.snap.install first" in played.output


def test_installing_makes_everything_a_host_needs(host: Host) -> None:
    played = host.play("install")
    assert played.code == 0, played.output
    assert (
        "trinity-snap" in subprocess.run([host.command, "--version"], capture_output=True, text=True, check=True).stdout
    )
    assert host.snap("list")["points"] == []
    assert os.listdir(host.directory) and not list(host.directory.glob("opt.*")), "the archive is gone"


def test_the_recovery_words_are_with_the_operator_only(host: Host) -> None:
    words = host.directory / "words/localhost.txt"
    assert stat.S_IMODE(words.stat().st_mode) == 0o600
    listed = [line.split()[1] for line in words.read_text().splitlines() if line[:2].strip().isdigit()]
    assert len(listed) == 24
    assert not list(host.directory.glob("etc/*words*"))


def test_installing_again_changes_nothing(host: Host) -> None:
    for options in ((), ("--check",)):
        played = host.play("install", *options)
        assert (played.code, played.stats["changed"]) == (0, 0), played.output


def test_a_host_keeps_its_previous_environment_when_another_is_installed(host: Host, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (archive,) = (host.collections.parent / "cache").glob("wheels-*.tar")
    subprocess.run(["tar", "-xf", archive, "-C", wheels], check=True)
    before = os.readlink(host.directory / "opt/current")
    played = host.play("install", trinity_snap_wheelhouse=str(wheels))
    assert played.code == 0, played.output
    after = os.readlink(host.directory / "opt/current")
    assert before != after
    assert sorted(os.listdir(host.directory / "opt/venvs")) == sorted(
        os.path.basename(name) for name in (before, after)
    )
    assert host.snap("list")["points"] == []


def test_a_broken_wheelhouse_leaves_the_installed_version_in_use(host: Host, tmp_path: Path) -> None:
    (tmp_path / "trinity_snap-9.9.9-py3-none-any.whl").write_bytes(b"not a wheel")
    (tmp_path / "pip-99-py3-none-any.whl").write_bytes(b"not a wheel")
    before = os.readlink(host.directory / "opt/current")
    assert host.play("install", trinity_snap_wheelhouse=str(tmp_path)).code == 2
    assert os.readlink(host.directory / "opt/current") == before
    assert host.snap("list")["points"] == []


def test_the_main_job(host: Host) -> None:
    labels = {"trinity.platform": "agent", "trinity.agent-name": "web"}
    mounts = [f"{VOLUMES[0]}:/home/developer", f"{VOLUMES[1]}:/home/developer/public"]
    host.daemon.run("agent-web", volumes=mounts, labels=labels)
    (mount_point(host, VOLUMES[0]) / "notes").write_text("first")
    (mount_point(host, VOLUMES[1]) / "page").write_text("hello")

    planned = host.play("backup", "--check", "--diff")
    assert (planned.code, planned.stats["changed"]) == (0, 1), planned.output
    assert host.snap("list")["points"] == []

    played = host.play("backup")
    assert (played.code, played.stats["changed"]) == (0, 1), played.output
    assert [point["agent"] for point in host.snap("list")["points"]] == ["web"]

    (mount_point(host, VOLUMES[0]) / "notes").unlink()
    planned = host.play("restore", "--check", "--diff", trinity_snap_restore_agents="web")
    assert planned.code == 0, planned.output
    assert not (mount_point(host, VOLUMES[0]) / "notes").exists()
    played = host.play("restore", trinity_snap_restore_agents="web")
    assert played.code == 0, played.output
    assert (mount_point(host, VOLUMES[0]) / "notes").read_text() == "first"
    assert host.daemon.client.containers.get("agent-web").status == "running"


def test_an_agent_is_restored_beside_everything_or_under_another_name(host: Host, tmp_path: Path) -> None:
    place = tmp_path / "look"
    played = host.play("restore", trinity_snap_restore_agents=["web"], trinity_snap_restore_to=str(place))
    assert played.code == 0, played.output
    assert (place / VOLUMES[0] / "notes").read_text() == "first"
    played = host.play("restore", trinity_snap_restore_agents=["web"], trinity_snap_restore_as="web-2")
    assert played.code == 0, played.output
    assert (mount_point(host, "agent-web-2-workspace") / "notes").read_text() == "first"


def test_a_lost_host_gets_containers_and_volumes_back(host: Host) -> None:
    host.daemon.clean()
    played = host.play("restore", trinity_snap_restore_agents=["*"], trinity_snap_restore_containers=True)
    assert played.code == 0, played.output
    assert (mount_point(host, VOLUMES[1]) / "page").read_text() == "hello"
    container = host.daemon.client.containers.get("agent-web")
    assert {mount["Name"] for mount in container.attrs["Mounts"]} == set(VOLUMES)
    assert container.labels["trinity.agent-name"] == "web"


def test_a_lost_host_without_keys_gets_everything_back_with_a_grant(host: Host) -> None:
    host.daemon.clean()
    sealed = host.directory / "sealed/policy.yml"
    sealed.parent.mkdir()
    state = str(host.directory / "sealed/state")
    target = str(host.directory / "repository")
    sealed.write_text(json.dumps({"target": target, "keys": {"identity": None}, "state": {"directory": state}}))
    played = host.play(
        "restore", trinity_snap_policy=str(sealed), trinity_snap_restore_agents=["*"],
        trinity_snap_restore_containers=True, trinity_snap_restore_grant=True,
        trinity_snap_restore_grant_policy=str(host.policy), trinity_snap_restore_grant_command=str(host.command),
    )  # fmt: skip
    assert (played.code, played.stats["changed"]) == (0, 1), played.output
    assert (mount_point(host, VOLUMES[1]) / "page").read_text() == "hello"
    container = host.daemon.client.containers.get("agent-web")
    assert {mount["Name"] for mount in container.attrs["Mounts"]} == set(VOLUMES)
    assert not list(sealed.parent.glob("*.key"))


def test_an_unknown_agent_fails_and_is_named(host: Host) -> None:
    played = host.play("backup", trinity_snap_agents=["wep"])
    assert played.code == 2
    assert "wep" in played.output
