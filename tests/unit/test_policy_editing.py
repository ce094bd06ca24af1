"""Changing a policy: just that setting, in one step, with who and when kept, announced if points would go, and undone again."""

from __future__ import annotations

import json
import os
import pty
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_cli_json import assert_same_shape, documented
from tests.unit.test_cli_repository import Host, host, make_host, repository
from trinity_snap.errors import PolicyError, UsageError
from trinity_snap.policy.editing import Change, change_text, parse_change
from trinity_snap.policy.fields import walk
from trinity_snap.policy.history import changing, put_in_force, versions
from trinity_snap.policy.load import parse_policy
from trinity_snap.policy.render import EXAMPLE_VALUES, render_policy
from trinity_snap.policy.schema import Policy

__all__ = ["host", "make_host", "repository"]  # fixtures

PATH = Path("/etc/trinity-snap/policy.yml")


def changed(text: str, *changes: str) -> str:
    return change_text(text, [parse_change(one) for one in changes], PATH)


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        ("", "target=/mnt/x", "target: /mnt/x\n"),
        ("# only a comment\n", "retention.daily=7", "# only a comment\nretention: {daily: 7}\n"),
        ("target: /a # why\nhost: h\n", "target=/b", "target: /b # why\nhost: h\n"),
        ("target: /a\n", "target.requests=4", "target: {url: /a, requests: 4}\n"),
        ("retention:\n  daily: 1 # days\n  last: 2\n", "retention.daily=7", "retention:\n  daily: 7 # days\n  last: 2\n"),
        ("retention:\n  last: 2\nhost: h\n", "retention.daily=7", "retention:\n  last: 2\n  daily: 7\nhost: h\n"),
        ("retention:\n  # few\n  #daily: 0\n\nhost: h\n", "retention.daily=7", "retention:\n  # few\n  daily: 7\n\nhost: h\n"),
        ("retention: {last: 2}\n", "retention.daily=7", "retention: {daily: 7, last: 2}\n"),
        ("retention: {}\n", "retention.daily=7", "retention: {daily: 7}\n"),
        ("exclude:\n  - a\n  - b # x\nhost: h\n", "exclude=[c]", "exclude: [c] # x\nhost: h\n"),
        ("overrides:\n  web:\n    exclude: [a]\n", "overrides.db.retention.last=3",
         "overrides:\n  web:\n    exclude: [a]\n  db: {retention: {last: 3}}\n"),
        ("host: h", "exclude=['*.tmp']", 'host: h\nexclude: ["*.tmp"]\n'),
        ("host:\nexclude: []\n", "host=h", "host: h\nexclude: []\n"),
    ],
)  # fmt: skip
def test_only_the_setting_changes(before, change, after):
    assert changed(before, change) == after


def test_a_setting_of_the_generated_file_takes_its_commented_line():
    text = render_policy(EXAMPLE_VALUES)
    after = changed(text, "retention.daily=7", "quiesce.drain.enabled=true", "exclude=[a]", "trinity.url=http://t:8000")
    differing = [(old, new) for old, new in zip(text.splitlines(), after.splitlines(), strict=True) if old != new]
    assert sorted(new.strip() for _, new in differing) == [
        "daily: 7",
        "enabled: true",
        "exclude: [a]",
        'url: "http://t:8000"',
    ]
    policy = parse_policy(after, PATH)
    assert (policy.retention.daily, policy.quiesce.drain.enabled, policy.exclude) == (7, True, ("a",))


NAMES = sorted(each.name for each in walk(Policy) if each.section is None and not set("[<") & set(each.name))
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-9, 99),
        st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"])),
    ),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.sampled_from(NAMES), VALUES), min_size=1, max_size=4),
    st.sampled_from(["full", "bare", "none"]),
)
def test_whatever_is_set_is_what_the_file_then_says_and_nothing_else_changes(changes, start):
    text = {
        "full": render_policy(EXAMPLE_VALUES),
        "bare": "version: 1\ntarget:\n  url: /x\nretention: {last: 1}\n",
        "none": "",
    }[start]
    expected = yaml.safe_load(text) or {}

    def without_empty(data: object) -> object:
        return (
            {key: without_empty(value) for key, value in data.items() if value is not None}
            if isinstance(data, dict)
            else data
        )

    for name, value in changes:
        text = change_text(text, [Change(tuple(name.split(".")), value)], PATH)
        *above, last = name.split(".")
        section = expected
        for step in above:
            if not isinstance(section.get(step), dict):
                section[step] = {}
            section = section[step]
        section[last] = value
    assert without_empty(yaml.safe_load(text)) == without_empty(expected)


