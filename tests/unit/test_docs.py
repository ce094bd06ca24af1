"""The tests that the documentation names as proof are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_NAMED = re.compile(r"`((?:[\w./-]+/)?(?:test_\w+\.py)|…)(?:::(test_\w+))?`")
"""`tests/part/test_file.py`, `test_file.py`, either with `::test_function`, or `…::test_function` of the file named last."""


def named(text: str) -> list[tuple[str, str | None]]:
    """The files and functions that a text names, in its order, with `…` replaced by what it stands for."""
    found: list[tuple[str, str | None]] = []
    for match in _NAMED.finditer(text):
        file = found[-1][0] if match[1] == "…" else match[1]
        found.append((file, match[2]))
    return found


@pytest.mark.parametrize(
    "page",
    [
        "docs/security.md",
        "docs/guarantees.md",
        "docs/format.md",
        "docs/operations.md",
        "docs/fleet.md",
        "docs/trinity.md",
        "README.md",
    ],
)
def test_every_test_that_a_page_names_is_there(page: str) -> None:
    missing = []
    for file, function in named((ROOT / page).read_text("utf-8")):
        places = [ROOT / file] if "/" in file else list((ROOT / "tests").rglob(file))
        places = [place for place in places if place.is_file()]
        if not any(function is None or f"def {function}(" in place.read_text("utf-8") for place in places):
            missing.append(f"{file}::{function}" if function else file)
    assert missing == []


def test_the_pages_of_promises_name_their_tests() -> None:
    """So that the test above looks at something."""
    assert len(named((ROOT / "docs/security.md").read_text("utf-8"))) > 30
    assert len(named((ROOT / "docs/guarantees.md").read_text("utf-8"))) > 10
