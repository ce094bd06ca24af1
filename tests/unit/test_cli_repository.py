"""Set-up, keys, lists and checks through the command line, with a real repository."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from trinity_snap import __main__ as entry

TRINITY_KEY = "ab" * 32


class Host:
    """A host with its own policy directory, and one way to call the command there."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.policy = home / "etc" / "policy.yml"
        self.home = home
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def text(self, *arguments: str, code: int = 0, stdin: str = "") -> str:
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        self._capsys.readouterr()
        returned = entry.run([*arguments, "--policy", str(self.policy)])
        captured = self._capsys.readouterr()
        assert returned == code, captured
        assert "Traceback" not in captured.err
        return captured.out + captured.err

    def json(self, *arguments: str, code: int = 0, stdin: str = "") -> dict[str, Any]:
        out = self.text(*arguments, "--json", code=code, stdin=stdin)
        answer, _ = json.JSONDecoder().raw_decode(out)
        assert isinstance(answer, dict)
        return answer

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.policy.parent.iterdir()}

    def back_up(self, name: str = "web") -> str:
        from trinity_snap.backup.engine import backup_tree
        from trinity_snap.policy import load_policy
        from trinity_snap.repository.identity import load_host_key
        from trinity_snap.repository.repository import Repository
        from trinity_snap.targets import open_target

        tree = self.home / f"tree-{name}"
        (tree / "sub").mkdir(parents=True, exist_ok=True)
        (tree / "sub" / "file").write_text("content")
        (tree / "link").unlink(missing_ok=True)
        (tree / "link").symlink_to("sub/file")
        (tree / os.fsdecode(b"caf\xe9\n")).touch()
        policy = load_policy(self.policy)
        host = load_host_key(policy.keys.host_key)
        repository = Repository.open(open_target(policy.target.settings()), host=host)
        return backup_tree(repository, self.home / "cache", tree, agent=name).id


@pytest.fixture
def make_host(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("CREDENTIAL_ENCRYPTION_KEY", raising=False)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)

    def make(name: str = "host") -> Host:
        home = tmp_path / name
        home.mkdir()
        return Host(home, capsys, monkeypatch)

    return make


@pytest.fixture
def repository(tmp_path) -> str:
    return str(tmp_path / "repository")


@pytest.fixture
def host(make_host, repository) -> Host:
    host: Host = make_host()
    host.words = host.json("init", "--target", repository)["recovery_words"]  # type: ignore[attr-defined]
    text = host.policy.read_text()
    state = host.home / "state"
    host.policy.write_text(text.replace("  #directory: /var/lib/trinity-snap", f"  directory: {state}"))
    return host


def test_init_makes_everything_with_tight_modes(host, repository):
    assert {name: stat.S_IMODE((host.policy.parent / name).stat().st_mode) for name in host.files()} == {
        "policy.yml": 0o600,
        "host.key": 0o600,
        "identity.key": 0o600,
    }
    assert stat.S_IMODE(host.policy.parent.stat().st_mode) == 0o700
    assert len(host.words) == 24
    assert [one["label"] for one in host.json("key", "list")["recipients"]] == ["operator", "recovery"]
    everything = b"".join(host.files().values()) + Path(repository, "repository").read_bytes()
    assert " ".join(host.words).encode() not in everything


def test_init_twice_changes_nothing(host, repository):
    before = host.files()
    again = host.json("init", "--target", repository)
    assert (again["changed"], again["recovery_words"]) == (False, None)
    assert "already" in host.text("init")
    assert host.files() == before
    assert host.json("init", "--target", "/elsewhere", code=2)["error"] == "UsageError"


def test_words_are_shown_once_to_people(make_host, repository):
    text = make_host().text("init", "--target", repository)
    assert "24 " in text
    assert "write them down" in text


def test_init_does_not_take_a_repository_that_is_there(host, make_host, repository):
    other = make_host("other")
    assert other.json("init", "--target", repository, code=1)["error"] == "RepositoryExists"
    assert not other.policy.parent.exists()


def test_init_refuses_to_start_anew_when_the_repository_is_gone(host, repository):
    Path(repository).rename(f"{repository}.away")
    assert host.json("init", code=1)["error"] == "RepositoryMissing"
    Path(repository).mkdir()
    assert host.json("init", code=1)["error"] == "RepositoryMissing"


