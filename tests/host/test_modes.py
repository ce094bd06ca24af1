"""What each quiesce mode makes of agents that write all the time, and who weakens whose recovery point."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.host.test_main_job import extract, said, wait_until
from tests.lab.daemon import Daemon
from tests.lab.images import BUSYBOX, PYTHON
from tests.lab.product import install, leftovers, volume
from trinity_snap.agents import connect
from trinity_snap.backup.run import run_backup
from trinity_snap.quiesce.journal import journals, read_journal

pytestmark = pytest.mark.host

Start = Callable[..., subprocess.Popen[bytes]]

# Writes to two databases and then to another volume, as fast as it can. While the file `hold` exists, and once it is told to
# end, it closes both and says so: what is copied then must need no recovery at all.
AGENT = """
import os, signal, sqlite3, time
home, ending = "/home/developer", []
os.nice(int(os.environ.get("NICE", "0")))
signal.signal(signal.SIGTERM, lambda *_: ending.append(True))
def opened():
    databases = []
    for mode in ("wal", "delete"):
        databases.append(sqlite3.connect(f"{home}/{mode}.db", isolation_level=None))
        databases[-1].execute(f"pragma journal_mode={mode}")
        databases[-1].execute("pragma synchronous=" + os.environ["SYNC"])
        databases[-1].execute("create table if not exists log (n integer primary key, text)")
    return databases
def mark(name, there):
    if there:
        open(f"{home}/{name}", "w").close()
    elif os.path.exists(f"{home}/{name}"):
        os.unlink(f"{home}/{name}")
mark("closed", False)
databases = opened()
said = os.open(f"{home}/public/said", os.O_RDWR | os.O_CREAT, 0o644)
n = max(database.execute("select coalesce(max(n), 0) from log").fetchone()[0] for database in databases)
while not ending:
    n += 1
    for database in databases:
        database.execute("insert or replace into log values (?, ?)", (n, "x" * (n % 300)))
        if n % 50 == 0:
            database.execute("delete from log where n < ? and n % 7", (n - 2000,))
    os.pwrite(said, b"%020d" % n, 0)
    if os.path.exists(f"{home}/hold"):
        for database in databases:
            database.close()
        mark("held", True)
        while os.path.exists(f"{home}/hold") and not ending:
            time.sleep(0.005)
        mark("held", False)
        databases = opened()
for database in databases:
    database.close()
