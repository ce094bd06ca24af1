"""The report page: right, small, quick, self-contained, and readable in a real browser."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.lab.events import BEGIN, backup, day, drill, part, verify
from tests.unit.test_cli_json import assert_same_shape, documented
from tests.unit.test_cli_repository import Host, host, make_host, repository
from trinity_snap.events import EventJournal
from trinity_snap.policy.schema import Policy
from trinity_snap.report.page import render_page
from trinity_snap.report.picture import AgentPicture, HostPicture, Wrong, paint
from trinity_snap.report.sources import pictures_in

__all__ = ["host", "make_host", "repository"]  # fixtures

HOSTILE = '<script>alert("1")</script>'
VOID = {"meta", "br", "path", "!doctype"}
OPTIONAL = {"td", "th", "li", "tr"}


class Parser(HTMLParser):
    """Checks that elements end in the order in which they begin; those whose end may be left out, may."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open[-1] != tag and self.open[-1] in OPTIONAL:
            self.open.pop()
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(page: bytes) -> Parser:
    parser = Parser()
    parser.feed(page.decode())
    parser.close()
    assert parser.open == []
    return parser


def fleet(agents: int, days: int, hosts: int = 20) -> list[HostPicture]:
    """A fleet that was backed up every night; some of it is not well."""
    now, found = day(days), []
    for number in range(hosts):
        names = [f"agent-{number:02d}-{one:02d}" for one in range(agents // hosts)]
        events = [*verify(1)]
        for each in range(1, days):
            parts = [
                part(name, "failed" if (each * 7 + at) % 61 == 0 else "done", (50 + each + at * 13) << 20)
                for at, name in enumerate(names)
                if not (at == 3 and each > days - 4)
            ]
            events += backup(each, parts, whole=False)
        events += [
            event for name in names[1:] for event in drill(days - 1, name, "failed" if name.endswith("5") else "proved")
        ]
        policy = Policy.model_validate({"target": f"/mnt/backup/host{number}", "monitor": {"verify_max_age": "2y"}})
        found.append(paint(events, policy, now, host=f"host{number:02d}.example.org"))
    return found


def test_the_page_of_a_big_fleet_and_a_whole_year_is_small_and_quick() -> None:
    hosts = fleet(500, 365)
    least, page = 60.0, b""
    for _ in range(5):
        began = time.process_time()
        page = render_page(hosts, day(365))
        least = min(least, time.process_time() - began)
        if least < 2:
            break
    assert least < 2
    assert len(page) < 1_000_000
    shown = parsed(page)
    assert sum(tag == "svg" for tag, _ in shown.tags) == 500
    assert all(f"agent-{number:02d}-{one:02d}" in shown.text for number in range(20) for one in range(25))


def test_the_page_needs_nothing_else_and_runs_nothing() -> None:
    page = render_page(fleet(40, 20, 2), day(20)).decode()
    assert not re.search(r"<script|<link|<img|<iframe|url\(|@import|https?://", page)
    assert "default-src 'none'" in page


def test_names_and_sentences_cannot_become_markup() -> None:
    agent = AgentPicture(HOSTILE, "critical", consistency=HOSTILE)
    broken = AgentPicture("caf\udce9", "good")
    wrong = [Wrong("failed", HOSTILE, "critical", HOSTILE, HOSTILE)]
    page = render_page([HostPicture(HOSTILE, "2026-01-01T00:00:00Z", HOSTILE, [agent, broken], wrong)], BEGIN)
    assert b"<script" not in page
    assert HOSTILE in parsed(page).text


def test_it_says_how_agents_stand_and_what_to_do() -> None:
    policy = Policy.model_validate({"target": "/nowhere"})
    events = [
        *verify(1), *backup(2, [part("web"), part("db", size=7 << 30)]), *drill(3, "web", "proved"),
        *backup(4, [part("web"), part("db", "failed")], "some-failed"),
    ]  # fmt: skip
    picture = paint(events, policy, day(4.1), host="host1")
    by_name = {agent.agent: agent for agent in picture.agents}
    assert (by_name["web"].state, by_name["db"].state) == ("good", "critical")
    assert by_name["db"].created == "2026-01-03T00:00:00.000Z"
    assert [failure.sentence for failure in by_name["db"].failures] == ["The disk is on fire."]
    text = " ".join(parsed(render_page([picture], day(4.1))).text.split())
    for words in (
        "2 alarms",
        "The disk is on fire.",
        "trinity-snap backup db",
        "7.0 GiB",
        "1 of 2",
        "never",
        "2 h ago (limit 26 h)",
    ):
        assert words in text, words


def test_tables_and_curves_can_be_read_aloud() -> None:
    tags = parsed(render_page(fleet(40, 20, 2), day(20))).tags
    assert dict(tags)["html"] == {"lang": "en"}
    assert all(attributes.get("scope") for tag, attributes in tags if tag == "th")
    pictures = [attributes for tag, attributes in tags if tag == "svg"]
    assert pictures
    assert all(one["role"] == "img" and re.match(r"[\d.]+ MiB on 2026-", one["aria-label"] or "") for one in pictures)
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_a_host_reports_from_its_journal_and_from_its_repository(host: Host, tmp_path: Path) -> None:
    point = host.back_up()
    journal = EventJournal(host.home / "state")
    journal.append(next(iter(backup(1, [{**part("web"), "point": point}]))))
    page = tmp_path / "report.html"
    answer = host.json("report", "-o", str(page))
    assert_same_shape(answer, documented("report"))
    assert [agent["agent"] for agent in answer["hosts"][0]["agents"]] == ["web"]
    assert "web" in parsed(page.read_bytes()).text
    fresh = host.json("report", "--points")["hosts"][0]["agents"]
    assert [(agent["point"], agent["state"], len(agent["sizes"])) for agent in fresh] == [(point, "good", 1)]
    named = host.json("report", str(host.policy))
    assert [agent["point"] for agent in named["hosts"][0]["agents"]] == [point]
    assert named["output"] is None
    assert "-o report.html" in host.text("report", code=2)


def test_answers_of_other_hosts_become_one_report(host: Host, tmp_path: Path) -> None:
    host.back_up()
    status = host.json("status")
    hosts: list[dict[str, Any]] = [
        {"host": "host1", "outcome": "done", "message": None, "answer": status},
        {"host": "host2", "outcome": "unreachable", "message": "No route.", "answer": {}},
    ]
    (tmp_path / "fleet.json").write_text(json.dumps({"action": "status", "hosts": hosts}))
    (tmp_path / "one.json").write_text(json.dumps(status))
    own = tmp_path / "own.json"
    own.write_text(json.dumps(host.json("report", "--points")))
    files = [str(tmp_path / "fleet.json"), str(tmp_path / "one.json"), str(own)]
    answer = host.json("report", *files, "-o", str(tmp_path / "r.html"))
    assert [(one["host"], len(one["agents"])) for one in answer["hosts"]][:3] == [
        ("host1", 1),
        ("host2", 0),
        ("one", 1),
    ]
    assert answer["hosts"][1]["wrong"][0]["sentence"] == "host2 is unreachable: No route."
    assert answer["hosts"][3]["agents"][0]["agent"] == "web"
    assert "host2 is unreachable" in parsed((tmp_path / "r.html").read_bytes()).text


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"hosts": [3]}', '{"agents": [{}]}', '{"hosts": [{"made": 1}]}'])
def test_what_is_no_answer_is_refused(tmp_path: Path, text: str) -> None:
    from trinity_snap.errors import UsageError

    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UsageError):
        pictures_in(path, BEGIN)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium (Debian's package of that name)")
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (400, True)])
def test_a_browser_shows_it_whole(tmp_path: Path, width: int, dark: bool) -> None:
    page = tmp_path / "report.html"
    page.write_bytes(render_page(fleet(60, 60, 3), day(60)))
    picture = Path(os.environ.get("TRINITY_SNAP_SCREENSHOTS", tmp_path)) / f"report-{width}.png"
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path}/profile", "--hide-scrollbars",
        f"--window-size={width},1600", *(["--blink-settings=preferredColorScheme=0"] if dark else []),
    ]  # fmt: skip
    subprocess.run([*command, f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True, timeout=120)
    assert picture.stat().st_size > 20_000
    dom = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], check=True, capture_output=True, timeout=120
    ).stdout.decode()
    assert dom.count("<svg") == 60
    assert dom.count('<th scope="row">') == 60