def test_init_refuses_when_the_identity_is_gone(host):
    (host.policy.parent / "identity.key").unlink()
    answer = host.json("init", code=1)
    assert answer["error"] == "KeyFileError"
    assert "--adopt" in answer["next_step"]


STEPS = ["begin", "host_key", "_identity", "_repository", "keep", "finish"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupted_init_can_be_run_again(step, when, make_host, repository, monkeypatch):
    from trinity_snap.cli import init_command
    from trinity_snap.setup import home as home_module

    module = import_module("trinity_snap.setup.initialise")
    host = make_host()
    holder: Any = {"begin": home_module.Home, "finish": home_module.Home, "keep": init_command}.get(step, module)
    name = {"keep": "write_words"}.get(step, step)
    original = getattr(holder, name)

    def dies(*args: Any, **kwargs: Any) -> Any:
        if when == "after":
            original(*args, **kwargs)
        raise KeyboardInterrupt

    first = host.home / "first"
    with monkeypatch.context() as patch:
        patch.setattr(holder, name, dies)
        host.json("init", "--target", repository, "--recovery-words-file", str(first), code=130)
    second = host.home / "second"
    answer = host.json("init", "--target", repository, "--recovery-words-file", str(second))
    if (step, when) == ("finish", "after"):
        assert not answer["changed"]
        second = first
    labels = [one["label"] for one in host.json("key", "list")["recipients"]]
    assert sorted(labels) == ["operator", "recovery"]
    point = host.back_up()
    rescued = make_host("rescued")
    rescued.json("init", "--target", repository, "--from-words", stdin=second.read_text())
    assert [one["id"] for one in rescued.json("list")["points"]] == [point]
    assert host.json("init")["changed"] is False


def test_further_recipients_can_open(make_host, repository):
    host = make_host()
    key = host.home / "boss.key"
    host.json("key", "new", str(key), "--label", "boss")
    host.policy.parent.mkdir()
    (host.policy.parent / "boss.recipient").write_bytes(Path(f"{key}.recipient").read_bytes())
    assert len(host.json("init", "--target", repository)["recipients"]) == 3
    point = host.back_up()
    assert host.json("list", "--identity", str(key))["points"][0]["id"] == point


# -- the worst day ----


def test_a_lost_host_comes_back_with_the_words(host, make_host, repository):
    point = host.back_up()
    fresh = make_host("fresh")
    answer = fresh.json("init", "--target", repository, "--from-words", stdin="\n".join(host.words) + "\n")
    assert answer["adopted"]
    assert (fresh.policy.parent / "host.key").exists()
    assert [one["id"] for one in fresh.json("list")["points"]] == [point]
    later = fresh.back_up()
    assert {one["id"] for one in fresh.json("list")["points"]} == {point, later}
    assert fresh.json("verify", "--read-data")["good"]
    assert fresh.json("init", "--from-words", stdin=" ".join(host.words))["adopted"]


def test_a_lost_host_comes_back_with_its_identity(host, make_host, repository):
    point = host.back_up()
    saved = host.home / "etc" / "identity.key"
    fresh = make_host("fresh")
    answer = fresh.json("init", "--target", repository, "--adopt", "--identity", str(saved))
    assert json.loads((fresh.policy.parent / "identity.key").read_bytes())["id"] == json.loads(saved.read_bytes())["id"]
    assert len(answer["recipients"]) == 2
    assert [one["id"] for one in fresh.json("list")["points"]] == [point]


def test_a_lost_identity_is_replaced_with_the_words(host):
    point = host.back_up()
    (host.policy.parent / "identity.key").unlink()
    host.json("init", "--adopt", "--from-words", stdin=" ".join(host.words))
    assert [one["id"] for one in host.json("list")["points"]] == [point]
    assert host.json("init")["changed"] is False


def test_an_interrupted_init_keeps_a_recovery_recipient_of_the_users_own(make_host, repository, monkeypatch):
    from trinity_snap.repository.identity import save_recipient
    from trinity_snap.repository.keys import generate_identity

    module = import_module("trinity_snap.setup.initialise")
    host = make_host()
    own = generate_identity("recovery").recipient
    host.policy.parent.mkdir()
    save_recipient(host.policy.parent / "own.recipient", own)
    arguments = ["init", "--target", repository, "--recovery-words-file"]
    repository_of = module._repository

    def dies(*args: Any) -> Any:
        repository_of(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_repository", dies)
        host.json(*arguments, str(host.home / "first"), code=130)
    host.json(*arguments, str(host.home / "second"))
    recipients = host.json("key", "list")["recipients"]
    assert sorted(one["label"] for one in recipients) == ["operator", "recovery", "recovery"]
    assert own.id in {one["id"] for one in recipients}


def test_an_interrupted_adoption_is_finished_as_one(host, make_host, repository, monkeypatch):
    from trinity_snap.setup.home import Home

    fresh = make_host("fresh")
    with monkeypatch.context() as patch:
        patch.setattr(Home, "finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        fresh.json("init", "--target", repository, "--from-words", stdin=" ".join(host.words), code=130)
    assert "--from-words" in fresh.json("init", "--target", repository, code=2)["next_step"]
    fresh.json("init", "--target", repository, "--from-words", stdin=" ".join(host.words))
    assert fresh.json("list") == {"points": [], "unreadable": []}


@pytest.mark.parametrize("words", ["", "foo bar", "abandon " * 24, "abandon " * 23 + "art"])
def test_wrong_words_change_nothing(words, host, make_host, repository):
    fresh = make_host("fresh")
    assert fresh.json("init", "--target", repository, "--from-words", stdin=words, code=1)["error"] in (
        "KeyFileError",
        "WrongKey",
    )
    assert not fresh.policy.parent.exists()


# -- points ----


def test_points_are_listed_and_shown(host):
    first = host.back_up()
    second = host.back_up("db")
    answer = host.json("list")
    assert [one["id"] for one in answer["points"]] == [second, first]
    assert {"id", "agent", "host", "created", "run_id", "files", "bytes", "consistency"} <= set(answer["points"][0])
    assert [one["id"] for one in host.json("list", "web")["points"]] == [first]
    assert first[:8] in host.text("list")
    shown = host.json("show", first[:6])
    assert (shown["id"], shown["files"]) == (first, 2)
    assert shown["volumes"][0]["name"] == "web"
    assert first in host.text("show", first)


def test_directories_in_a_point_are_listed(host):
    point = host.back_up()
    entries = host.json("show", point, "--path", "web:")["entries"]
    assert [entry["path"] for entry in entries] == [os.fsdecode(b"caf\xe9\n"), "link", "sub"]
    assert entries[1]["target"] == "sub/file"
    assert host.json("show", point, "--path", "sub")["entries"][0]["bytes"] == 7
    assert [entry["path"] for entry in host.json("show", point, "--path", "sub/file")["entries"]] == ["sub/file"]
    text = host.text("show", point, "--path", "web:")
    assert "link -> sub/file" in text
    assert "caf\\udce9\\n" in text
    for nothing in ("none", "sub/none", "../x", "/", "other:x", "sub/file/x", "\0"):
        assert host.json("show", point, "--path", nothing, code=2)["error"] == "UsageError"


def test_points_that_are_not_there_are_named(host):
    host.back_up()
    assert host.json("show", "ffff0000", code=2)["error"] == "PointMissing"
    assert host.json("show", "f", code=2)["error"] == "PointMissing"
    assert host.json("verify", "ffff0000", code=2)["error"] == "PointMissing"


def test_damage_is_found_and_is_code_90(host, repository):
    point = host.back_up()
    assert host.json("verify", "--read-data") == {
        **host.json("verify", "--read-data"),
        "good": True,
        "unreadable": [],
        "damaged_objects": [],
    }
    pack = next(path for path in Path(repository, "packs").rglob("*") if path.is_file())
    data = bytearray(pack.read_bytes())
    data[80] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    answer = host.json("verify", "--read-data", code=90)
    assert not answer["good"]
    assert "DAMAGED" in host.text("verify", "--read-data", code=90)
    object_path = Path(repository, "points", point)
    damaged = bytearray(object_path.read_bytes())
    damaged[100] ^= 1
    object_path.chmod(0o600)
    object_path.write_bytes(damaged)
    assert host.json("list", code=90)["unreadable"][0]["id"] == point
    assert "cannot be read" in host.text("list", code=90)
    assert host.json("verify", code=90)["unreadable"][0]["id"] == point


def test_without_an_identity_only_an_identity_is_missing(host):
    host.back_up()
    text = host.policy.read_text()
    host.policy.write_text(text.replace("  #identity: identity.key", "  identity: null"))
    for command in (["list"], ["verify", "--read-data"], ["key", "words"]):
        assert host.json(*command, code=1)["error"] == "IdentityNeeded"
    assert host.json("status")["source"] == "runs"
    assert len(host.json("list", "--identity", str(host.policy.parent / "identity.key"))["points"]) == 1


# -- keys ----


def test_an_identity_is_wrapped_and_unwrapped(host, monkeypatch):
    point = host.back_up()
    secret = host.home / "passphrase"
    secret.write_text("correct horse\n")
    host.json("key", "wrap", "passphrase", "--passphrase-file", str(secret))
    assert host.json("key", "list")["identity"]["wrapped_by"] == "passphrase"
    assert host.json("list", code=1)["error"] == "KeyFileError"
    assert host.json("list", "--passphrase-file", str(secret))["points"][0]["id"] == point
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(host.home))
    (host.home / "trinity-snap-passphrase").write_text("correct horse")
    assert host.json("list")["points"][0]["id"] == point
    (host.home / "trinity-snap-passphrase").write_text("wrong")
    assert host.json("list", code=1)["error"] == "WrongKey"
    host.json("key", "unwrap", "--passphrase-file", str(secret))
    monkeypatch.setenv("CREDENTIAL_ENCRYPTION_KEY", TRINITY_KEY)
    host.json("key", "wrap", "trinity")
    assert host.json("list")["points"][0]["id"] == point
    assert host.json("key", "list")["identity"]["wrapped_by"] == "trinity"
    monkeypatch.setenv("CREDENTIAL_ENCRYPTION_KEY", "cd" * 32)
    assert host.json("list", code=1)["error"] == "WrongKey"
    monkeypatch.delenv("CREDENTIAL_ENCRYPTION_KEY")
    assert host.json("list", code=1)["error"] == "KeyFileError"
    (host.home / "trinity.key").write_text(TRINITY_KEY)
    assert host.json("list", "--trinity-key-file", str(host.home / "trinity.key"))["points"]


def test_secrets_are_never_arguments(capsys):
    for leaf in (["init"], ["key", "wrap"], ["key", "rotate"], ["list"]):
        assert entry.run([*leaf, "--help"]) == 0
        assert "--passphrase " not in capsys.readouterr().out


def test_a_new_recipient_opens_what_was_there_before(host):
    point = host.back_up()
    key = host.home / "boss"
    host.json("key", "new", str(key), "--label", "boss")
    assert host.json("list", "--identity", str(key))["points"] == []
    added = host.json("key", "add", f"{key}.recipient")
    assert added["unreadable_sessions"] == []
    assert host.json("list", "--identity", str(key))["points"][0]["id"] == point
    host.json("key", "retire", added["added"])
    later = host.back_up("db")
    assert later not in [one["id"] for one in host.json("list", "--identity", str(key))["points"]]


def test_a_rotated_identity_opens_everything_and_the_old_one_nothing_new(host):
    before = host.back_up()
    old = host.home / "old.key"
    old.write_bytes((host.policy.parent / "identity.key").read_bytes())
    old.chmod(0o600)
    rotated = host.json("key", "rotate")
    assert len(rotated["retired"]) == 1
    after = host.back_up("db")
    assert {one["id"] for one in host.json("list")["points"]} == {before, after}
    assert [one["id"] for one in host.json("list", "--identity", str(old))["points"]] == [before]
    assert sorted(path.name for path in host.policy.parent.iterdir()) == ["host.key", "identity.key", "policy.yml"]


def test_rotated_recovery_words_take_the_place_of_the_old(host, make_host, repository):
    before = host.back_up()
    new = host.json("key", "rotate", "--recovery")["recovery_words"]
    after = host.back_up("db")
    assert [one["label"] for one in host.json("key", "list")["recipients"]] == ["operator", "recovery"]
    fresh = make_host("fresh")
    fresh.json("init", "--target", repository, "--from-words", stdin=" ".join(new))
    assert {one["id"] for one in fresh.json("list")["points"]} == {before, after}


def test_the_words_of_an_identity_are_the_identity(host):
    spelled = host.json("key", "words")["words"]
    copy = host.home / "copy.key"
    host.json("key", "new", str(copy), "--from-words", stdin=" ".join(spelled))
    point = host.back_up()
    assert host.json("list", "--identity", str(copy))["points"][0]["id"] == point


# -- status ----


def run_record(host: Host, number: int, **agent: Any) -> None:
    directory = host.home / "state" / "runs"
    directory.mkdir(parents=True, exist_ok=True)
    part = {"agent": "web", "outcome": "done", "point": None, "error": None, **agent}
    run = {"run_id": f"{number:032x}", "started": f"2026-01-0{number}T00:00:00+00:00", "agents": [part]}
    run["outcome"] = part["outcome"]
    (directory / f"{number:032x}.json").write_text(json.dumps(run))


def test_status_of_nothing(host, monkeypatch):
    # Tests of local snapshots may have made some on this machine.
    monkeypatch.setattr("trinity_snap.snapshot.local.unregistered", lambda state_dir: [])
    status = host.json("status")
    nothing: dict[str, object] = {
        "source": "repository",
        "agents": [],
        "stale": [],
        "warnings": [],
        "running": None,
        "local_snapshots": 0,
        "unnamed_points": 0,
        "replicas": [],
        "data_checked": {"packs": 0, "never": 0, "damaged": 0, "complete_since": None},
        "target_error": None,
    }
    assert status == nothing
    assert "No recovery points" in host.text("status")


def test_status_shows_what_is_going_on(host):
    from trinity_snap.quiesce import HostLock

    with HostLock(host.home / "state", "abcd", "restore"):
        assert host.json("status")["running"]["run_id"] == "abcd"
        assert "Now: restore abcd" in host.text("status")
    assert host.json("status")["running"] is None
    (host.home / "state" / "lock").write_text('{"what": "backup", "run_id": "dead", "pid": 1, "since": "x"}')
    assert host.json("status")["running"] is None


def test_status_warns_of_a_restore_that_did_not_end(host):
    from trinity_snap.quiesce import HostLock
    from trinity_snap.restore.journal import RestoreJournal

    state = host.home / "state"
    RestoreJournal("0123456789abcdef", "web", "p", "now", phase="swapping").save(state)
    RestoreJournal("fedcba9876543210", "web", "p", "now", phase="kept").save(state)
    (warning,) = host.json("status")["warnings"]
    assert "0123456789abcdef" in warning
    assert "trinity-snap recover" in warning
    with HostLock(state, "abcd", "restore"):
        assert host.json("status")["warnings"] == []


def test_status_joins_points_and_runs(host):
    point = host.back_up()
    run_record(host, 1, point=point, duration_seconds=1.5)
    run_record(host, 2, outcome="failed", error="The disk is full.")
    (web,) = host.json("status")["agents"]
    assert (web["point"], web["duration_seconds"], web["points"]) == (point, 1.5, 1)
    assert web["last_run"]["outcome"] == "failed"
    assert web["warnings"] == ["The last run failed: The disk is full."]
    assert "The disk is full." in host.text("status")


def test_status_misses_a_point_that_a_run_made(host):
    host.back_up()
    run_record(host, 1, point="00" * 16)
    assert "is not in the repository" in host.json("status")["agents"][0]["warnings"][0]


def test_status_is_stale_when_the_last_point_is_too_old_or_missing(host):
    host.back_up()
    assert host.json("status", "--max-age", "1h")["stale"] == []
    run_record(host, 1, agent="db", outcome="failed", error="no")
    answer = host.json("status", "--max-age", "1h", code=1)
    assert answer["stale"] == ["db"]
    assert "There is no recovery point." in answer["agents"][0]["warnings"]


def test_status_without_an_identity_trusts_the_repository_for_what_is_there(host):
    point = host.back_up()
    run_record(host, 1, point=point, files=2, bytes=7, consistency="crash-consistent", pause_seconds=0.1)
    run_record(host, 2, point="00" * 16)
    text = host.policy.read_text()
    host.policy.write_text(text.replace("  #identity: identity.key", "  identity: null"))
    answer = host.json("status")
    assert answer["source"] == "runs"
    (web,) = answer["agents"]
    assert (web["point"], web["files"]) == (point, 2)
    assert "is not in the repository" in web["warnings"][0]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"started": "x", "agents": 3}', '{"started": "x", "agents": [3]}']
)
def test_status_survives_damaged_records(host, content):
    directory = host.home / "state" / "runs"
    directory.mkdir(parents=True)
    (directory / "x.json").write_text(content)
    assert host.json("status")["agents"] == []
