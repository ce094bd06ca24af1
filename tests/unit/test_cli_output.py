"""How things look: sizes, ages, tables, times, progress."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_snap.cli.output import age, emit, safe, seconds, size, table
from trinity_snap.cli.progress import LineProgress, watched
from trinity_snap.errors import UsageError
from trinity_snap.progress import NullProgress
from trinity_snap.report.times import parse_duration, parse_moment, timestamp


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"), (5 << 40, "5.0 TiB")],
)
def test_sizes_are_binary(count, text):
    assert size(count) == text


@given(st.integers(0, 1 << 62))
def test_a_size_is_short(count):
    assert len(size(count)) <= 10


@pytest.mark.parametrize(
    ("amount", "text"), [(None, "-"), (0.0124, "12 ms"), (1.5, "1.5 s"), (75, "1 min 15 s"), (7300, "2 h 1 min")]
)
def test_durations(amount, text):
    assert seconds(amount) == text


@pytest.mark.parametrize(
    ("passed", "text"),
    [(5, "just now"), (90, "1 min ago"), (3 * 3600, "3 h ago"), (47 * 3600, "47 h ago"), (49 * 3600, "2 d ago")],
)
def test_ages(passed, text):
    now = datetime(2026, 1, 10, tzinfo=UTC)
    assert age(now - timedelta(seconds=passed), now) == text
    assert age(now + timedelta(hours=1), now) == "in the future"


def test_a_table_is_aligned():
    assert table(("A", "SIZE"), [("long name", "1"), ("b", "1000")], right=(1,)) == [
        "A          SIZE",
        "long name     1",
        "b          1000",
    ]


@given(st.text())
def test_nothing_reaches_the_terminal_that_it_would_act_on(text):
    assert safe(text).isprintable()
    assert all(one.isprintable() or one == "\n" for one in safe(text, lines=True))


def test_names_that_are_not_utf8_survive_json(capsys):
    name = b"caf\xe9".decode(errors="surrogateescape")
    emit({"name": name}, (), True)
    assert json.loads(capsys.readouterr().out)["name"] == name
    emit({}, [name, "\x1b[31mred"], False)
    assert capsys.readouterr().out == "caf\\udce9\n\\x1b[31mred\n"


def test_moments_and_durations_are_read():
    assert parse_moment("2026-11-23T14:00:00Z") == datetime(2026, 11, 23, 14, tzinfo=UTC)
    assert parse_moment("2026-11-23 14:00").tzinfo is not None
    assert abs(datetime.now(UTC) - parse_moment("2h ago") - timedelta(hours=2)) < timedelta(minutes=1)
    assert parse_duration("26h") == timedelta(hours=26)
    assert timestamp(datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC)) == "2026-01-02T03:04:05.678Z"


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_a_usage_error(text):
    for parse in (parse_moment, parse_duration):
        try:
            assert parse(text) is not None
        except UsageError as error:
            assert error.next_step  # noqa: PT017


def test_progress_is_a_line_now_and_then(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("trinity_snap.cli.progress.time.monotonic", lambda: clock[0])
    progress = LineProgress()
    progress.stage("shipping", 4 << 20)
    for _ in range(4):
        clock[0] += 6
        progress.advance(1 << 20, "web")
    progress.note("a sentence")
    assert capsys.readouterr().err.splitlines() == [
        "shipping",
        "shipping: 2.0 MiB of 4.0 MiB (50 %), web",
        "shipping: 4.0 MiB of 4.0 MiB (100 %), web",
        "a sentence",
    ]


def test_quiet_is_quiet(capsys):
    with watched(quiet=True) as progress:
        assert isinstance(progress, NullProgress)
        progress.stage("x")
        progress.note("y")
    assert capsys.readouterr().err == ""
