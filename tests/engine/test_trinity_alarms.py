"""Alarms as Trinity's own notifications: one open for each, closed when it is over, whatever dies or refuses in between."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_monitor_command import Machine
from tests.faults.trinity import AGENT_KEY, KEY, FakeAgent, FakeTrinity, serve
from tests.lab.events import backup, day, part, verify
from trinity_snap.events import EventJournal
from trinity_snap.monitor import Observation, observe
from trinity_snap.monitor.telling import try_sinks
from trinity_snap.policy.load import parse_policy

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="backups read the files of every agent, as root")


@pytest.fixture
def trinity() -> Iterator[FakeTrinity]:
    with serve(FakeTrinity(agents={"trinity-system": FakeAgent(system=True)})) as running:
        yield running


class Watch:
    """A host's journal, and what Trinity hears of it at a moment."""

    def __init__(self, home: Path, trinity: FakeTrinity) -> None:
        self.home, self.trinity = home, trinity
        self.key = home / "key"
        self.key.touch(mode=0o600)
        self.key.write_text(f"{AGENT_KEY}\n")
        self.besides = ""

    @property
    def policy(self) -> Any:
        text = (
            f"host: host\ntarget: /nowhere\nstate: {{directory: {self.home}/state}}\ntrinity: {{url: '{self.trinity.url}'}}\n"
            f"monitor: {{trinity: true, trinity_key_file: key}}\n{self.besides}"
        )
        return parse_policy(text, self.home / "policy.yml")

    def events(self, *events: Iterable[dict[str, Any]]) -> None:
        for event in itertools.chain(*events):
            EventJournal(self.home / "state").append({key: value for key, value in event.items() if key != "seq"})

    def look(self, now: float) -> Observation:
        return observe(self.policy, day(now))

    def posted(self) -> int:
        return len(self.trinity.notifications)

    def open(self) -> list[str]:
        return self.trinity.open_alarms()


@pytest.fixture
def watch(tmp_path: Path, trinity: FakeTrinity) -> Watch:
    watch = Watch(tmp_path, trinity)
    watch.events(verify(1), backup(2, [part("web"), part("ledger")]))
    return watch


def test_an_alarm_is_one_open_notification_and_is_closed_when_it_is_over(watch: Watch):
    assert watch.look(2.5).problems == []
    assert watch.open() == []
    seen = watch.look(3.2)
    assert (seen.told, seen.problems) == ({"trinity": 2}, [])
    assert sorted(watch.open()) == ["late:ledger", "late:web"]
    first = watch.trinity.notifications[0].body
    assert (first["notification_type"], first["priority"], first["category"]) == ("alert", "high", "backup")
    assert first["title"].startswith("[host] backups: ALARM: The last recovery point of")
    assert "directories of this host only" in first["message"]
    for number in range(5):
        watch.look(3.3 + number / 10)
    assert watch.posted() == 2, "told once"
    watch.events(backup(4, [part("web"), part("ledger")]))
    assert watch.look(4).told == {"trinity": 2}
    assert watch.open() == []
    watch.look(4.1)
    assert watch.posted() == 2, "what is over is closed, and makes no news of its own"


def test_what_stays_is_told_again_more_urgently_and_is_still_one(watch: Watch):
    watch.look(3.2)
    watch.look(4.3)
    assert (watch.posted(), sorted(watch.open())) == (4, ["late:ledger", "late:web"])
    assert {one.body["priority"] for one in watch.trinity.notifications if one.status == "pending"} == {"urgent"}
    watch.events(backup(5, [part("web"), part("ledger")]))
    watch.look(5)
    assert watch.open() == []


def test_what_an_operator_has_closed_is_not_opened_again_and_ends_well(watch: Watch):
    watch.look(3.2)
    watch.trinity.notifications[0].status = "dismissed"
    watch.trinity.notifications[1].status = "acknowledged"
    assert watch.look(3.3).told == {}
    watch.events(backup(4, [part("web"), part("ledger")]))
    assert watch.look(4).problems == []
    assert [one.status for one in watch.trinity.notifications] == ["dismissed", "dismissed"]
    assert watch.look(4.1).told == {}


