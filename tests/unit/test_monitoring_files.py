"""The alert rules and the dashboard in docs/monitoring fit the metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.lab.events import backup, day, drill, part, verify
from trinity_snap.events import Facts
from trinity_snap.events.facts import fold
from trinity_snap.monitor import find_conditions
from trinity_snap.monitor.room import Room
from trinity_snap.monitor.textfile import render_metrics
from trinity_snap.policy.schema import Policy

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring"
NAME = re.compile(r"\btrinity_snap_[a-z_]+")


@pytest.fixture(scope="module")
def metrics() -> dict[str, set[str]]:
    """The labels of every metric, of a host of which everything is known."""
    facts = Facts()
    replica = {"replica": "far", "outcome": "done"}
    fold(
        facts,
        [*verify(1), *backup(2, [part("web"), part("db", "failed")], replicas=[replica]), *drill(3, "web", "proved")],
    )
    policy = Policy.model_validate({"target": "/t", "replicas": [{"name": "far", "url": "/far"}]})
    room = Room(1, 100)
    text = render_metrics(facts, policy, find_conditions(facts, policy, day(3), room), room, day(3)).decode()
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        if match := re.match(r"(trinity_snap_\w+)(?:\{(.*)\})? \S+$", line):
            found.setdefault(match[1], set()).update(re.findall(r'(\w+)="', match[2] or ""))
    return found


def expressions() -> list[str]:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    shown = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    shown += [variable["query"]["query"] for variable in dashboard["templating"]["list"][1:]]
    return shown + re.findall(r"expr: (.*(?:\n          .*)*)", (MONITORING / "alerts.yml").read_text())


def test_rules_and_dashboard_use_metrics_that_there_are(metrics: dict[str, set[str]]) -> None:
    found = expressions()
    assert len(found) > 20
    assert {name for text in found for name in NAME.findall(text)} <= metrics.keys()


def test_every_metric_is_described(metrics: dict[str, set[str]]) -> None:
    page = (MONITORING / "README.md").read_text()
    described = set(re.findall(r"`([a-z_]+)(?:\{[a-z,]+\})?`", page))
    assert {name.removeprefix("trinity_snap_") for name in metrics} <= described
    assert metrics["trinity_snap_alarm"] == {"kind", "subject", "severity"}


def test_every_kind_of_alarm_is_described() -> None:
    rooms = [MONITORING.parents[1] / f"trinity_snap/monitor/{name}.py" for name in ("conditions", "platform")]
    kinds = {kind for room in rooms for kind in re.findall(r'Condition\(\s*"(\w+)"', room.read_text())}
    assert len(kinds) > 10
    page = (MONITORING / "README.md").read_text()
    assert kinds <= set(re.findall(r"`(\w+)`", page))


def test_panels_do_not_lie_on_each_other() -> None:
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool (Debian's package prometheus)")
def test_promtool_finds_the_rules_and_the_queries_good(tmp_path: Path) -> None:
    for what in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]):
        done = subprocess.run(["promtool", *what], cwd=MONITORING, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    queries = [text for text in expressions() if not text.startswith("label_values")]
    rules = [
        {"record": f"panel:{number}", "expr": text.replace("$instance", ".*").replace("$agent", ".*")}
        for number, text in enumerate(queries)
        if not text.startswith(">-")
    ]
    (tmp_path / "panels.yml").write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", tmp_path / "panels.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
