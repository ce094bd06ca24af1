"""`trinity-snap grant` on a control node and `trinity-snap restore --grant -` on a host, as commands with a pipe between."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_cli_repository import Host, make_host
from trinity_snap.repository.grantform import decode_grant, encode_grant

__all__ = ["make_host"]  # a fixture

COMMAND = [sys.executable, "-m", "trinity_snap"]
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Ended:
    """A command that has ended. `out` is bytes: it may be a grant."""

    code: int
    out: bytes
    errors: str

    def json(self) -> dict[str, Any]:
        answer = json.loads(self.out)
        assert isinstance(answer, dict)
        return answer


def run(
    *arguments: str, stdin: bytes = b"", env: dict[str, str] | None = None, before: list[str] | None = None
) -> Ended:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **(env or {})}
    done = subprocess.run(
        [*(before or []), *COMMAND, *arguments], input=stdin, capture_output=True, env=environment, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr.decode())


@dataclass
class Pair:
    """A control node with policy, identity and repository, and a host with a policy that has none of it."""

    control: Host
    policy: Path
    repository: str
    home: Path
    point: str

    def grant(self, *arguments: str) -> Ended:
        return run("grant", *arguments, "--policy", str(self.control.policy))

    def restore(self, grant: bytes, *arguments: str, **more: Any) -> Ended:
        return run("restore", "--grant", "-", *arguments, "--policy", str(self.policy), stdin=grant, **more)

    def restored(self, to: str) -> str:
        (file,) = (self.home / to).rglob("sub/file")
        return file.read_text()


@pytest.fixture
def pair(make_host: Callable[..., Host], tmp_path: Path) -> Pair:
    control = make_host("control")
    repository = str(tmp_path / "repository")
    control.json("init", "--target", repository)
    point = control.back_up()
    home = tmp_path / "host"
    home.mkdir()
    policy = home / "policy.yml"
    document = {"target": repository, "keys": {"identity": None}, "state": {"directory": str(home / "state")}}
    policy.write_text(json.dumps(document))
    return Pair(control, policy, repository, home, point)


def test_a_host_without_keys_restores_with_a_grant(pair: Pair) -> None:
    granted = pair.grant("web", "--json")
    summary = json.loads(granted.errors)
    assert granted.code == 0
    assert (summary["point"], summary["agent"], summary["addresses"], summary["missing"]) == (
        pair.point,
        "web",
        False,
        [],
    )
    assert summary["grant_bytes"] == len(granted.out)
    assert pair.grant(pair.point[:8]).out[:8] == b"TSNAPGR\x01"
    planned = pair.restore(granted.out, "--to", str(pair.home / "back"), "--dry-run", "--json").json()
    of_identity = pair.control.json("restore", "web", "--to", str(pair.home / "back"), "--dry-run")
    for plan in (planned, of_identity):
        del plan["restore_id"], plan["space"]
    assert planned == of_identity
    done = pair.restore(granted.out, "--to", str(pair.home / "back"), "--json")
    assert (done.code, done.json()["outcome"]) == (0, "restored"), done
    assert pair.restored("back") == "content"


def test_a_fresh_host_without_any_policy_restores_with_a_grant(pair: Pair) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare")
    # Its /etc and /var/lib are empty; nothing of it is left on this machine.
    hide = 'mount -t tmpfs none /var/lib && mount -t tmpfs none /etc && exec "$@"'
    granted = pair.grant("web").out
    arguments = ["restore", "--grant", "-", "--to", str(pair.home / "back"), "--json"]
    fresh = ["unshare", "-m", "sh", "-c", hide, "sh"]
    refused = run(*arguments, stdin=granted, before=fresh)
    assert "--target" in refused.json()["next_step"]
    done = run(*arguments, "--target", pair.repository, stdin=granted, before=fresh)
    assert done.code == 0, done
    assert pair.restored("back") == "content"


def test_a_grant_of_a_path_restores_that_path_and_refuses_others(pair: Pair) -> None:
    granted = pair.grant("web", "--path", "sub").out
    assert pair.restore(granted, "--to", str(pair.home / "back")).code == 0
    assert pair.restored("back") == "content"
    refused = pair.restore(granted, "--to", str(pair.home / "no"), "--path", "link", "--json").json()
    assert (refused["error"], refused["untouched"]) == ("GrantError", "Nothing was changed.")
    assert "only for sub" in refused["message"]
    assert (
        pair.restore(granted, "--to", str(pair.home / "no"), "--containers", "--json").json()["error"] == "GrantError"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["db"], "not for agent 'db'"),
        (["--point", "0bad"], "not for point '0bad'"),
        (["--at", "2h ago"], "--at"),
        (["--identity", "/x"], "identity"),
        (["--kept"], "--kept"),
    ],
)
def test_a_grant_is_for_what_it_is_for(pair: Pair, arguments: list[str], words: str) -> None:
    granted = pair.grant("web").out
    refused = pair.restore(granted, "--to", str(pair.home / "no"), *arguments)
    assert refused.code in (1, 2) and words in refused.errors
    assert not (pair.home / "no").exists()


def test_what_is_no_grant_is_said_to_be_none(pair: Pair) -> None:
    granted = pair.grant("web").out
    for data, words in (
        (b"", "it is empty"),
        (b'{"error": "AgentMissing"}', "is no grant"),
        (granted[:-1], "cut short"),
        (granted[:7] + b"\2" + granted[8:], "newer"),
    ):
        refused = pair.restore(data, "--to", str(pair.home / "no"), "--json").json()
        assert refused["error"] == "GrantError" and words in refused["message"], refused
        assert refused["untouched"] == "Nothing was changed."


def test_an_expired_grant_is_refused_and_says_so(pair: Pair) -> None:
    import dataclasses

    grant = decode_grant(pair.grant("web").out)
    for ago, code in ((400, 1), (200, 0)):  # clocks differ by minutes
        old = dataclasses.replace(grant, created=0, expires=int(time.time()) - ago)
        done = pair.restore(encode_grant(old), "--to", str(pair.home / "back"), "--json")
        assert done.code == code, done
        assert code == 0 or (done.json()["error"] == "GrantExpired" and "clock" in done.json()["next_step"])


def test_another_repository_at_the_target_is_noticed(
    pair: Pair, make_host: Callable[..., Host], tmp_path: Path
) -> None:
    other = make_host("other")
    other.json("init", "--target", str(tmp_path / "other-repository"))
    granted = pair.grant("web").out
    refused = pair.restore(
        granted, "--to", str(pair.home / "no"), "--target", str(tmp_path / "other-repository"), "--json"
    )
    assert refused.json()["error"] == "ForeignRepository"


def test_a_grant_goes_into_a_pipe_only_and_is_read_from_one_only(pair: Pair, tmp_path: Path) -> None:
    command = [*COMMAND, "grant", "web", "--policy", str(pair.control.policy)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (tmp_path / "file").open("wb") as file:
        refused = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, env=environment, check=False)
    assert refused.returncode == 2 and b"into a pipe" in refused.stderr
    assert (tmp_path / "file").read_bytes() == b""
    terminal, end = os.openpty()
    try:
        refused = subprocess.run(command, stdout=end, stderr=subprocess.PIPE, env=environment, check=False)
    finally:
        os.close(end)
        os.close(terminal)
    assert refused.returncode == 2 and b"into a pipe" in refused.stderr
    named = run("restore", "--grant", str(tmp_path / "file"), "--policy", str(pair.policy))
    assert named.code == 2 and "--grant -" in named.errors


def test_who_grants_needs_an_identity_and_may_name_the_repository(pair: Pair) -> None:
    (pair.control.policy.parent / "identity.key").rename(pair.home / "identity.key")
    text = pair.control.policy.read_text()
    pair.control.policy.write_text(text.replace("  #identity: identity.key", "  identity: null"))
    refused = pair.grant("web", "--json")
    assert refused.json()["error"] in ("IdentityNeeded", "WrongKey", "KeyFileError"), refused
    identity = ["--identity", str(pair.home / "identity.key")]
    assert pair.grant("web", *identity).code == 0
    repository = json.loads(pair.grant("web", *identity, "--json").errors)["repository"]
    assert pair.grant("web", *identity, "--repository-id", repository).code == 0
    other = pair.grant("web", *identity, "--repository-id", "0" * 32, "--json").json()
    assert other["error"] == "ForeignRepository"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nobody"], "PointMissing"),
        (["web", "--valid", "10s"], "UsageError"),
        (["web", "--valid", "8d"], "UsageError"),
        (["web", "--point", "latest", "--at", "2h ago"], "UsageError"),
        (["web", "--at", "30d ago"], "PointMissing"),
        (["web", "--path", "nowhere"], "UsageError"),
    ],
)
def test_a_grant_of_what_is_not_there_is_none(pair: Pair, arguments: list[str], error: str) -> None:
    refused = pair.grant(*arguments, "--json")
    assert refused.code == 2 and refused.json()["error"] == error


@pytest.mark.parametrize("step", ["restore.written", "restore.swapping", "restore.previous-kept"])
def test_a_restore_that_dies_leaves_no_key_and_needs_no_grant_to_be_cleaned_up(pair: Pair, step: str) -> None:
    live = pair.home / "live"
    live.mkdir()
    (live / "file").write_text("then")
    granted, keys = platform_grant(pair, live)
    (live / "file").write_text("now")
    document = json.loads(pair.policy.read_text()) | {"platform": {"paths": [str(live)]}}
    pair.policy.write_text(json.dumps(document))
    died = pair.restore(granted, "--yes", env={"TRINITY_SNAP_CRASH_AT": step})
    assert died.code == -signal.SIGKILL, died
    left = [path for path in pair.home.rglob("*") if path.is_file()]
    assert any("restores" in str(path) for path in left)
    for path in left:
        data = path.read_bytes()
        assert not any(key in data or key.hex().encode() in data for key in keys), path
    recovered = run("recover", "--policy", str(pair.policy), "--json")
    assert recovered.code == 0, recovered
    assert (live / "file").read_text() in ("then", "now")
    assert pair.restore(granted, "--yes").code == 0
    assert (live / "file").read_text() == "then"


def platform_grant(pair: Pair, live: Path) -> tuple[bytes, list[bytes]]:
    """A grant for a new point of a path of the host, and the keys in it."""
    from trinity_snap.backup.engine import AgentPoint, Engine, SourceSpec
    from trinity_snap.policy import load_policy
    from trinity_snap.repository.identity import load_host_key
    from trinity_snap.repository.repository import Repository
    from trinity_snap.snapshot.view import DirectoryView
    from trinity_snap.targets import open_target

    policy = load_policy(pair.control.policy)
    host = load_host_key(policy.keys.host_key)
    with Engine(
        Repository.open(open_target(policy.target.settings()), host=host), pair.control.home / "cache"
    ) as engine:
        source = SourceSpec(str(live), kind="path", source=str(live))
        now = time.time_ns()
        shipped = engine.ship(source, DirectoryView(live), now)
        point = AgentPoint("platform", "local", f"{now:032x}", now, "none", "directory", "file-consistent")
        engine.commit(point, [(source, shipped)])
    data = pair.grant("platform").out
    grant = decode_grant(data)
    return data, [grant.chunk_id_key, *(pack.key for pack in grant.packs.values())]
