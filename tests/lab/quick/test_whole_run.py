"""The whole product in the quick lab: `backup`, `restore`, and what a run says when its snapshot overflows."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.quick.boot import CHECKOUT
from tests.lab.quick.volumes import volume_group
from trinity_snap.snapshot.logicalvolumes import our_snapshots

ENVIRONMENT = {**os.environ, "DOCKER_HOST": "unix:///run/there-is-no-docker"}


class Host:
    """trinity-snap on a host without Docker that protects some directories as `platform`."""

    def __init__(self, home, paths, **snapshot):
        self.policy = home / "etc" / "policy.yml"
        self.policy.parent.mkdir(parents=True)
        self.policy.write_text(
            json.dumps(
                {
                    "target": str(home / "target"),
                    "state": {"directory": str(home / "state")},
                    "agents": {"discover": {"trinity": False}},
                    "platform": {"paths": [str(path) for path in paths]},
                    "snapshot": snapshot,
                }
            )
        )
        self.run("init")

    def start(self, *arguments, **more):
        return subprocess.Popen(
            [sys.executable, "-m", "trinity_snap", *arguments, "--json"],
            cwd=CHECKOUT,
            env={**ENVIRONMENT, "TRINITY_SNAP_POLICY": str(self.policy), **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments, code=0, **more):
        process = self.start(*arguments, **more)
        output, errors = process.communicate(timeout=120)
        assert process.returncode == code, (output, errors)
        return json.loads(output)


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    with volume_group("lab-2", "/dev/ubdd", tmp_path_factory.mktemp("group") / "mnt") as made:
        made.pool()
        made.thick("thick", "xfs", "320M")
        made.thin("thin", "ext4")
        yield made


def fill(place, seed):
    (place / "deep").mkdir(parents=True, exist_ok=True)
    for number in range(60):
        (place / "deep" / f"{number}").write_bytes(bytes([seed, number]) * (number * 97))
    os.link(place / "deep" / "7", place / "hard")
    os.symlink("deep/8", place / "soft")
    with open(place / "sparse", "wb") as file:
        file.truncate(10 << 20)
        file.seek(5 << 20)
        file.write(b"middle")


def contents(place):
    return {
        str(path.relative_to(place)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(place.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def test_what_is_backed_up_from_thick_and_thin_comes_back(group, tmp_path):
    places = [group.place / name / "data" for name in ("thick", "thin")]
    for seed, place in enumerate(places):
        fill(place, seed)
    before = {place.parent.name: contents(place) for place in places}
    host = Host(tmp_path, places)
    process = host.start("backup", TRINITY_SNAP_HANG_AT="shipping")
    os.waitpid(process.pid, os.WUNTRACED)
    assert len(our_snapshots()) == 2
    for place in places:
        shutil.rmtree(place)  # the snapshot has it
    os.kill(process.pid, signal.SIGCONT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, (output, errors)
    (agent,) = json.loads(output)["agents"]
    assert (agent["provider"], agent["consistency"], agent["problems"]) == ("lvm+lvm-thin", "crash-consistent", [])
    assert our_snapshots() == ()
    host.run("restore", "platform", "--to", str(tmp_path / "out"))
    found = {}
    for deep in (tmp_path / "out").rglob("deep"):
        inside = contents(deep.parent)
        found["thick" if inside["deep/7"] == before["thick"]["deep/7"] else "thin"] = inside
    assert found == before


def test_a_run_whose_snapshot_overflows_fails_and_says_what_it_needed(group, tmp_path):
    place = group.place / "thick" / "much"
    place.mkdir()
    (place / "file").write_bytes(os.urandom(8 << 20))
    host = Host(tmp_path, [place], lvm={"size": "8MiB"})
    process = host.start("backup", TRINITY_SNAP_HANG_AT="shipping")
    os.waitpid(process.pid, os.WUNTRACED)
    (group.place / "thick" / "noise").write_bytes(os.urandom(40 << 20))
    os.sync()
    os.kill(process.pid, signal.SIGCONT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1, (output, errors)
    (agent,) = json.loads(output)["agents"]
    assert agent["outcome"] == "failed"
    assert "overflowed" in agent["error"]
    assert "had room for 8.0 MiB" in agent["error"]
    assert host.run("list")["points"] == []
    assert our_snapshots() == ()
    assert host.run("recover")["removed"] == []


def test_the_command_agents_tells_the_provider_and_why(group, tmp_path):
    host = Host(tmp_path, [group.place / "thick", group.place / "thin", Path("/run")])
    (agent,) = host.run("agents")["agents"]
    found = {volume["path"]: volume for volume in agent["volumes"]}
    assert [found[str(group.place / name)]["provider"] for name in ("thick", "thin")] == ["lvm", "lvm-thin"]
    assert "lab-2/pool" in found[str(group.place / "thin")]["why"]
    assert "thin pool" in found[str(group.place / "thick")]["better"]
    assert found["/run"]["provider"] == "precopy"
