"""What counts as wrong, and that everybody is told of it once, again when it stays, and when it is over."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.lab.events import backup, day, drill, part, verify
from trinity_snap.events import EventJournal, Facts
from trinity_snap.events.facts import fold
from trinity_snap.monitor import find_conditions, observe
from trinity_snap.monitor.episodes import Message, read_state
from trinity_snap.monitor.room import Room, room_at
from trinity_snap.monitor.sinks import SinkFailed
from trinity_snap.policy.schema import Policy

GIB = 1 << 30


def policy(state: Path | None = None, **settings: Any) -> Policy:
    found = {"target": "/nowhere", **settings}
    if state is not None:
        found["state"] = {"directory": str(state)}
    return Policy.model_validate(found)


def facts_of(*events: Iterable[dict[str, Any]]) -> Facts:
    facts = Facts()
    fold(facts, itertools.chain(*events))
    return facts


def wrong(facts: Facts, now: float, room: Room | None = None, **settings: Any) -> set[str]:
    return {one.key for one in find_conditions(facts, policy(**settings), day(now), room)}


GOOD = facts_of(verify(1), backup(2, [part("web")]))


def test_a_host_that_is_well_has_no_alarm() -> None:
    assert wrong(GOOD, 2.5) == set()


def test_an_agent_over_its_rpo_alarms() -> None:
    assert wrong(GOOD, 3.05) == set()
    assert wrong(GOOD, 3.1) == {"late:web"}
    assert wrong(GOOD, 3.1, overrides={"web": {"rpo": "1w"}}) == set()
    assert wrong(GOOD, 2.5, monitor={"rpo": "1h"}) == {"late:web"}


def test_an_agent_that_was_never_backed_up_alarms() -> None:
    seen = facts_of(verify(1), [{"seq": 2, "time": "2026-01-03T00:00:00.000Z", "event": "agents", "agents": ["new"]}])
    assert wrong(seen, 3) == set()
    assert wrong(seen, 3.1) == {"never:new"}
    fold(seen, backup(4, [part("new", "failed")], "failed"))
    assert wrong(seen, 4) == {"never:new", "failed:new", "run:backup"}
    fold(seen, backup(5, [part("new")]))
    assert wrong(seen, 5) == set()


def test_an_agent_that_is_gone_does_not() -> None:
    facts = facts_of(
        verify(1), backup(2, [part("web"), part("old", "failed")], "some-failed"), backup(3, [part("web")])
    )
    assert wrong(facts, 3.5) == set()


@pytest.mark.parametrize(
    ("sizes", "alarms"),
    [
        ([(5 << 20, 100)] * 5, False),
        ([(5 << 20, 100)] * 4 + [(2 << 20, 100)], True),
        ([(5 << 20, 100)] * 4 + [(3 << 20, 100)], False),
        ([(5 << 20, 100)] * 4 + [(5 << 20, 40)], True),
        ([(5 << 20, 100), (0, 0)], False),
        ([(5000, 3)] * 4 + [(0, 0)], False),
        ([(5 << 20, 100)] * 4 + [(0, 0), (5 << 20, 100)], False),
        ([(5 << 20, 100)] * 7 + [(1 << 20, 9)] * 3, True),
        ([(5 << 20, 100)] * 7 + [(1 << 20, 9)] * 5, False),
    ],
)
def test_a_recovery_point_that_shrinks_alarms_until_the_new_size_is_the_usual(
    sizes: Sequence[tuple[int, int]], alarms: bool
) -> None:
    runs = [backup(number, [part("web", size=size, files=files)]) for number, (size, files) in enumerate(sizes, 2)]
    assert wrong(facts_of(verify(1), *runs), len(sizes) + 1.5) == ({"shrunk:web"} if alarms else set())


def test_a_full_target_alarms() -> None:
    full = facts_of(
        verify(1), backup(2, [part("web")]), backup(3, [part("web", "failed")], "failed", kind="TargetFull")
    )
    assert "full:target" in wrong(full, 3)
    fold(full, backup(4, [part("web")]))
    assert wrong(full, 4) == set()
    assert wrong(full, 4, Room(9 * GIB, 100 * GIB)) == {"full:target"}
    assert wrong(full, 4, Room(11 * GIB, 100 * GIB)) == set()


def test_a_target_that_nobody_verified_alarms() -> None:
    never = facts_of(backup(1, [part("web")]), backup(37, [part("web")]))
    assert wrong(never, 37.5) == {"unverified:target"}
    assert wrong(never, 37.5, monitor={"verify_max_age": None}) == set()
    fold(never, verify(38))
    fold(never, backup(39, [part("web")]))
    assert wrong(never, 39.5) == set()
    fold(never, verify(40, damaged=3))
    assert wrong(never, 40) == {"damaged:target"}


def test_what_was_checked_elsewhere_counts() -> None:
    facts = facts_of(backup(1, [part("web")]), backup(60, [part("web")]))
    seen = {"seq": 61, "time": "2026-03-02T01:00:00.000Z", "event": "checked", "verified": None, "damaged": 0}
    fold(facts, [seen])
    assert wrong(facts, 60.5) == {"unverified:target"}
    fold(facts, [{**seen, "seq": 62, "verified": "2026-02-20T00:00:00.000Z"}])
    assert wrong(facts, 60.5) == set()


def test_drills_replicas_and_what_is_left_paused_alarm() -> None:
    facts = facts_of(
        verify(1), backup(2, [part("web")], replicas=[{"replica": "far", "outcome": "failed", "error": "No."}])
    )
    fold(facts, drill(3, "web", "failed"))
    fold(facts, [{"seq": 4, "time": "2026-01-03T00:00:00Z", "event": "recover", "outcome": "failed", "held": True}])
    replicas = [{"name": "far", "url": "/far"}]
    assert wrong(facts, 3.05, replicas=replicas) == {"drill:web", "held:host", "run:recover", "behind:far"}
    fold(facts, drill(5, "web", "proved"))
    fold(facts, [{"seq": 6, "time": "2026-01-03T00:00:00Z", "event": "recover", "outcome": "done"}])
    assert wrong(facts, 2.5) == set()
    assert wrong(facts, 3.05, drill={"max_age": "1d"}) == set()
    assert wrong(facts, 8, drill={"max_age": "1d"}, monitor={"rpo": "1y"}) == {"unproved:web"}


def test_the_room_of_a_directory_is_known_and_of_a_bucket_is_not(tmp_path: Path) -> None:
    room = room_at(str(tmp_path))
    assert room is not None
    assert 0 < room.free_bytes <= room.total_bytes
    assert room_at(f"file://{tmp_path}") is not None
    assert room_at("s3://bucket/prefix") is None
    assert room_at("/nonexistent/place") is None


class Listener:
    """A sink that remembers what it was told, and fails when it is told to."""

    closes = False

    def __init__(self, name: str = "listener") -> None:
        self.name = name
        self.heard: list[str] = []
        self.deaf = False

    def tell(self, host: str, messages: Sequence[Message]) -> None:
        if self.deaf:
            raise SinkFailed("It is deaf.")
        self.heard += [f"{one.news} {one.episode.kind}:{one.episode.subject}" for one in messages]


class Watch:
    """A host, its journal, and two sinks: what they hear at a moment."""

    def __init__(self, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = state
        self.journal = EventJournal(state)
        self.one, self.other = Listener("one"), Listener("other")
        self.sinks: list[Listener] = [self.one, self.other]
        monkeypatch.setattr("trinity_snap.monitor.telling.sinks_of", lambda policy: self.sinks)

    def events(self, *events: Iterable[dict[str, Any]]) -> None:
        for event in itertools.chain(*events):
            self.journal.append({key: value for key, value in event.items() if key != "seq"})

    def hear(self, now: float, **settings: Any) -> list[str]:
        before = len(self.one.heard)
        self.last = observe(policy(self.state, **settings), _moment(now))
        return self.one.heard[before:]


def _moment(now: float) -> datetime:
    return day(now)


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(tmp_path, monkeypatch)


def test_an_episode_is_told_once_again_on_staleness_and_when_it_is_over(watch: Watch) -> None:
    watch.events(verify(1), backup(2, [part("web")]))
    assert watch.hear(2.5) == []
    assert watch.hear(3.2) == ["raised late:web"]
    assert [watch.hear(3.2 + step / 100) for step in range(1, 95, 10)] == [[]] * 10
    assert watch.hear(4.3) == ["still late:web"]
    assert watch.hear(4.4) == []
    watch.events(backup(5, [part("web")]))
    assert watch.hear(5) == ["cleared late:web"]
    assert watch.hear(5.1) == []
    assert read_state(watch.state / "monitor/state.json").episodes == []
    assert watch.hear(6.2) == ["raised late:web"]
    assert watch.one.heard == watch.other.heard


def test_the_journal_says_when_episodes_began_and_ended(watch: Watch) -> None:
    watch.events(verify(1), backup(2, [part("web")]))
    watch.hear(3.2)
    watch.hear(3.3)
    watch.events(backup(4, [part("web")]))
    watch.hear(4)
    alarms = [(event["news"], event["kind"]) for event in watch.journal.read() if event["event"] == "alarm"]
    assert alarms == [("raised", "late"), ("cleared", "late")]


def test_a_sink_that_was_out_of_reach_is_told_later_and_the_others_only_once(watch: Watch) -> None:
    watch.events(verify(1), backup(2, [part("web")]))
    watch.other.deaf = True
    assert watch.hear(3.2) == ["raised late:web"]
    assert watch.last.problems == ["It is deaf."]
    assert watch.hear(3.3) == []
    watch.other.deaf = False
    assert watch.hear(3.4) == []
    assert watch.other.heard == ["raised late:web"]
    watch.other.deaf = True
    watch.events(backup(4, [part("web")]))
    assert watch.hear(4) == ["cleared late:web"]
    watch.other.deaf = False
    watch.hear(4.1)
    assert watch.other.heard == ["raised late:web", "cleared late:web"]


def test_a_sink_that_never_heard_of_an_episode_is_not_told_that_it_is_over(watch: Watch) -> None:
    watch.events(verify(1), backup(2, [part("web")]))
    watch.other.deaf = True
    watch.hear(3.2)
    watch.events(backup(4, [part("web")]))
    watch.other.deaf = False
    watch.hear(4)
    assert watch.other.heard == []


def test_a_state_that_is_lost_tells_once_more_and_no_more(watch: Watch) -> None:
    watch.events(verify(1), backup(2, [part("web")]))
    watch.hear(3.2)
    (watch.state / "monitor/state.json").write_bytes(b"{")
    assert watch.hear(3.3) == ["raised late:web"]
    assert watch.hear(3.4) == []


def test_clocks_that_go_backwards_raise_nothing(watch: Watch) -> None:
    watch.events(verify(1), backup(2, [part("web")]))
    watch.hear(3.2)
    assert watch.hear(1.0) == ["cleared late:web"]
    assert watch.hear(-300) == []


def test_the_longest_episode_is_remembered_for_a_week_after_it_is_over_if_a_sink_stays_deaf(watch: Watch) -> None:
    watch.events(verify(1), backup(2, [part("web")]))
    watch.hear(3.2)
    watch.other.deaf = True
    watch.events(backup(4, [part("web")]))
    watch.hear(4)
    watch.events(*(backup(number, [part("web")]) for number in range(5, 13)))
    watch.hear(12)
    assert len(read_state(watch.state / "monitor/state.json").episodes) == 0
