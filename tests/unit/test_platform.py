"""Trinity's own data: not exchanged under those who have it open, not mixed, and its dumps are looked at."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from trinity_snap.errors import RestoreRefused
from trinity_snap.monitor.platform import of_platform
from trinity_snap.policy.schema import Policy
from trinity_snap.restore.plan import RestorePlan
from trinity_snap.trinity.platform import dump_warnings, refuse_while_in_use


def plan(live: Path, *paths: bytes, agent: str = "platform", mode: str = "swap") -> RestorePlan:
    volume = SimpleNamespace(live=live, paths=paths, how="paths" if paths else "swap")
    return cast("RestorePlan", SimpleNamespace(point=SimpleNamespace(agent=agent), mode=mode, volumes=[volume]))


def docker(*containers: dict[str, Any]) -> Any:
    return SimpleNamespace(api=SimpleNamespace(containers=lambda: list(containers)))


def container(
    name: str, source: str = "", state: str = "running", service: str = "", project: str = ""
) -> dict[str, Any]:
    labels = {
        key: value
        for key, value in (("com.docker.compose.service", service), ("com.docker.compose.project", project))
        if value
    }
    return {"Names": [f"/{name}"], "State": state, "Labels": labels, "Mounts": [{"Source": source}] if source else []}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    data = tmp_path / "trinity-data"
    data.mkdir()
    return data


def test_it_is_refused_while_backend_and_scheduler_run_and_says_what_to_do(data: Path):
    running = docker(
        container("trinity-backend", str(data)), container("t-scheduler-1", str(data), "paused", "scheduler", "t"),
        container("agent-web"), container("trinity-redis", str(data)),
    )  # fmt: skip
    with pytest.raises(RestoreRefused) as refused:
        refuse_while_in_use(plan(data), running)
    assert "while t-scheduler-1 and trinity-backend run" in refused.value.message
    assert "docker stop t-scheduler-1 trinity-backend" in refused.value.next_step
    assert "never `docker compose down`" in refused.value.next_step


@pytest.mark.parametrize(
    "containers",
    [
        lambda data: [],
        lambda data: [container("trinity-backend", str(data), "exited")],
        lambda data: [container("agent-backend", str(data))],
        lambda data: [
            container("mine-backend-1", "/other", service="backend", project="mine"),
            container("x", str(data), project="t"),
        ],
    ],
    ids=["none", "stopped", "agent", "another installation"],
)
def test_it_goes_on_when_nobody_has_it_open(data: Path, containers: Callable[[Path], list[dict[str, Any]]]):
    refuse_while_in_use(plan(data), docker(*containers(data)))


def test_a_backend_is_found_without_a_mount_of_the_data_and_by_one_above_or_below(data: Path):
    for one in (
        container("trinity-backend"),
        container("x", str(data / "sub"), service="backend", project="x"),
        container("x", str(data.parent), service="scheduler", project="x"),
    ):
        with pytest.raises(RestoreRefused):
            refuse_while_in_use(plan(data), docker(one))


def test_looking_at_it_elsewhere_and_other_agents_are_not_refused(data: Path):
    running = docker(container("trinity-backend", str(data)))
    refuse_while_in_use(plan(data, mode="directory"), running)
    refuse_while_in_use(plan(data, agent="web"), running)


@pytest.mark.parametrize("beside", ["trinity.db-wal", "trinity.db-shm", "trinity.db-journal"])
def test_a_database_does_not_come_beside_the_journal_of_another_time(data: Path, beside: str):
    (data / "trinity.db").touch()
    (data / beside).touch()
    with pytest.raises(RestoreRefused, match=beside):
        refuse_while_in_use(plan(data, b"trinity.db"), None)
    with pytest.raises(RestoreRefused, match=beside):
        refuse_while_in_use(plan(data / "trinity.db"), None)
    refuse_while_in_use(plan(data, b"trinity.db", beside.encode()), None)
    refuse_while_in_use(plan(data), None)  # the whole directory: all of one time


NOW = datetime(2026, 11, 24, 3, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("names", "database", "says"),
    [
        (["trinity-backup-20261123.db"], True, ""),
        (["trinity-backup-20261122.db"], True, "2026-11-22"),
        (["trinity-backup-20261101.dump", "trinity-backup-20261123.dump"], False, ""),
        (["trinity-backup-20261101.dump"], False, "the dump is all there is of it"),
        ([], True, "has made no dump"),
        ([], False, ""),
        (["other.db", "trinity-backup-x.db"], False, ""),
    ],
)
def test_stale_dumps_are_told(data: Path, names: list[str], database: bool, says: str):
    (data / "backups").mkdir()
    for name in names:
        (data / "backups" / name).touch()
    if database:
        (data / "trinity.db").touch()
    warnings = dump_warnings([data, data / "none"], NOW)
    assert len(warnings) == bool(says)
    assert says in "".join(warnings)


def test_paths_that_are_not_there_and_dumps_that_are_not_made_any_more_alarm(data: Path):
    def wrong(*paths: Path) -> list[str]:
        policy = Policy.model_validate({"platform": {"paths": [str(path) for path in paths]}})
        return [f"{one.kind} {one.severity}" for one in of_platform(policy, NOW)]

    (data / "backups").mkdir()
    (data / "trinity.db").touch()
    assert wrong(data) == [], "one that makes no dumps at all is no alarm"
    (data / "backups" / "trinity-backup-20261123.db").touch()
    assert wrong(data) == []
    (data / "backups" / "trinity-backup-20261123.db").rename(data / "backups" / "trinity-backup-20261121.db")
    assert wrong(data) == ["dumps warning"]
    assert wrong(data, data.parent / "not-mounted") == ["missing critical", "dumps warning"]
    assert wrong() == []
