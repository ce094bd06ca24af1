"""Agents that are gone: not stale for ever, not silently either when all of them are, and expected again once they are back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.lab.events import backup, day, part, verify
from tests.unit.test_cli_repository import Host, host, make_host, repository, run_record
from trinity_snap.events import EventJournal, Facts
from trinity_snap.events.facts import fold
from trinity_snap.monitor import find_conditions
from trinity_snap.policy.schema import Policy
from trinity_snap.report import removed
from trinity_snap.report.sources import pictures_in

__all__ = ["host", "make_host", "repository"]  # fixtures


def seen(host: Host, *names: str) -> None:
    """What `monitor` notes when it looks which agents are here."""
    event: dict[str, Any] = {
        "time": "2026-01-05T00:00:00.000Z",
        "event": "agents",
        "agents": list(names),
        "whole": True,
    }
    EventJournal(host.home / "state").append(event)


def test_an_agent_that_is_gone_is_not_stale_and_its_points_stay(host: Host, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    host.back_up()
    run_record(host, 1, agent="old", outcome="failed", error="no")
    seen(host, "web", "old")
    assert host.json("status", "--max-age", "1h", code=1)["stale"] == ["old"]
    seen(host, "web")
    answer = host.json("status", "--max-age", "1h")
    old, web = answer["agents"]
    assert (answer["stale"], old["removed"], web["removed"]) == ([], True, False)
    assert "no longer on this host, since 2026-01-05" in old["warnings"][-1]
    assert "retention.removed_agents" in old["warnings"][-1]
    assert not any("failed" in warning for warning in old["warnings"]), "that is of no consequence any more"
    seen(host, "web", "old")
    assert host.json("status", "--max-age", "1h", code=1)["stale"] == ["old"]


def test_one_that_is_back_is_expected_before_any_run_notes_it(host: Host, monkeypatch: pytest.MonkeyPatch):
    host.back_up()
    seen(host, "web")
    seen(host)
    monkeypatch.setattr(removed, "agents_here", lambda policy: {"web"})
    (web,) = host.json("status")["agents"]
    assert web["removed"] is False
    monkeypatch.setattr(removed, "agents_here", lambda policy: set())
    (web,) = host.json("status")["agents"]
    assert web["removed"] is True


def test_what_the_policy_leaves_out_is_not_stale_where_there_is_neither_docker_nor_journal(host: Host):
    run_record(host, 1, agent="scratch-1", outcome="failed", error="no")
    assert host.json("status", "--max-age", "1h", code=1)["stale"] == ["scratch-1"]
    host.json("policy", "set", "agents.exclude=['scratch-*']")
    answer = host.json("status", "--max-age", "1h")
    assert (answer["stale"], answer["agents"][0]["removed"]) == ([], True)
    assert "agents.exclude" in answer["agents"][0]["warnings"][-1]


def test_a_page_made_of_that_answer_shows_it_as_gone(tmp_path: Path):
    agent = {
        "agent": "old", "point": "p", "created": "2026-01-02T00:00:00.000Z", "files": 1, "bytes": 1, "pause_seconds": 0,
        "duration_seconds": 0, "consistency": "x", "removed": True,
    }  # fmt: skip
    here = {**agent, "agent": "web", "removed": False}
    (tmp_path / "status.json").write_text(json.dumps({"agents": [agent, here]}))
    (picture,) = pictures_in(tmp_path / "status.json", day(9))
    assert {one.agent: one.state for one in picture.agents} == {"old": "gone", "web": "critical"}


@pytest.mark.parametrize(
    ("left", "settings", "alarms"),
    [
        (["web"], {}, set()),
        (["platform"], {}, {"emptied:host"}),
        ([], {}, {"emptied:host"}),
        (["new"], {}, set()),
        ([], {"agents": {"discover": {"trinity": False}}}, set()),
    ],
)
def test_one_that_is_gone_is_no_alarm_and_all_of_them_are(left: list[str], settings: dict[str, Any], alarms: set[str]):
    facts = Facts()
    fold(facts, verify(1))
    fold(facts, backup(2, [part("web"), part("old"), part("platform")]))
    fold(facts, [{"seq": 3, "time": "2026-01-03T06:00:00.000Z", "event": "agents", "agents": left, "whole": True}])
    policy = Policy.model_validate({"target": "/nowhere", **settings})
    assert {one.key for one in find_conditions(facts, policy, day(2.5))} == alarms
    fold(facts, backup(4, [part("web")]))
    assert not any(one.kind == "emptied" for one in find_conditions(facts, policy, day(4)))