mark("closed", True)
"""
BEFORE = "#!/bin/sh\ntouch ~/hold; until [ -e ~/held ]; do sleep 0.01; done\n"
AFTER = '#!/bin/sh\nrm -f ~/hold; echo "$TRINITY_SNAP_OUTCOME $TRINITY_SNAP_RUN_ID" >> ~/after\n'


def start_agent(daemon: Daemon, name: str, command: list[str], image: str, **options: Any) -> Any:
    """An agent that runs as user 1000 and owns its home."""
    mounts = [f"agent-{name}-workspace:/home/developer", f"agent-{name}-public:/home/developer/public"]
    options = {
        "volumes": mounts, "user": "1000:1000", "stop_signal": "SIGTERM",
        "environment": {"HOME": "/home/developer"}, **options,
    }  # fmt: skip
    container = daemon.create(f"agent-{name}", command, image=image, **options)
    for part in ("workspace", "public"):
        options = daemon.client.volumes.get(f"agent-{name}-{part}").attrs["Options"] or {}
        os.chown(options.get("device") or volume(daemon, f"agent-{name}-{part}"), 1000, 1000)
    container.start()
    return container


def give_hooks(daemon: Daemon, name: str, before: str = BEFORE, after: str = AFTER) -> Path:
    home = volume(daemon, f"agent-{name}-workspace")
    (home / ".trinity").mkdir(exist_ok=True)
    for file, text in (("pre-snapshot", before), ("post-snapshot", after)):
        (home / ".trinity" / file).write_text(text)
        (home / ".trinity" / file).chmod(0o755)
    return home


# It shuts down at once when it is told to, and cleanly.
OBEDIENT = ["sh", "-c", "trap 'exit 0' TERM; touch ~/ready; sleep 1000000 & wait"]


def start_quiet(daemon: Daemon, name: str, **options: Any) -> Any:
    command = options.pop("command", OBEDIENT)
    container = start_agent(daemon, name, command, BUSYBOX, **options)
    if command is OBEDIENT:
        wait_until((volume(daemon, f"agent-{name}-workspace") / "ready").exists)
    return container


def finish(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    output, _ = process.communicate(timeout=60)
    answer = json.loads(output)
    assert isinstance(answer, dict)
    return {**answer, "code": process.returncode}


def states(daemon: Daemon) -> dict[str, str]:
    return {each["Names"][0].lstrip("/"): each["State"] for each in daemon.client.api.containers(all=True)}


def check_at_rest(place: Path, name: str) -> None:
    """The databases need no recovery, and say exactly what the other volume says."""
    home = place / f"agent-{name}-workspace"
    told = int((place / f"agent-{name}-public" / "said").read_bytes())
    assert not [path for path in home.glob("*.db-*") if path.stat().st_size]
    for mode in ("wal", "delete"):
        database = sqlite3.connect(f"file:{home / mode}.db?mode=ro&immutable=1", uri=True)
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        assert database.execute("select max(n) from log").fetchone() == (told,)
        database.close()


def check_crash_consistent(place: Path, name: str) -> None:
    """The databases recover, and have everything that the other volume tells of."""
    told = int((place / f"agent-{name}-public" / "said").read_bytes())
    for mode in ("wal", "delete"):
        database = sqlite3.connect(place / f"agent-{name}-workspace" / f"{mode}.db")
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        assert database.execute("select max(n) from log").fetchone()[0] >= told
        database.close()


# Who keeps which promise: the name of the agent of each mode.
MODES = {"stopped": "stop", "hooked": "hooks", "paused": "pause", "loose": "none"}


def start_busy(daemon: Daemon, name: str, nice: int = 0) -> None:
    """An agent that writes to its databases all the time, with the hooks that bring them to rest if its name says so.

    `nice` is how much it leaves the processor to others.
    """
    # A power cut spares only what was synced, and a snapshot of a running agent is no better.
    sync = "full" if name.startswith("loose") else "off"
    environment = {"HOME": "/home/developer", "SYNC": sync, "NICE": str(nice)}
    start_agent(daemon, name, ["python3", "-c", AGENT], PYTHON, environment=environment)
    if name.startswith("hooked"):
        give_hooks(daemon, name)


def check_promise(place: Path, name: str, mode: str) -> None:
    """What was extracted of a busy agent is as its mode promises, on a provider that makes true snapshots."""
    if mode in ("stop", "hooks"):
        check_at_rest(place, name)
        assert (place / f"agent-{name}-workspace" / {"stop": "closed", "hooks": "held"}[mode]).exists()
    else:
        check_crash_consistent(place, name)


@pytest.mark.slow
def test_every_mode_keeps_its_promise_to_databases_in_use(
    daemon: Daemon, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    overrides = {name: {"quiesce": {"mode": mode}} for name, mode in MODES.items()}
    product = install(tmp_path, daemon, overrides=overrides)
    for name in MODES:
        start_busy(daemon, name)
    home = volume(daemon, "agent-hooked-workspace")
    is_atomic = daemon.data_root.parent.name == "btrfs"
    for _ in range(request.config.getoption("--mode-rounds")):
        before = {name: said(daemon, name) for name in MODES}
        wait_until(lambda before=before: all(said(daemon, name) > before[name] + 20 for name in MODES))  # type: ignore[misc]
        result = run_backup(product.policy)
        assert (result.outcome, result.exit_code()) == ("done", 0), [agent.problems for agent in result.agents]
        agents = {agent.agent: agent for agent in result.agents}
        assert {name: agent.consistency for name, agent in agents.items()} == {
            "stopped": "application-consistent", "hooked": "application-consistent",
            "paused": "host-crash-consistent", "loose": "crash-consistent" if is_atomic else "file-consistent",
        }  # fmt: skip
        assert agents["loose"].pause_seconds == agents["stopped"].pause_seconds == 0
        assert agents["stopped"].stopped_seconds > max(agents[name].pause_seconds for name in ("hooked", "paused")) > 0
        repository = product.repository()
        for name, mode in MODES.items():
            place = tmp_path / "check"
            point = repository.read_point(str(agents[name].point))
            assert point.mode == mode
            extract(repository, point, place)
            if is_atomic or mode != "none":
                check_promise(place, name, mode)
            assert int((place / f"agent-{name}-public" / "said").read_bytes()) > before[name]
            shutil.rmtree(place)
        assert (home / "after").read_text().splitlines()[-1] == f"done {result.run_id}"
    for name in ("stopped", "hooked"):
        product.run("restore", name, "--to", str(tmp_path / name))
        check_at_rest(tmp_path / name, name)
    assert set(states(daemon).values()) == {"running"}
    assert leftovers(product) == []


# -- none ---------------------------------------------------------------------------------------------------------------


def test_an_agent_of_mode_none_is_held_only_for_the_sake_of_another(daemon: Daemon, start_run: Start) -> None:
    start_quiet(daemon, "alone")
    start_quiet(daemon, "held")
    start_quiet(daemon, "writes", volumes=["agent-writes-workspace:/home/developer", "agent-writes-public:/home/developer/public",
                                           "agent-held-public:/theirs"])  # fmt: skip
    answer = finish(start_run(daemon, "--mode", "none", "--mode-of", "held=pause"))
    assert answer["code"] == 0, answer
    assert set(answer["pauses"]) == {"agent-held", "agent-writes"}
    weak = "crash-consistent" if answer["providers"] == ["btrfs"] else "file-consistent"
    assert answer["labels"] == {"alone": weak, "held": "host-crash-consistent", "writes": weak}
    assert answer["shortfalls"] == {}
    nobody = finish(start_run(daemon, "--mode", "none"))
    assert (nobody["pauses"], set(nobody["labels"].values())) == ({}, {weak})


# -- hooks --------------------------------------------------------------------------------------------------------------


def test_hooks_run_as_the_agents_user_and_are_told_what_happened(btrfs_daemon: Daemon, start_run: Start) -> None:
    start_quiet(btrfs_daemon, "a")
    home = give_hooks(btrfs_daemon, "a", before="#!/bin/sh\necho $TRINITY_SNAP_RUN_ID > ~/before\n")
    answer = finish(start_run(btrfs_daemon, "--mode", "hooks", "--run-id", "one"))
    assert (answer["code"], answer["labels"]) == (0, {"a": "application-consistent"})
    assert (home / "before").read_text() == "one\n"
    assert (home / "before").stat().st_uid == 1000
    assert (home / "after").read_text() == "done one\n"
    assert set(answer["pauses"]) == {"agent-a"}


def test_an_agent_without_the_default_hook_is_paused_and_that_is_said(btrfs_daemon: Daemon, start_run: Start) -> None:
    start_quiet(btrfs_daemon, "none")
    answer = finish(start_run(btrfs_daemon, "--mode", "hooks"))
    assert (answer["code"], answer["shortfalls"]) == (0, {})
    assert answer["labels"] == {"none": "host-crash-consistent"}
    assert ["pre-snapshot" in note for note in answer["notes"]] == [True]


def test_a_default_hook_that_cannot_be_run_has_failed(btrfs_daemon: Daemon, start_run: Start) -> None:
    start_quiet(btrfs_daemon, "not-executable")
    home = give_hooks(btrfs_daemon, "not-executable")
    (home / ".trinity/pre-snapshot").chmod(0o644)
    start_quiet(btrfs_daemon, "no-shell", command=["sleep", "1000000"])
    shell = ["rm", "-f", "/bin/sh"]
    assert btrfs_daemon.client.containers.get("agent-no-shell").exec_run(shell, user="0").exit_code == 0
    answer = finish(start_run(btrfs_daemon, "--mode", "hooks"))
    assert list(answer["shortfalls"]) == ["not-executable"]
    assert "cannot be run" in answer["shortfalls"]["not-executable"]
    assert set(answer["labels"].values()) == {"host-crash-consistent"}
    assert any("no-shell" in note and "only paused" in note for note in answer["notes"])
    assert (home / "after").read_text().startswith("failed")


@pytest.mark.parametrize(
    ("before", "words"),
    [("echo no room; exit 3", ["exit code 3", "no room"]), ("sleep 1000; true", ["within 1 s"]), ("nonsense", ["127"])],
)
def test_a_before_hook_that_fails_costs_its_agent_the_label_and_nobody_else(
    btrfs_daemon: Daemon, start_run: Start, before: str, words: list[str]
) -> None:
    container = start_quiet(btrfs_daemon, "a")
    start_quiet(btrfs_daemon, "b")
    home = give_hooks(btrfs_daemon, "a")
    arguments = ("--mode-of", "a=hooks", "--before", before, "--hook-timeout", "1")
    answer = finish(start_run(btrfs_daemon, *arguments))
    assert answer["labels"] == dict.fromkeys("ab", "host-crash-consistent")
    assert list(answer["shortfalls"]) == ["a"]
    assert all(word in answer["shortfalls"]["a"] for word in words), answer["shortfalls"]
    assert (home / "after").read_text() == f"failed {answer['run_id']}\n"
    assert not [process for process in container.top()["Processes"] if process[-1] == "sleep 1000"]
    if before != "nonsense":
        return  # once is enough for what follows
    strict = finish(start_run(btrfs_daemon, *arguments, "--fail"))
    assert strict["code"] == 0
    assert list(strict["refused"]) == ["a"]
    assert strict["labels"]["b"] == "host-crash-consistent"
    assert set(strict["pauses"]) == {"agent-b"}
    assert (home / "after").read_text().count("failed") == 2


def test_a_failed_hook_is_seen_in_the_result_of_the_backup(ext4_daemon: Daemon, tmp_path: Path) -> None:
    product = install(tmp_path, ext4_daemon, quiesce={"mode": "hooks"})
    start_quiet(ext4_daemon, "a")
    start_quiet(ext4_daemon, "b")
    give_hooks(ext4_daemon, "a", before="#!/bin/sh\nexit 7\n")
    give_hooks(ext4_daemon, "b", before="#!/bin/sh\nexit 0\n", after="#!/bin/sh\nexit 9\n")
    answer = product.run("backup", code=12)
    assert {each["agent"]: (each["outcome"], each["consistency"]) for each in answer["agents"]} == {
        "a": ("downgraded", "host-crash-consistent"), "b": ("done", "application-consistent"),
    }  # fmt: skip
    assert "exit code 7" in answer["agents"][0]["error"]
    (left,) = answer["left_behind"]
    assert "after-hook of b" in left
    assert "exit code 9" in left
    assert any("after-hook of b" in warning for warning in product.run("status", code=None)["warnings"])
    product.write_policy(quiesce={"mode": "hooks", "on_hook_failure": "fail"})
    answer = product.run("backup", code=10)
    assert [(each["agent"], each["outcome"]) for each in answer["agents"]] == [("a", "failed"), ("b", "done")]
    assert answer["agents"][0]["point"] is None


# -- stop ---------------------------------------------------------------------------------------------------------------


def test_an_agent_that_gets_no_point_anyway_is_not_shut_down_for_one(ext4_daemon: Daemon, tmp_path: Path) -> None:
    staging = tmp_path / "staging"
    staging.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(staging)], check=True)
    try:
        precopy = {"staging": str(staging), "settle_bytes": 0, "max_passes": 1}
        product = install(tmp_path, ext4_daemon, quiesce={"mode": "stop"}, snapshot={"precopy": precopy})
        writing = "dd if=/dev/zero of=big bs=1M count=30; touch ready; while :; do touch big; sleep 0.1; done"
        doomed = start_quiet(ext4_daemon, "doomed", command=["sh", "-c", f"trap 'exit 0' TERM; cd; {writing}"])
        fine = start_quiet(ext4_daemon, "fine")
        wait_until((volume(ext4_daemon, "agent-doomed-workspace") / "ready").exists)
        before = {one.name: one.attrs["State"]["StartedAt"] for one in (doomed, fine) if one.reload() is None}
        answer = product.run("backup", code=10)
        assert {each["agent"]: each["outcome"] for each in answer["agents"]} == {"doomed": "failed", "fine": "done"}
        assert "20 MiB" in answer["agents"][0]["error"] or "19 MiB" in answer["agents"][0]["error"]
        after = {one.name: one.attrs["State"]["StartedAt"] for one in (doomed, fine) if one.reload() is None}
        assert [name for name in before if before[name] != after[name]] == ["agent-fine"]
    finally:
        subprocess.run(["umount", str(staging)], check=True)


def test_stopping_leaves_everything_as_it_was_and_tells_a_clean_shutdown_from_a_kill(
    daemon: Daemon, start_run: Start
) -> None:
    start_quiet(daemon, "clean", restart_policy={"Name": "always"})
    start_quiet(daemon, "stubborn", command=["sh", "-c", "trap '' TERM; while :; do sleep 1; done"])
    start_quiet(daemon, "passing", auto_remove=True)
    start_quiet(daemon, "ended").stop()
    start_quiet(daemon, "killed").kill()
    start_quiet(daemon, "frozen").pause()
    daemon.create("agent-new", volumes=["agent-new-workspace:/home/developer"])
    before = states(daemon)
    answer = finish(start_run(daemon, "--mode", "stop", "--stop-seconds", "1"))
    assert answer["code"] == 0, answer
    assert states(daemon) == before
    rest, frozen = "application-consistent", "host-crash-consistent"
    assert answer["labels"] == {
        "clean": rest, "ended": rest, "new": rest,
        "stubborn": frozen, "passing": frozen, "killed": frozen, "frozen": frozen,
    }  # fmt: skip
    assert set(answer["shortfalls"]) == {"stubborn", "passing"}
    assert set(answer["stopped"]) == {"clean", "stubborn"}
    assert set(answer["pauses"]) == {"agent-passing"}


# -- who was held all the time ------------------------------------------------------------------------------------------


def resume_and_pause(daemon: Daemon) -> None:
    daemon.client.containers.get("agent-b").unpause()
    daemon.client.containers.get("agent-b").pause()


def test_only_points_of_agents_that_were_not_held_all_the_time_are_weaker(
    btrfs_daemon: Daemon, start_run: Start
) -> None:
    for name in ("a", "b", "restarted", "joined", "visited", "watched", "down", "down-too"):
        start_quiet(btrfs_daemon, name)
    modes = ("--mode-of", "down=stop", "--mode-of", "down-too=stop")
    process = start_run(btrfs_daemon, "--budget", "15", *modes, TRINITY_SNAP_HANG_AT="all-paused")
    os.waitpid(process.pid, os.WUNTRACED)
    resume_and_pause(btrfs_daemon)
    btrfs_daemon.client.containers.get("agent-restarted").restart(timeout=0)
    btrfs_daemon.client.containers.get("agent-down").start()
    btrfs_daemon.run("guest", volumes=["agent-joined-workspace:/theirs"])
    btrfs_daemon.run("visitor", ["true"], volumes=["agent-visited-workspace:/theirs"], auto_remove=True)
    btrfs_daemon.run("watcher", volumes=["agent-watched-workspace:/theirs:ro", "elsewhere:/mine"])
    wait_until(lambda: "visitor" not in states(btrfs_daemon))
    os.kill(process.pid, signal.SIGCONT)
    answer = finish(process)
    weak = {"b", "restarted", "joined", "visited", "down"}
    assert answer["labels"] == dict.fromkeys(weak, "crash-consistent") | {
        "a": "host-crash-consistent", "watched": "host-crash-consistent", "down-too": "application-consistent",
    }  # fmt: skip
    assert set(answer["shortfalls"]) == weak
    wait_until(lambda: set(states(btrfs_daemon).values()) == {"running"})


def test_a_disturbed_writer_to_a_shared_volume_weakens_its_owner_too(btrfs_daemon: Daemon, start_run: Start) -> None:
    start_quiet(btrfs_daemon, "a")
    start_quiet(btrfs_daemon, "b", volumes=["agent-b-workspace:/home/developer", "agent-b-public:/home/developer/public",
                                            "agent-a-public:/theirs"])  # fmt: skip
    start_quiet(btrfs_daemon, "c")
    process = start_run(btrfs_daemon, "--budget", "15", "--fail", TRINITY_SNAP_HANG_AT="all-paused")
    os.waitpid(process.pid, os.WUNTRACED)
    resume_and_pause(btrfs_daemon)
    os.kill(process.pid, signal.SIGCONT)
    answer = finish(process)
    assert set(answer["refused"]) == {"a", "b"}
    assert answer["labels"]["c"] == "host-crash-consistent"


# -- drain --------------------------------------------------------------------------------------------------------------


def serve_health(daemon: Daemon, name: str, tasks: int) -> Path:
    """An agent with a health endpoint; what it says is in the file that is returned."""
    start_quiet(daemon, name, command=["sh", "-c", "mkdir -p ~/www; exec httpd -f -p 8000 -h ~/www"])
    home = volume(daemon, f"agent-{name}-workspace")
    wait_until(lambda: (home / "www").is_dir())
    say(home / "www" / "health", tasks)
    return home / "www" / "health"


def say(health: Path, tasks: int) -> None:
    new = health.with_name("new")
    new.write_text(
        json.dumps({"status": "healthy", "active_tasks": tasks, "diagnostics": {"running_executions": tasks}})
    )
    new.rename(health)


def test_a_run_waits_until_agents_are_idle(ext4_daemon: Daemon, tmp_path: Path) -> None:
    product = install(tmp_path, ext4_daemon, quiesce={"drain": {"budget_seconds": 60}})
    healths = [serve_health(ext4_daemon, name, 2) for name in ("one", "two")]
    start_quiet(ext4_daemon, "mute")
    process = product.start("backup", "--json")
    try:
        wait_until(lambda: count_requests(ext4_daemon) >= 6)
        (journal,) = journals(product.home / "state")
        assert read_journal(journal).leftovers == ()  # nothing is prepared yet
        assert process.poll() is None
        for health in healths:
            say(health, 0)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, output + errors
    answer = json.loads(output)
    assert {each["outcome"] for each in answer["agents"]} == {"done"}
    assert [note.split(":")[0] for note in answer["notes"]] == ["mute"], answer["notes"]


def count_requests(daemon: Daemon) -> int:
    """How many commands Docker has run inside of the agents that there are."""
    now = int(time.time())
    agents = [container.id for container in daemon.client.containers.list()]
    wanted = {"event": "exec_die", "container": agents}
    events = daemon.client.api.events(since=now - 60, until=now, filters=wanted, decode=True)
    return sum(1 for _ in events)


def test_an_agent_that_stays_busy_is_backed_up_all_the_same(btrfs_daemon: Daemon, tmp_path: Path) -> None:
    product = install(
        tmp_path, btrfs_daemon,
        quiesce={"drain": {"budget_seconds": 1}}, overrides={"idle": {"quiesce": {"drain": False}}},
    )  # fmt: skip
    serve_health(btrfs_daemon, "busy", 3)
    serve_health(btrfs_daemon, "idle", 3)
    answer = product.run("backup")
    assert {each["outcome"] for each in answer["agents"]} == {"done"}
    assert answer["notes"]
    assert all(note.startswith("busy: it was busy (3 active tasks)") for note in answer["notes"])


# -- one run at a time --------------------------------------------------------------------------------------------------


def test_two_policies_cannot_quiesce_the_same_docker_at_once(btrfs_daemon: Daemon, tmp_path: Path) -> None:
    one, two = install(tmp_path / "one", btrfs_daemon), install(tmp_path / "two", btrfs_daemon)
    start_quiet(btrfs_daemon, "a")
    first = one.start("backup", "--run-id", "a" * 32, TRINITY_SNAP_HANG_AT="shipping")
    try:
        wait_until(lambda: Path(f"/proc/{first.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T", 30)
        for command in (("backup",), ("recover",)):
            answer = two.run(*command, code=3)
            assert answer["error"] == "HostBusy"
            assert "backup run " + "a" * 32 in answer["message"]
            assert f"process {first.pid}" in answer["message"]
    finally:
        first.kill()
        first.communicate()
    assert two.run("backup")["outcome"] == "done"
    assert one.run("recover")["removed"]
    assert stat.S_IMODE(os.stat("/run/trinity-snap").st_mode) == 0o700


# -- warnings -----------------------------------------------------------------------------------------------------------


def test_what_may_restart_paused_agents_is_named(btrfs_daemon: Daemon, tmp_path: Path) -> None:
    product = install(tmp_path, btrfs_daemon)
    check = {"test": ["CMD", "true"], "interval": 10**9, "retries": 2}
    start_quiet(btrfs_daemon, "hasty", healthcheck=check)
    start_quiet(btrfs_daemon, "calm", healthcheck={**check, "retries": 9})
    assert len(product.run("agents")["notes"]) == 1
    btrfs_daemon.run("autoheal")
    notes = product.run("agents")["notes"]
    assert len(notes) == 2
    assert notes[0].startswith("autoheal restarts")
    assert "hasty" in notes[1] and "calm" not in notes[1]
    product.write_policy(quiesce={"mode": "none"})
    assert product.run("agents")["notes"] == []
    assert connect().ping()