def test_what_cannot_be_set_is_refused_in_words():
    with pytest.raises(UsageError, match="no setting with a value"):
        parse_change("retention.daily")
    with pytest.raises(UsageError, match="is no section"):
        changed("host: h\n", "host.name=x")
    with pytest.raises(PolicyError):
        changed("a: [", "host=x")


# -- the command ------------------------------------------------------------------------------------------------------


def test_a_change_is_checked_kept_and_undone(host: Host, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SUDO_USER", "ada")
    before = host.policy.read_text()
    assert_same_shape(host.json("policy", "history"), documented("policy history"))
    tried = host.json("policy", "set", "exclude=[a]", "--dry-run")
    assert (tried["changed"], host.policy.read_text()) == (False, before)
    done = host.json("policy", "set", "exclude=[a]", "quiesce.mode=none")
    assert_same_shape(done, documented("policy set"))
    assert (done["changed"], done["by"], done["points_going"]) == (True, "ada", 0)
    assert stat.S_IMODE(host.policy.stat().st_mode) == 0o600
    wrong = host.json("policy", "set", "quiesce.mode=sleep", code=2)
    assert "quiesce.mode" in wrong["message"]
    assert_same_shape(host.json("policy", "diff"), documented("policy diff"))
    (version,) = host.json("policy", "history")["versions"]
    assert (version["by"], version["how"]) == ("ada", "set exclude quiesce.mode")
    host.json("policy", "undo", "--by", "bob")
    assert host.policy.read_text() == before
    assert [one["by"] for one in host.json("policy", "history")["versions"]] == ["bob", "ada"]
    host.json("policy", "undo")
    assert "exclude: [a]" in host.policy.read_text()
    assert host.json("policy", "set", "exclude=[a]")["changed"] is False
    assert host.json("policy", "undo", "--to", "9", code=2)["error"] == "UsageError"


def test_a_change_that_would_let_points_go_says_how_many_and_needs_to_be_confirmed(host: Host):
    for _ in range(4):
        host.back_up()
    host.json("policy", "set", "retention.last=4", "retention.minimum=1")
    before = host.policy.read_text()
    refused = host.json("policy", "set", "retention.last=1", code=2)
    assert refused["error"] == "RemovalRefused"
    assert "3 recovery points" in refused["message"]
    assert host.policy.read_text() == before
    assert host.json("policy", "set", "retention.last=1", "--dry-run")["points_going"] == 3
    draft = host.policy.with_name("draft.yml")
    draft.write_text(before.replace("last: 4", "last: 1"))
    checked = host.json("policy", "check", str(draft), "--instead-of", str(host.policy))
    assert_same_shape(checked, documented("policy check"))
    assert (checked["points_going"], host.json("policy", "check")["points_going"]) == (3, None)
    assert host.json("policy", "set", "retention.last=2", "--yes")["points_going"] == 2
    assert host.json("policy", "undo")["points_going"] == 0, "to keep more costs nothing"
    assert len(host.json("list")["points"]) == 4


def test_points_that_would_go_at_a_replica_count_too(host: Host, tmp_path: Path):
    for _ in range(4):
        host.back_up()
    replica = f"name: far, url: {tmp_path}/far"
    host.json("policy", "set", "retention.last=4", "retention.minimum=1", f"replicas=[{{{replica}}}]")
    fewer = f"replicas=[{{{replica}, retention: {{last: 1}}}}]"
    assert "3 recovery points" in host.json("policy", "set", fewer, code=2)["message"]
    assert host.json("policy", "set", fewer, "--yes")["points_going"] == 3


def test_what_cannot_be_counted_needs_to_be_confirmed_too(host: Host):
    (host.policy.parent / "identity.key").unlink()
    refused = host.json("policy", "set", "retention.last=1", code=2)
    assert "cannot be said here" in refused["message"]
    assert host.json("policy", "set", "retention.last=1", "--yes")["points_going"] is None


def test_schedules_are_explained_and_checked(host: Host):
    answer = host.json("policy", "when", "Mon..Fri 03:30", "2020-01-01")
    assert_same_shape(answer, documented("policy when"))
    week, never = answer["schedules"]
    assert (week["normalized"], len(week["next"]), never["next"]) == ("Mon..Fri *-*-* 03:30:00", 5, [])
    assert "no calendar expression" in host.json("policy", "when", "noonish", code=2)["message"]
    assert "drill.schedule" in host.json("policy", "set", "drill.schedule=noonish", code=2)["message"]
    host.json("policy", "set", "drill.schedule=weekly")
    assert host.json("policy", "when")["schedules"][0]["setting"] == "drill.schedule"


def test_a_policy_with_mistakes_can_be_put_back(host: Host):
    before = host.policy.read_text()
    host.json("policy", "set", "exclude=[a]")
    host.policy.write_text("nonsense: true\n")
    assert host.json("policy", "set", "host=x", code=2)["error"] == "PolicyError"
    host.json("policy", "undo")
    assert host.policy.read_text() == before


def test_a_policy_that_somebody_else_changed_meanwhile_is_left_alone(tmp_path: Path):
    path = tmp_path / "policy.yml"
    path.write_text("host: theirs\n")
    with changing(path), pytest.raises(PolicyError, match="somebody else"):
        put_in_force(path, "host: old\n", "host: mine\n", "me", "set")
    assert path.read_text() == "host: theirs\n"
    assert versions(path) == []


def test_a_change_that_is_killed_leaves_the_old_policy_or_the_new_one(tmp_path: Path):
    path = tmp_path / "policy.yml"
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom trinity_snap.policy import history\n"
        "names = ['link', 'rename', 'fsync', 'write']\ncount = [int(sys.argv[2])]\n"
        "def deadly(real):\n"
        "    def call(*a, **k):\n"
        "        count[0] -= 1\n"
        "        if count[0] == 0: os.kill(os.getpid(), 9)\n"
        "        return real(*a, **k)\n"
        "    return call\n"
        "path = Path(sys.argv[1])\n"
        "with history.changing(path):\n"
        "    for name in names: setattr(os, name, deadly(getattr(os, name)))\n"
        "    history.put_in_force(path, 'host: old\\n', 'host: new\\n', 'me', 'set')\n"
    )
    for number in range(1, 40):
        path.write_text("host: old\n")
        done = subprocess.run([sys.executable, "-c", program, str(path), str(number)], check=False, capture_output=True)
        assert path.read_text() in ("host: old\n", "host: new\n")
        assert all(one.text() == "host: old\n" for one in versions(path))
        if done.returncode == 0:
            assert number > 5
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    else:
        pytest.fail("it never ended")


def test_the_editor_gets_a_copy_and_mistakes_do_not_get_in_force(host: Host, tmp_path: Path):
    assert "needs a terminal" in host.text("policy", "edit", code=2)
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\necho "host: \'edited\'" >> "$1"\n')
    editor.chmod(0o755)
    environment = {**os.environ, "EDITOR": str(editor), "VISUAL": ""}
    command = [sys.executable, "-m", "trinity_snap", "policy", "edit", "--policy", str(host.policy), "--by", "eve"]
    master, slave = pty.openpty()
    try:
        subprocess.run(command, stdin=slave, capture_output=True, check=True, env=environment, timeout=60)
        assert host.policy.read_text().endswith("host: 'edited'\n")
        assert host.json("policy", "history")["versions"][0]["by"] == "eve"
        os.write(master, b"n\n")
        again = subprocess.run(command, stdin=slave, capture_output=True, check=False, env=environment, timeout=60)
        assert (again.returncode, b"occurs twice" in again.stderr) == (2, True), again
    finally:
        os.close(master)
        os.close(slave)
    assert json.dumps(host.policy.read_text()).count("edited") == 1