def test_a_trinity_that_is_down_hears_it_later_and_one_that_forgot_it_is_no_obstacle(watch: Watch):
    watch.trinity.broken = True
    assert "database is locked" in watch.look(3.2).problems[0]
    watch.trinity.broken = False
    watch.look(3.3)
    assert (watch.posted(), len(watch.open())) == (2, 2)
    watch.trinity.notifications.clear()
    watch.events(backup(4, [part("web"), part("ledger")]))
    assert watch.look(4).problems == []


def test_an_alarm_that_trinity_never_heard_of_is_not_told_at_all(watch: Watch):
    watch.trinity.broken = True
    watch.look(3.2)
    watch.events(backup(4, [part("web"), part("ledger")]))
    watch.look(4)
    watch.trinity.broken = False
    assert watch.look(4.1).problems == []
    assert watch.posted() == 0


def test_a_state_that_is_lost_doubles_nothing(watch: Watch):
    watch.look(3.2)
    (watch.home / "state/monitor/state.json").unlink()
    assert watch.look(3.3).told == {"trinity": 2}
    assert watch.posted() == 2
    watch.events(backup(4, [part("web"), part("ledger")]))
    watch.look(4)
    assert watch.open() == []


def test_a_second_one_that_is_refused_leaves_the_first_as_it_is(watch: Watch, monkeypatch: pytest.MonkeyPatch):
    real = watch.trinity.answer
    posts = itertools.count()

    def answer(method: str, path: str, key: str, body: Any) -> tuple[int, object]:
        if (method, path) == ("POST", "/api/notifications") and next(posts) == 1:
            return 500, {"detail": "database is locked"}
        return real(method, path, key, body)

    monkeypatch.setattr(watch.trinity, "answer", answer)
    assert len(watch.look(3.2).problems) == 1
    assert watch.posted() == 1
    assert watch.look(3.3).problems == []
    assert (watch.posted(), len(watch.open())) == (2, 2)


@pytest.mark.parametrize(("key", "words"), [(KEY, "shows it to nobody"), ("other", "Could not validate")])
def test_a_key_that_is_not_an_agents_is_said(watch: Watch, key: str, words: str):
    watch.key.write_text(key)
    told, problems = try_sinks(watch.policy)
    assert (told, len(problems)) == ({}, 1)
    assert words in problems[0]
    assert "monitor: trinity_key_file" in problems[0]
    assert key not in problems[0]


def test_a_test_message_is_no_alarm_and_comes_each_time(watch: Watch):
    for number in (1, 2):
        assert try_sinks(watch.policy) == ({"trinity": 1}, [])
        assert (watch.posted(), watch.open()) == (number, ["test:host"])
    assert watch.trinity.notifications[-1].body["notification_type"] == "info"


def test_the_key_may_come_from_systemd(watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    policy = watch.policy
    monitor = policy.monitor.model_copy(update={"trinity_key_file": None})
    without = policy.model_copy(update={"monitor": monitor})
    assert "trinity-snap-notifications" in try_sinks(without)[1][0]
    watch.key.rename(tmp_path / "trinity-snap-notifications")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert try_sinks(without) == ({"trinity": 1}, [])


@as_root
def test_a_process_killed_between_telling_and_noting_has_told_once(trinity: FakeTrinity, tmp_path: Path):
    machine = Machine(tmp_path)
    key = machine.policy.parent / "agent-key"
    key.touch(mode=0o600)
    key.write_text(AGENT_KEY)

    def alarms(free_percent: int) -> None:
        machine.write(free_percent=free_percent, trinity=True, trinity_key_file="agent-key")
        text = machine.policy.read_text()
        machine.policy.write_text(text.replace("{", f'{{"trinity": {{"url": "{trinity.url}"}}, ', 1))

    machine.run("init")
    alarms(100)  # no disk is that empty
    machine.run("monitor", code=-signal.SIGKILL, TRINITY_SNAP_CRASH_AT="monitor.posted")
    assert trinity.open_alarms() == ["full:target"]
    assert machine.json("monitor", code=1)["told"]["trinity"] == 1
    assert len(trinity.notifications) == 1
    (machine.home / "state/monitor/state.json").unlink()
    trinity.notifications.clear()
    machine.run("monitor", code=-signal.SIGKILL, TRINITY_SNAP_CRASH_AT="monitor.posted")
    alarms(1)  # over before anybody noted that it was told
    machine.run("monitor")
    assert [one.status for one in trinity.notifications] == ["dismissed"]
