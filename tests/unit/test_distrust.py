"""Which filesystems are walked because events were missed on them."""

import json
import os
from pathlib import Path

from trinity_snap.quiesce.outcome import AgentHold, CriticalResult
from trinity_snap.snapshot.mounts import MountPoint
from trinity_snap.snapshot.precopy import PrecopyProvider, Settings
from trinity_snap.snapshot.watching import Distrust

DISK = MountPoint(Path("/data"), "/", "ext4", "/dev/sda1", frozenset())
OTHER = MountPoint(Path("/"), "/", "ext4", "/dev/sda2", frozenset())


def test_distrust_is_of_one_filesystem_and_lasts(tmp_path):
    file = tmp_path / "precopy.json"
    assert Distrust(file).why(DISK) == ""
    Distrust(file).add(DISK, "something was missed")
    assert Distrust(file).why(DISK) == "something was missed"
    assert Distrust(file).why(OTHER) == ""
    assert Distrust(None).why(DISK) == ""


def test_a_new_kernel_gets_a_new_chance_and_a_broken_file_is_none(tmp_path):
    file = tmp_path / "precopy.json"
    Distrust(file).add(DISK, "something was missed")
    document = json.loads(file.read_text())
    assert document["kernel"] == os.uname().release
    file.write_text(json.dumps(document | {"kernel": "5.15.0"}))
    assert Distrust(file).why(DISK) == ""
    for broken in ("{", "[]", '{"kernel": 1, "walk": []}', "null"):
        file.write_text(broken)
        assert Distrust(file).why(DISK) == ""


def test_a_missed_change_weakens_the_label(tmp_path):
    provider = PrecopyProvider([], Settings(tmp_path))
    agents = {"held": AgentHold("frozen"), "resting": AgentHold("at rest"), "free": AgentHold("running")}
    result = CriticalResult(0, agents=agents)
    assert result.consistency("held", [provider]) == "host-crash-consistent"
    assert result.shortfall("held", [provider]) == ""
    provider._missed = {("volume", "v"): [b"file"]}
    for agent in agents:
        assert result.consistency(agent, [provider]) == "file-consistent"
    assert "file" in result.shortfall("held", [provider])
    assert "file" in result.shortfall("resting", [provider])
    assert result.shortfall("free", [provider]) == ""  # it asked for no more
