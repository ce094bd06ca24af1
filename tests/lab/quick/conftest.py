"""The tests of this directory run in the quick lab's kernel, and are reported here.

The first of them boots it, with all that were selected. From then on each test's turn waits for its reports.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.lab.kernel import missing
from tests.lab.quick.boot import GUEST, Guest

_HERE = Path(__file__).parent
_IN_GUEST = GUEST in os.environ
_BOOT_SECONDS = 120.0
_TEST_SECONDS = 200.0
_SLACK_SECONDS = 50.0


class _Lab:
    """One boot of the kernel for all tests of a session, and what has been heard of them."""

    def __init__(self, items: list[pytest.Item]) -> None:
        self.guest = Guest()
        (self.guest.directory / "tests").write_text("".join(f"{item.nodeid}\n" for item in items))
        passed_on = [f"{name}={value}" for name, value in os.environ.items() if name.startswith("TRINITY_SNAP_")]
        self.guest.start(
            ["env", *passed_on, sys.executable, "-m", "pytest", "-p", "tests.lab.quick.report", "-p", "no:cacheprovider", "-q",
             "--timeout=150", "--basetemp=/run/pytest", f"@{Guest.inside / 'tests'}"]
        )  # fmt: skip
        self._position = 0
        self._heard: dict[str, list[dict[str, Any]]] = {}  # pytest's own form of a report
        self._is_first = True

    def reports(self, item: pytest.Item) -> list[dict[str, Any]] | None:
        """The reports of one test, waited for; None if the kernel is gone or the time is over."""
        marker = item.get_closest_marker("timeout")
        seconds = _TEST_SECONDS if marker is None else max(_TEST_SECONDS, marker.args[0] + _SLACK_SECONDS)
        until = time.monotonic() + seconds + (_BOOT_SECONDS if self._is_first else 0)
        self._is_first = False
        while True:
            running = self.guest.running  # asked first: what it wrote before it ended is read below
            self._listen()
            found = self._heard.get(item.nodeid, [])
            if found and found[-1]["when"] == "teardown":
                return found
            if not running or time.monotonic() > until:
                return None
            time.sleep(0.05)

    def _listen(self) -> None:
        path = self.guest.directory / "reports"
        if not path.exists():
            return
        with open(path, "rb") as file:
            file.seek(self._position)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._position += len(whole)
        for line in whole.splitlines():
            report = json.loads(line)
            self._heard.setdefault(report["nodeid"], []).append(report)


_lab: list[_Lab] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    why = "" if _IN_GUEST else missing()
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.lab)
            if why:
                item.add_marker(pytest.mark.skip(reason=why))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if _IN_GUEST or _HERE not in item.path.parents or item.get_closest_marker("skip"):
        return None  # pytest asks this of every test of the session, also of other directories
    if not _lab:
        _lab.append(_Lab([each for each in item.session.items if _HERE in each.path.parents]))
    lab = _lab[0]
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for data in lab.reports(item) or [_no_report(item, lab.guest)]:
        report = item.config.hook.pytest_report_from_serializable(config=item.config, data=data)
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    # What the test before left set up for this one is not for the next; pytest's own protocol ends with the same.
    item.session._setupstate.teardown_exact(nextitem)
    return True


def pytest_sessionfinish() -> None:
    while _lab:
        _lab.pop().guest.close()


def _no_report(item: pytest.Item, guest: Guest) -> dict[str, Any]:
    report = pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords={},
        outcome="failed",
        longrepr=f"The quick lab's kernel gave no report of this test.\n{guest.tail()}",
        when="call",
    )
    data = item.config.hook.pytest_report_to_serializable(config=item.config, report=report)
    assert isinstance(data, dict)
    return data
