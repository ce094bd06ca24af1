"""Which agents go where, and from which of their points: decided by plain functions of the collection."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

# It imports nothing of the collection, and is looked at without an Ansible that would find it.
onto = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "plugins/module_utils/onto.py")))


def point(agent: str, name: str, hour: int, run: str = "r", void: str | None = None) -> dict[str, Any]:
    return {"agent": agent, "id": name, "created": f"2026-09-01T{hour:02}:00:00.000Z", "run_id": run, "void": void}


POINTS = [
    point("web", "w3", 3, "cc", void="too late"), point("web", "w2", 2, "bb"), point("platform", "p2", 2, "bb"),
    point("db", "d1", 1, "aa"), point("web", "w1", 1, "aa"),
]  # fmt: skip


def chosen(*given: str, number: int = 0, only: tuple[str, ...] = (), run: str = "", at: str = "") -> list[str]:
    moves = onto.parse_onto(given)
    move = moves[number]
    found = onto.choose_points(POINTS, move, onto.named_elsewhere(moves, move), only, run, at)
    return [one["id"] for one in found]


def test_the_newest_point_that_counts_of_every_agent_is_taken_platform_first():
    assert chosen("a=x") == ["p2", "d1", "w2"]


def test_agents_that_are_named_go_elsewhere_than_the_rest():
    assert chosen("a:web,db=x", "a=y") == ["d1", "w2"]
    assert chosen("a:web,db=x", "a=y", number=1) == ["p2"]


def test_a_run_a_time_and_names_restrict_the_choice():
    assert chosen("a=x", run="BB") == ["p2", "w2"]
    assert chosen("a=x", at="2026-09-01T01:30:00Z") == ["d1", "w1"]
    assert chosen("a=x", at="2026-09-01T03:30:00+02:00") == ["d1", "w1"]
    assert chosen("a=x", only=("web",)) == ["w2"]


@pytest.mark.parametrize(
    ("given", "more", "words"),
    [
        ([], {}, "Nothing says"),
        (["a"], {}, "is no OLD=NEW"),
        (["a:=x"], {}, "is no OLD=NEW"),
        (["a=x", "a=y"], {}, "two places"),
        (["a:web=x", "a:web=y"], {}, "two places"),
        (["a:wep=x"], {}, "no recovery point of wep"),
        (["a:db=x"], {"run": "bb"}, "of the run bb of db"),
        (["a=x"], {"run": "zz"}, "no recovery point of the run zz"),
        (["a=x"], {"at": "yesterday"}, "is no time"),
    ],
)
def test_what_makes_no_sense_is_said(given: list[str], more: dict[str, Any], words: str):
    with pytest.raises(onto.Mistake, match=words):
        chosen(*given, **more)


def test_two_agents_of_one_name_cannot_come_to_one_host():
    one, other = onto.parse_onto(["a=x", "b=x"])
    assert [each[1]["id"] for each in onto.in_order([(one, POINTS[1]), (other, POINTS[2])])] == ["p2", "w2"]
    with pytest.raises(onto.Mistake, match="same names"):
        onto.in_order([(one, POINTS[1]), (other, POINTS[4])])


def test_done_is_the_same_point_that_is_still_there():
    assert onto.is_done([{"point": "w2", "there": True}], POINTS[1])
    assert not onto.is_done([{"point": "w2", "there": False}, {"point": "w1", "there": True}], POINTS[1])
