"""A whole run of a host without Docker: what `status` gets to know of it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.unit.test_cli import run
from trinity_snap.backup.engine import Engine
from trinity_snap.backup.result import last_runs
from trinity_snap.backup.run import run_backup
from trinity_snap.policy.load import load_policy
from trinity_snap.policy.schema import Policy
from trinity_snap.progress import NullProgress
from trinity_snap.report.status import assemble

NO_DOCKER = "unix:///nonexistent"


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Policy:
    monkeypatch.setenv("DOCKER_HOST", NO_DOCKER)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_bytes(b"x" * 100_000)
    path = tmp_path / "etc/policy.yml"
    path.parent.mkdir(mode=0o700)
    settings = {
        "target": str(tmp_path / "target"), "state": {"directory": str(tmp_path / "state")},
        "agents": {"discover": {"trinity": False}}, "platform": {"paths": [str(tmp_path / "data")]},
    }  # fmt: skip
    path.write_text(json.dumps(settings))
    done = run("init", "--policy", str(path), "--json", DOCKER_HOST=NO_DOCKER)
    assert done.returncode == 0, done.stdout + done.stderr
    return load_policy(path)


def test_a_run_that_is_interrupted_is_remembered_as_failed(policy: Policy) -> None:
    class Interrupting(NullProgress):
        def stage(self, name: str, total: int | None = None) -> None:
            if name == "shipping":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_backup(policy, progress=Interrupting())
    (last,) = last_runs(policy.state.directory)
    assert last["outcome"] == "failed"
    (agent,) = assemble([last], points=[]).agents
    assert any("interrupted" in warning for warning in agent.warnings)
    assert run_backup(policy).outcome == "done"


def test_the_time_of_an_agent_has_the_passes_before_the_snapshot_in_it(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Engine.ship_pass
    seconds: list[float] = []

    def slow(self: Engine, *arguments: object) -> object:
        time.sleep(0.3)
        seconds.append(0.3)
        return real(self, *arguments)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(Engine, "ship_pass", slow)
    (agent,) = run_backup(policy).agents
    assert agent.duration_seconds >= sum(seconds) > 0
