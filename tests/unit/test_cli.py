"""The command line: quick to start, the same everywhere, and never a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from trinity_snap import __main__ as entry
from trinity_snap.cli.group import COMMANDS
from trinity_snap.errors import IntegrityError, SomeFailed

HEAVY = ("docker", "boto3", "rich", "cryptography", "pydantic", "zstandard", "blake3", "pyfastcdc", "yaml", "msgspec")
LEAVES = [
    *([name] for name in COMMANDS if name not in ("policy", "key", "target", "fleet")),
    *(["policy", name] for name in ("show", "check", "schema")),
    *(["key", name] for name in ("list", "add", "retire", "rotate", "wrap", "unwrap", "words", "new")),
    *(["key", name] for name in ("pin", "accept", "host-key")),
    *(["target", name] for name in ("check", "policy")),
    *(["fleet", name] for name in ("backup", "status", "verify", "recover", "restore", "prune")),
]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trinity_snap", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", [("-m", "trinity_snap", "--help"), ("-c", "import trinity_snap.cli")])
def test_it_starts_quickly(command):
    """By the clock on the wall. Other work on the machine slows it down at times, and never makes it quicker."""
    least = 60.0
    for _ in range(60):
        began = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
        least = min(least, time.perf_counter() - began)
        if least < 0.15:
            return
    pytest.fail(f"the quickest of 60 starts took {least:.3f} s")


@pytest.mark.parametrize("leaf", [[], *LEAVES], ids=" ".join)
def test_help_imports_nothing_heavy(leaf):
    # The library of the command line itself uses pydantic for the arguments of a subcommand.
    heavy = [name for name in HEAVY if name != "pydantic" or not leaf]
    code = (
        "import sys; from trinity_snap.__main__ import run; "
        f"assert run({[*leaf, '--help']!r}) == 0; "
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "Usage:" in done.stdout


@pytest.mark.parametrize("leaf", LEAVES, ids=" ".join)
def test_every_command_has_the_common_options(leaf, capsys):
    assert entry.run([*leaf, "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--json", "--policy", "--quiet"):
        assert option in text


def test_no_arguments_is_help(capsys):
    assert entry.run([]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)


def test_the_version(capsys):
    from trinity_snap import __version__

    assert entry.run(["--version"]) == 0
    assert capsys.readouterr().out == f"trinity-snap {__version__}\n"
    assert entry.run(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == __version__


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lst"], "did you mean `list`?"),
        (["list", "--nonsense"], "--nonsense"),
        (["show"], "POINT"),
        (["status", "--max-age", "soon"], "no length of time"),
        (["policy", "shw"], "shw"),
        (["restore"], "Name an agent"),
        (["restore", "x", "--at", "yesterday"], "is no time"),
        (["restore", "x", "--at", "2h ago", "--point", "abcd"], "exclude each other"),
        (["init", "--adopt"], "--from-words"),
        (["fleet", "status"], "Give an inventory"),
        (["fleet", "status", "-i", "/nonexistent"], "no inventory /nonexistent"),
        (["fleet", "backup", "-i", "h,", "--max-failures", "some"], "is no number of hosts"),
        (["fleet", "restore", "-i", "h,"], "Name agents"),
        (["init", "--wrap", "glue"], "no way to wrap"),
    ],
)
def test_wrong_usage_is_code_2_and_a_sentence(arguments, words, capsys, monkeypatch, tmp_path):
    policy = tmp_path / "etc" / "policy.yml"
    if arguments[0] != "init":
        policy.parent.mkdir()
        policy.write_text(f"target: {tmp_path}/repository\n")
    monkeypatch.setenv("TRINITY_SNAP_POLICY", str(policy))
    if os.geteuid() != 0 and arguments[0] == "restore":
        pytest.skip("says first that it needs root")
    assert entry.run(arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""
    assert entry.run([*arguments, "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["exit_code"] == 2
    assert words in answer["message"] + answer["next_step"]


@pytest.mark.parametrize(
    "leaf",
    [
        leaf
        for leaf in LEAVES
        if leaf not in (["init"], ["version"], ["policy", "schema"], ["key", "new"]) and leaf[0] != "fleet"
    ],
    ids=" ".join,
)
def test_without_a_policy_every_command_says_so(leaf, capsys, tmp_path):
    arguments = {
        "show": ["abcd"],
        "restore": ["x"],
        "grant": ["x"],
        "diff": ["x"],
        "find": ["x"],
        "mount": ["x", str(tmp_path)],
        "add": ["f"],
        "retire": ["i"],
        "wrap": ["trinity"],
        "host-key": ["f"],
    }
    given = [] if leaf == ["policy", "show"] else arguments.get(leaf[-1], [])
    if leaf == ["key", "add"]:
        from trinity_snap.repository.identity import save_recipient
        from trinity_snap.repository.keys import generate_identity

        given = [str(tmp_path / "recipient")]
        save_recipient(given[0], generate_identity("x").recipient)
    assert entry.run([*leaf, *given, "--policy", str(tmp_path / "none.yml"), "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["error"] == "PolicyError"
    assert "trinity-snap init" in answer["next_step"]


# -- how things end ----


@pytest.fixture
def command_raising(monkeypatch):
    def arrange(error: BaseException) -> None:
        from trinity_snap.cli import version_command

        def broken(*_: object) -> None:
            raise error

        monkeypatch.setattr(version_command, "emit", broken)

    return arrange


def test_an_error_of_ours_has_its_code_and_its_sentences(command_raising, capsys):
    command_raising(IntegrityError("It is broken.", untouched="Nothing was changed.", next_step="Weep."))
    assert entry.run(["version"]) == 90
    assert capsys.readouterr().err == "trinity-snap: It is broken. Nothing was changed. Weep.\n"
    command_raising(SomeFailed("Some."))
    assert entry.run(["version", "--json"]) == 10
    assert json.loads(capsys.readouterr().out)["error"] == "SomeFailed"


def test_an_unexpected_error_is_a_sentence_and_no_traceback(command_raising, capsys, monkeypatch):
    monkeypatch.delenv("TRINITY_SNAP_DEBUG", raising=False)
    command_raising(ZeroDivisionError("oops"))
    assert entry.run(["version"]) == 1
    text = capsys.readouterr().err
    assert "ZeroDivisionError: oops" in text
    assert "report" in text
    assert "Traceback" not in text
    monkeypatch.setenv("TRINITY_SNAP_DEBUG", "1")
    assert entry.run(["version"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_refusal_by_the_system_is_a_sentence(command_raising, capsys):
    command_raising(PermissionError(13, "Permission denied", "/secret"))
    assert entry.run(["version"]) == 1
    assert "Permission denied: /secret. Run as root." in capsys.readouterr().err
    command_raising(OSError(28, "No space left on device"))
    assert entry.run(["version"]) == 1
    assert "No space left on device" in capsys.readouterr().err


def test_an_interruption_is_130_and_a_sentence(command_raising, capsys):
    command_raising(KeyboardInterrupt())
    assert entry.run(["version"]) == 130
    assert "Interrupted." in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_ends_the_command_with_a_sentence(number, code):
    done = signalled("--default-signal", number)
    assert done.returncode == code
    assert done.stderr.startswith("trinity-snap: Interrupted.")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_it_was_started_to_ignore_as_by_nohup_does_not_end_it(number):
    done = signalled("--ignore-signal", number)
    assert (done.returncode, done.stderr) == (0, "")


def signalled(started_with, number):
    """A command that gets a signal while it runs, started with a disposition of that signal."""
    script = (
        "import os, sys, trinity_snap.__main__ as entry, trinity_snap.cli.version_command as module\n"
        f"module.emit = lambda *_: os.kill(os.getpid(), {int(number)})\n"
        "sys.argv[1:] = ['version']\n"
        "entry.main()\n"
    )
    started = ["env", f"{started_with}={number.name.removeprefix('SIG')}", sys.executable, "-c", script]
    return subprocess.run(started, capture_output=True, text=True, timeout=60, check=False)


def test_a_closed_pipe_is_no_traceback():
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m trinity_snap policy schema | true"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [["backup"], ["restore", "web"], ["recover"]])
def test_who_is_not_root_is_told(command, capsys, monkeypatch, tmp_path):
    policy = tmp_path / "policy.yml"
    policy.write_text("version: 1\n")
    monkeypatch.setattr(os, "geteuid", lambda: policy.stat().st_uid or 1000)
    assert entry.run([*command, "--policy", str(policy)]) == 2
    assert "needs root" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["restore", "web", "--release", "--to", "/nowhere"],
        ["restore", "web", "--release", "--point", "latest"],
        ["restore", "web", "--release", "--kept"],
        ["restore", "--kept", "--path", "x"],
        ["rollback", "--list", "--remove", "abcd"],
        ["rollback", "web", "--remove", "abcd"],
        ["rollback", "--list", "--to", "abcd"],
    ],
    ids=" ".join,
)
def test_what_removes_or_lists_takes_no_options_of_what_restores(words, tmp_path):
    policy = tmp_path / "policy.yml"
    policy.write_text(f"version: 1\ntarget: {tmp_path}\nstate: {{directory: {tmp_path}}}\n")
    done = run(*words, "--policy", str(policy))
    assert done.returncode == 2, done
    assert "do not go together" in done.stderr
    assert "Nothing was done." in done.stderr
