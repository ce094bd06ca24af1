"""Drills: what they prove, what they find, and that nothing of them stays."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_cli_json import assert_same_shape, documented
from tests.unit.test_cli_repository import Host, host, make_host, repository
from trinity_snap.drill.databases import check_databases, find_databases
from trinity_snap.drill.scratch import scratch, sweep
from trinity_snap.errors import RestoreError

__all__ = ["host", "make_host", "repository"]  # fixtures

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="drills restore owners, as root")

STEPS = (
    "drill.noted",
    "drill.scratch-made",
    "restore.written",
    "drill.restored",
    "drill.checked",
    "drill.commanded",
    "drill.removing",
    "drill.removed",
)


def tree(host: Host, name: str = "web") -> Path:
    root = host.home / f"tree-{name}"
    root.mkdir(exist_ok=True)
    return root


def database(path: Path, rows: int, mode: str = "delete") -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN")
    connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT)")
    connection.execute("CREATE INDEX i ON t (text)")
    connection.executemany("INSERT INTO t VALUES (?, ?)", ((n, f"row {n}" * 5) for n in range(rows)))
    connection.execute("COMMIT")
    return connection


def crashed(path: Path, rows: int = 200) -> None:
    """A database as a power cut leaves it: its last transactions are in the write-ahead log only, its index is stale."""
    live = path.with_name("live")
    with closing(database(live, 10, "wal")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.executemany("INSERT INTO t VALUES (?, ?)", ((n, f"late {n}") for n in range(1000, 1000 + rows)))
        for suffix in ("", "-wal", "-shm"):
            shutil.copy(f"{live}{suffix}", f"{path}{suffix}")
    for suffix in ("", "-wal", "-shm"):
        Path(f"{live}{suffix}").unlink(missing_ok=True)


def interrupted(path: Path) -> None:
    """A database in the middle of a transaction that has spilled into it: only its journal makes it whole again."""
    live = path.with_name("live")
    with closing(database(live, 3000)) as connection:
        connection.execute("PRAGMA cache_size = 5")
        connection.execute("BEGIN")
        connection.execute("UPDATE t SET text = text || 'x' || n")
        for suffix in ("", "-journal"):
            shutil.copy(f"{live}{suffix}", f"{path}{suffix}")
        connection.execute("ROLLBACK")
    live.unlink()


def damage(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 2000)


def scratches(host: Host) -> list[str]:
    places = [host.home / "state" / "drills", host.home / "elsewhere"]
    return [name for place in places if place.is_dir() for name in os.listdir(place) if not name.endswith(".json")]


def set_policy(host: Host, **drill: Any) -> None:
    text = host.policy.read_text().split("\ndrill:")
    assert len(text) == 2
    rest = text[1].partition("\n\n")[2]
    host.policy.write_text(f"{text[0]}\ndrill: {json.dumps(drill)}\n\n{rest}")


def test_a_drill_proves_a_point_and_leaves_nothing_but_the_word(host: Host) -> None:
    database(tree(host) / "plain.db", 100).close()
    crashed(tree(host) / "wal.db")
    point = host.back_up()
    before = {path.relative_to(host.home) for path in host.home.rglob("*")}
    answer = host.json("drill")
    (done,) = answer["drills"]
    assert (done["outcome"], done["point"], done["databases"], done["reason"]) == ("proved", point, 2, None)
    assert done["recorded"] is True
    assert_same_shape(answer, documented("drill"))
    assert scratches(host) == []
    new = {path.relative_to(host.home) for path in host.home.rglob("*")} - before
    noted = {("state", one) for one in ("drills", "events", "monitor")}
    assert {str(path) for path in new if path.parts[:2] not in noted} <= {"state"}
    status = host.json("status")["agents"][0]
    assert status["drill"]["point"] == point
    assert status["drill"]["proved"] == done["started"]
    assert status["warnings"] == []
    assert "PROVED" in host.text("status") and "just now" in host.text("status")


def test_the_control_node_sees_what_was_proved_and_nobody_else_reads_it(host: Host, repository: str) -> None:
    point = host.back_up()
    host.json("drill", "web")
    shutil.rmtree(host.home / "state")  # as on a machine that has the keys, and has never drilled
    assert host.json("status")["agents"][0]["drill"]["point"] == point
    receipts = [path.read_bytes() for path in Path(repository, "receipts").iterdir()]
    assert len(receipts) == 1
    assert b"web" not in receipts[0] and point.encode() not in receipts[0]


def test_old_drills_do_not_pile_up_in_the_repository(host: Host, repository: str) -> None:
    host.back_up()
    host.json("drill")
    proved = host.json("status")["agents"][0]["drill"]["proved"]
    for _ in range(3):
        host.json("drill", "--command", "false", code=10)
    assert len(list(Path(repository, "receipts").iterdir())) == 4
    host.json("prune")
    shutil.rmtree(host.home / "state")
    drill = host.json("status")["agents"][0]["drill"]
    assert (drill["proved"], drill["outcome"]) == (proved, "failed")
    assert len(list(Path(repository, "receipts").iterdir())) <= 3  # two drills, and what points count


def test_a_database_that_was_stored_broken_is_found_and_named(host: Host) -> None:
    database(tree(host) / "good.db", 3000).close()
    database(tree(host) / "bad.db", 3000).close()
    damage(tree(host) / "bad.db")
    host.back_up()
    (done,) = host.json("drill", code=10)["drills"]
    assert done["outcome"] == "failed"
    assert [one["path"] for one in done["damaged_databases"]] == ["web/bad.db"]
    assert done["databases"] == 1
    assert "bad.db" in host.json("status")["agents"][0]["warnings"][0]
    assert "bad.db" in host.text("drill", code=10)
    set_policy(host, ignore=["*bad.db"])
    assert host.json("drill")["drills"][0]["databases"] == 1
    set_policy(host, databases=False)
    assert host.json("drill")["drills"][0]["databases"] == 0


@pytest.mark.parametrize("make", [crashed, interrupted])
def test_a_database_in_the_middle_of_something_is_recovered_in_a_copy(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """And it is what is in the log or the journal that is looked at: the file alone would not do, nor a damaged log."""
    root, work = tmp_path / "root", tmp_path / "work"
    (root / "volume").mkdir(parents=True)
    work.mkdir()
    make(root / "volume" / "app.db")
    before = {path.name: path.read_bytes() for path in (root / "volume").iterdir()}
    (check,) = check_databases(root, work, (), 60)
    assert (check.path, check.result) == ("volume/app.db", "sound"), check
    assert {path.name: path.read_bytes() for path in (root / "volume").iterdir()} == before
    assert list(work.iterdir()) == []
    if make is interrupted:
        (root / "volume" / "app.db-journal").unlink()
        assert check_databases(root, work, (), 60)[0].result == "damaged"


def test_a_log_that_makes_a_database_unsound_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    path = tmp_path / "root" / "app.db"
    path.parent.mkdir()
    with closing(database(path, 3000, "wal")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET rootpage = 2 WHERE name = 'i'")  # the index would be the table
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", tmp_path / f"kept{suffix}")
    for suffix in ("", "-wal"):
        (tmp_path / f"kept{suffix}").rename(f"{path}{suffix}")
    (check,) = check_databases(path.parent, tmp_path / "work", (), 60)
    assert check.result == "damaged", check


def test_what_an_agent_planted_beside_a_database_leads_nowhere(tmp_path: Path) -> None:
    """SQLite removes the file that a journal names as its transaction's, wherever that is."""
    root, work, victim = tmp_path / "root", tmp_path / "work", tmp_path / "victim"
    root.mkdir()
    work.mkdir()
    victim.write_bytes(b"somebody else's")
    interrupted(root / "app.db")
    name = os.fsencode(victim)
    with (root / "app.db-journal").open("ab") as file:
        checksum = sum(name) & 0xFFFFFFFF
        file.write((0x40000000 // 65536 + 1).to_bytes(4, "big") + name + len(name).to_bytes(4, "big"))
        file.write(checksum.to_bytes(4, "big") + bytes.fromhex("d9d505f920a163d7"))
    (root / "link.db").symlink_to(victim)
    database(root / "other.db", 10).close()
    (root / "other.db-wal").symlink_to(victim)
    os.mkfifo(root / "pipe.db")
    found = {check.path: check.result for check in check_databases(root, work, (), 60)}
    assert found == {"./app.db": "unchecked", "./other.db": "sound"}
    assert victim.read_bytes() == b"somebody else's"


def test_a_database_that_needs_what_only_its_application_has_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    path = tmp_path / "root" / "app.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.create_collation("ours", lambda a, b: (a > b) - (a < b))
        connection.execute("CREATE TABLE t (a TEXT COLLATE ours)")
        connection.execute("CREATE INDEX i ON t (a)")
        connection.executemany("INSERT INTO t VALUES (?)", [("b",), ("a",)])
        connection.commit()
    (check,) = check_databases(path.parent, tmp_path / "work", (), 60)
    assert (check.result, "ours" in check.detail) == ("unchecked", True)
    (check,) = check_databases(path.parent, tmp_path / "work", (), 0)
    assert check.result == "unchecked"


def test_databases_are_known_by_their_first_bytes_not_their_names(tmp_path: Path) -> None:
    database(tmp_path / "no-extension", 1).close()
    os.link(tmp_path / "no-extension", tmp_path / "same")
    (tmp_path / "text.db").write_bytes(b"no database at all" * 100)
    (tmp_path / "short.db").write_bytes(b"SQLite format 3\0")
    assert [name for _, name in find_databases(tmp_path)] == [b"no-extension"]


def test_the_commands_exit_code_decides_and_it_finds_its_way(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    point = host.back_up()
    monkeypatch.setenv("CREDENTIAL_ENCRYPTION_KEY", "secret")
    seen = host.home / "seen"
    set_policy(
        host, command=f'env > {seen}; test $(cat web/sub/file) = content && test -z "$CREDENTIAL_ENCRYPTION_KEY"'
    )
    (done,) = host.json("drill")["drills"]
    assert (done["outcome"], done["command"]["exit_code"]) == ("proved", 0)
    variables = dict(line.partition("=")[::2] for line in seen.read_text().splitlines())
    assert variables["TRINITY_SNAP_DRILL_POINT"] == point
    assert variables["TRINITY_SNAP_DRILL_AGENT"] == "web"
    assert variables["TRINITY_SNAP_DRILL_DIRECTORY"] == variables["PWD"]
    (done,) = host.json("drill", "--command", "echo no good; exit 7", code=10)["drills"]
    assert (done["command"]["exit_code"], done["command"]["output"]) == (7, "no good\n")
    assert "no good" in host.text("drill", "--command", "echo no good; exit 7", code=10)
    assert host.json("drill", "--command", "")["drills"][0]["command"] is None
    assert scratches(host) == []


def test_a_command_that_does_not_end_is_ended_with_all_that_it_began(host: Host) -> None:
    host.back_up()
    mark = f"{time.time_ns() / 1e9 + 1e6:.6f}"  # nobody else sleeps for so long
    set_policy(host, command=f"sleep {mark} & sleep {mark}", time_limit="1s")
    (done,) = host.json("drill", code=10)["drills"]
    assert done["command"]["exit_code"] is None and "did not end" in done["reason"]
    assert not [one for one in Path("/proc").glob("[0-9]*/cmdline") if is_running(one, mark)]
    assert scratches(host) == []


def is_running(cmdline: Path, mark: str) -> bool:
    try:
        return mark.encode() in cmdline.read_bytes()
    except OSError:
        return False


def test_a_damaged_point_is_not_proved_and_the_exit_code_says_so(host: Host, repository: str) -> None:
    (tree(host) / "large").write_bytes(os.urandom(3_000_000))
    host.back_up()
    pack = max(Path(repository).rglob("packs/*/*"), key=lambda path: path.stat().st_size)
    pack.chmod(0o600)
    with pack.open("r+b") as file:
        file.seek(pack.stat().st_size // 3)
        file.write(b"\0" * 64)
    (done,) = host.json("drill", code=90)["drills"]
    assert (done["outcome"], done["damaged"]) == ("failed", True)
    assert scratches(host) == []


def test_too_little_room_is_said_before_anything_is_restored(host: Host, tmp_path: Path) -> None:
    (tree(host) / "large").write_bytes(os.urandom(8_000_000))
    host.back_up()
    small = host.home / "elsewhere"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", small], check=True)
    try:
        set_policy(host, directory=str(small))
        (done,) = host.json("drill", code=10)["drills"]
        assert "not enough room" in done["reason"]
        assert scratches(host) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_keep_leaves_what_was_restored_where_no_later_drill_touches_it(host: Host) -> None:
    host.back_up()
    (done,) = host.json("drill", "--keep")["drills"]
    host.json("drill")
    host.json("recover")
    assert Path(done["kept"], "web", "sub", "file").read_text() == "content"


@pytest.mark.parametrize("at", STEPS)
def test_what_a_killed_drill_leaves_is_removed_by_the_next_and_by_recover(host: Host, at: str) -> None:
    host.back_up()
    set_policy(host, directory=str(host.home / "elsewhere"), command="true")
    command = [sys.executable, "-m", "trinity_snap", "drill", "--policy", str(host.policy)]
    killed = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "TRINITY_SNAP_CRASH_AT": at})
    assert killed.returncode == -9, killed.stderr
    assert scratches(host), at
    set_policy(host)  # the policy names another place by now
    if STEPS.index(at) % 2:
        host.json("recover")
    else:
        assert host.json("drill")["drills"][0]["outcome"] == "proved"
    assert scratches(host) == []


def test_a_drill_that_is_alive_is_left_alone(tmp_path: Path) -> None:
    with scratch(tmp_path / "state", tmp_path / "place", "00" * 8, keep=False) as place:
        assert sweep(tmp_path / "state").removed == []
        assert place.work.is_dir()
    assert list((tmp_path / "place").iterdir()) == []


def test_a_mount_in_a_scratch_place_is_not_removed_through(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    place = tmp_path / "place" / f".trinity-snap-drill-{'00' * 8}"

    def drill_that_mounts() -> None:
        with scratch(tmp_path / "state", tmp_path / "place", "00" * 8, keep=False) as made:
            (made.work / "mount").mkdir()
            subprocess.run(["mount", "--bind", outside, made.work / "mount"], check=True)

    with pytest.raises(RestoreError, match="cannot be removed"):
        drill_that_mounts()
    try:
        swept = sweep(tmp_path / "state")
        assert (swept.removed, len(swept.problems)) == ([], 1)
        assert (outside / "file").read_text() == "precious"
    finally:
        subprocess.run(["umount", place / "work" / "mount"], check=True)
    assert sweep(tmp_path / "state").removed == [place]


def test_status_warns_when_a_proof_is_too_old_or_was_never_made(host: Host) -> None:
    host.back_up()
    set_policy(host, max_age="30d")
    (warning,) = host.json("status")["agents"][0]["warnings"]
    assert "never been proved within 30d" in warning
    host.json("drill")
    assert host.json("status")["agents"][0]["warnings"] == []
    for path in (host.home / "state" / "drills").glob("*.json"):
        path.write_text(path.read_text().replace('"started": "20', '"started": "19'))
    shutil.rmtree(next(host.home.parent.glob("repository/receipts")))
    (warning,) = host.json("status")["agents"][0]["warnings"]
    assert "not been proved within 30d" in warning
    set_policy(host, max_age="30d", agents=["db*"])
    assert host.json("status")["agents"][0]["warnings"] == []


def test_agents_are_chosen_by_name_or_by_the_policy_and_points_by_id(host: Host) -> None:
    points = {name: host.back_up(name) for name in ("web", "db", "cache")}
    set_policy(host, agents=["db", "w*"])
    assert {one["agent"]: one["point"] for one in host.json("drill", "--dry-run")["drills"]} == {
        name: points[name] for name in ("db", "web")
    }
    assert [one["agent"] for one in host.json("drill", "cache", "--dry-run")["drills"]] == ["cache"]
    assert host.json("drill", "--point", points["db"][:8])["drills"][0]["agent"] == "db"
    host.json("drill", "web", "db", "--point", points["db"], code=2)
    host.json("drill", "nobody", code=2)
