"""What an agent declares as its data: read within bounds, believed as far as it is understood, and never less than meant."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_snap.snapshot.view import DirectoryView
from trinity_snap.trinity.declared import Declared, left_out, read_declared, understand, units


def declare(home: Path, data: str | None = None, state: str | None = None) -> Declared:
    (home / ".trinity").mkdir(exist_ok=True)
    for name, text in (("data-paths.yaml", data), ("persistent-state.yaml", state)):
        if text is not None:
            (home / ".trinity" / name).write_text(text)
    return read_declared(DirectoryView(home, live=True).open)


def taken(patterns: list[str], *paths: str) -> list[str]:
    pattern = re.compile(left_out(understand(repr_of(patterns), "data_paths")))
    return [path for path in paths if not pattern.match(path)]


def repr_of(patterns: list[str]) -> bytes:
    import yaml

    return yaml.safe_dump({"data_paths": patterns}).encode()


def test_both_files_are_read_and_taken_themselves(tmp_path):
    found = declare(tmp_path, "data_paths: [data/**, 'data/x.db']\n", "persistent_state:\n- .mcp.json\n- data/\n")
    assert found.patterns == (
        "data",
        "data/x.db",
        ".mcp.json",
        ".trinity/data-paths.yaml",
        ".trinity/persistent-state.yaml",
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("data_paths: [../other]", "no pattern within the home"),
        ("data_paths: [/etc/passwd]", "no pattern within the home"),
        ("data_paths: ['']", "no pattern within the home"),
        ("data_paths: data", "no list of patterns"),
        ("data_paths: [1]", "no list of patterns"),
        ("- data", "no list of patterns"),
        ("data_paths: [", "no YAML"),
        ("[" * 5000, "no YAML"),
        ("data_paths: [" + "x" * 70000 + "]", "too long"),
        ("", "it declares no paths"),
    ],
)
def test_what_cannot_be_understood_declares_everything(tmp_path, text, why):
    found = declare(tmp_path, text)
    assert found.patterns == ()
    assert why in found.why


def test_a_declaration_that_is_a_link_is_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("data_paths: [data]")
    home = tmp_path / "home"
    (home / ".trinity").mkdir(parents=True)
    (home / ".trinity/data-paths.yaml").symlink_to(secret)
    assert "cannot be read" in read_declared(DirectoryView(home, live=True).open).why
    (home / ".trinity/data-paths.yaml").unlink()
    os.mkfifo(home / ".trinity/data-paths.yaml")
    assert read_declared(DirectoryView(home, live=True).open).patterns == ()


def test_an_agent_without_declarations_declares_everything(tmp_path):
    assert declare(tmp_path).patterns == ()


def test_patterns_take_what_fits_what_is_in_it_and_what_leads_there():
    assert taken(["data/**"], "data", "data/a", "data/a/b", "database", "other") == ["data", "data/a", "data/a/b"]
    deep = taken(["a/*/x.db"], "a", "a/b", "a/b/x.db", "a/b/y.db", "a/b/c/x.db", "x.db")
    assert deep == ["a", "a/b", "a/b/x.db"]
    anywhere = taken(["a/**/x.db"], "a", "a/x.db", "a/b", "a/b/c/x.db", "x.db", "b/x.db")
    assert anywhere == ["a", "a/x.db", "a/b", "a/b/c/x.db"]
    assert taken(["d/{a,b}[0-9].x?"], "d/a1.xy", "d/b2.xz", "d/c1.xy", "d/ab.xy", "d/a1.x") == ["d/a1.xy", "d/b2.xz"]
    assert taken(["**/keep"], "keep", "a/keep/x", "a/keepnot") == ["keep", "a/keep/x", "a/keepnot"], "what leads there"
    assert taken(["d/a\nb"], "d/a\nb", "d/a") == ["d/a\nb"]


def test_units_are_what_fits_without_what_is_in_it():
    paths = [b"", b"a", b"a/b", b"a/b/x.db", b"data", b"data/1", b"data/x", b"z"]
    assert list(units(["data", "data/x", "a/*/x.db"], paths)) == [b"a/b/x.db", b"data"]


NAMES = st.text(st.sampled_from("ab."), min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))
PARTS = st.one_of(NAMES, st.sampled_from(["*", "**", "a*", "*b", "?", "a*b"]))


@given(st.lists(PARTS, min_size=1, max_size=4), st.lists(NAMES, min_size=1, max_size=5))
def test_a_pattern_fits_what_a_plain_search_says_it_fits(parts, names):
    def fits(parts: list[str], names: list[str]) -> bool:
        from fnmatch import fnmatchcase

        if not parts:
            return not names
        if parts[0] == "**":
            if len(parts) == 1:
                return bool(names)
            return fits(parts[1:], names) or (bool(names) and fits(parts, names[1:]))
        return bool(names) and fnmatchcase(names[0], parts[0]) and fits(parts[1:], names[1:])

    while parts[-1] == "**" and len(parts) > 1:
        parts = parts[:-1]
    path = "/".join(names).encode()
    inside = any(fits(parts, names[:count]) for count in range(1, len(names) + 1))
    assert list(units(["/".join(parts)], [path])) == ([path] if fits(parts, names) else [])
    if inside:
        assert taken(["/".join(parts)], *("/".join(names[:count]) for count in range(1, len(names) + 1))) == [
            "/".join(names[:count]) for count in range(1, len(names) + 1)
        ]


def test_no_pattern_of_an_agent_takes_long():
    began = time.process_time()
    pattern = "/".join(["**", "*a*a*a*a*a*a*a*a*b", "**", "*a*a*a*b", "**", "c"])
    path = "/".join(["a" * 100] * 30)
    taken([pattern], path)
    assert list(units([pattern], [path.encode()])) == []
    assert time.process_time() - began < 2
