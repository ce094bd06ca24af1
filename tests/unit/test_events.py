"""The journal of events: durable, bounded, tolerant of what a power cut leaves; and what its events add up to."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.lab.events import backup, drill, part
from trinity_snap.events import EventJournal, Facts, load_facts
from trinity_snap.events.facts import fold


def numbers(journal: EventJournal, after: int = 0) -> list[int]:
    return [event["seq"] for event in journal.read(after)]


def filled(state: Path, count: int, **settings: int) -> EventJournal:
    journal = EventJournal(state, **settings)
    for number in range(count):
        journal.append({"time": f"2026-01-01T00:00:{number % 60:02d}.000Z", "event": "note", "text": "x" * 50})
    return journal


def test_events_come_back_in_order_with_numbers_of_their_own(tmp_path: Path) -> None:
    journal = filled(tmp_path, 5)
    assert numbers(journal) == [1, 2, 3, 4, 5]
    assert numbers(journal, after=3) == [4, 5]
    assert journal.last_seq() == 5


def test_a_journal_that_rotates_keeps_the_newest_and_stays_small(tmp_path: Path) -> None:
    journal = filled(tmp_path, 500, file_bytes=1000, files=3)
    kept = numbers(journal)
    assert kept == list(range(kept[0], 501))
    assert 20 < len(kept) < 100
    assert sum(path.stat().st_size for path in journal.directory.iterdir()) < 4 * 1200
    assert numbers(journal, after=497) == [498, 499, 500]
    assert numbers(journal, after=1) == kept


def test_numbers_go_on_right_after_a_rotation(tmp_path: Path) -> None:
    journal = filled(tmp_path, 30, file_bytes=1000, files=3)
    (journal.directory / "current.jsonl").unlink()
    before = journal.last_seq()
    assert filled(tmp_path, 1).last_seq() == before + 1


@pytest.mark.parametrize("left", range(1, 40, 7))
def test_a_line_that_was_torn_costs_only_itself(tmp_path: Path, left: int) -> None:
    journal = filled(tmp_path, 3)
    path = journal.directory / "current.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:left])
    filled(tmp_path, 1)
    assert numbers(journal) == [1, 2, 3]
    assert path.read_bytes().count(b"\n") == 4


def test_lines_longer_than_a_block_are_found_from_behind(tmp_path: Path) -> None:
    journal = EventJournal(tmp_path)
    for _ in range(3):
        journal.append({"time": "2026-01-01T00:00:00.000Z", "event": "note", "text": "x" * 200_000})
    assert numbers(journal) == [1, 2, 3]


def test_many_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from trinity_snap.events import EventJournal\n"
        "for n in range(25): EventJournal(Path(sys.argv[1]), file_bytes=2000, files=99).append("
        "{'time': '2026-01-01T00:00:00.000Z', 'event': 'note', 'text': 'x' * 60})"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with ThreadPoolExecutor(4) as pool:
        assert [done.returncode for done in pool.map(lambda _: subprocess.run(command, check=False), range(4))] == [
            0
        ] * 4
    assert numbers(EventJournal(tmp_path)) == list(range(1, 101))


def test_the_last_success_is_never_moved_by_a_failure() -> None:
    facts = Facts()
    fold(facts, backup(1, [part("web")]))
    success = facts.agents["web"].succeeded
    for number in range(2, 300):
        fold(facts, backup(number, [part("web", "failed")], outcome="failed"))
    agent = facts.agents["web"]
    assert (agent.succeeded, agent.outcome, agent.failures, agent.point) == (success, "failed", 298, "point")
    assert facts.runs["backup"].succeeded == success
    fold(facts, backup(300, [part("web", "incomplete")], outcome="some-failed"))
    assert agent.succeeded == success
    assert agent.created is not None
    assert success is not None
    assert agent.created > success


def test_facts_outlive_the_events_that_made_them(tmp_path: Path) -> None:
    journal = EventJournal(tmp_path, file_bytes=2000, files=2)
    journal.append(next(iter(backup(1, [part("web")]))))
    load_facts(tmp_path)
    for number in range(2, 60):
        journal.append(next(iter(backup(number, [part("web", "failed")], outcome="failed"))))
        if number % 5 == 0:
            load_facts(tmp_path)
    assert 1 not in numbers(journal)
    facts = load_facts(tmp_path)
    assert facts.seq == 59
    assert facts.agents["web"].succeeded is not None
    assert facts.agents["web"].failures == 58


@pytest.mark.parametrize("damage", [b"", b"{", b'{"seq": "x"}', b"\xff\xff"])
def test_facts_that_are_damaged_are_added_up_anew(tmp_path: Path, damage: bytes) -> None:
    journal = EventJournal(tmp_path)
    for number in range(1, 4):
        journal.append(next(iter(backup(number, [part("web")]))))
    good = load_facts(tmp_path)
    (journal.directory / "facts.json").write_bytes(damage)
    assert load_facts(tmp_path) == good


def test_a_journal_that_was_lost_does_not_hide_what_comes_next(tmp_path: Path) -> None:
    journal = EventJournal(tmp_path)
    for number in range(1, 9):
        journal.append(next(iter(backup(number, [part("web")]))))
    load_facts(tmp_path)
    (journal.directory / "current.jsonl").unlink()
    journal.append(next(iter(backup(20, [part("web", "failed")], outcome="failed"))))
    assert load_facts(tmp_path).agents["web"].outcome == "failed"


@pytest.mark.parametrize("nonsense", [{}, {"agents": 3}, {"agents": [None]}, {"agents": [{"agent": "a"}]}, {"time": 3}])
def test_events_that_make_no_sense_are_passed_over(nonsense: dict[str, Any]) -> None:
    facts = Facts()
    fold(facts, [{"seq": 1, "time": "t", "event": "backup", **nonsense}])
    fold(facts, backup(2, [part("web")]))
    assert facts.seq == 2
    assert facts.agents["web"].point == "point"


def test_only_a_run_over_all_agents_says_that_one_is_gone() -> None:
    facts = Facts()

    def is_gone() -> bool:
        return facts.agents["old"].gone is not None

    fold(facts, backup(1, [part("web"), part("old")]))
    fold(facts, backup(2, [part("web")], whole=False))
    assert not is_gone()
    fold(facts, backup(3, [part("web")]))
    assert is_gone()
    fold(facts, backup(4, [part("old")], whole=False))
    assert not is_gone()


def test_drills_keep_the_last_proof() -> None:
    facts = Facts()
    fold(facts, [*backup(1, [part("web")]), *drill(2, "web", "proved"), *drill(3, "web", "failed")])
    agent = facts.agents["web"]
    assert agent.proved == "2026-01-03T00:00:00.000Z"
    assert (agent.drilled, agent.drill_outcome) == ("2026-01-04T00:00:00.000Z", "failed")


def test_what_was_remembered_before_begins_the_journal(tmp_path: Path) -> None:
    from trinity_snap.backup.result import AgentResult, RunResult, remember
    from trinity_snap.events.history import take_over

    agent = AgentResult("web", "done", "ab" * 16, "crash-consistent", "btrfs", bytes=5, files=1)
    run = RunResult("00" * 16, "host", "2026-01-01T00:00:00+00:00", "done", "2026-01-01T00:00:01+00:00", 5.0, [agent])
    remember(run, tmp_path)
    (tmp_path / "runs" / "damaged.json").write_text(json.dumps({"started": "x"}))
    take_over(tmp_path)
    take_over(tmp_path)
    facts = load_facts(tmp_path)
    assert facts.agents["web"].created == "2026-01-01T00:00:01.000Z"
    assert facts.agents["web"].runs == 1
