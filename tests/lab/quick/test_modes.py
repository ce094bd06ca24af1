"""Docker's volumes on logical volumes: what each quiesce mode makes of busy agents, on thick and on thin volumes.

`TRINITY_SNAP_MODE_ROUNDS` says how many backups of busy databases there are, each of every mode on both.
"""

import json
import logging
import os
import shutil
import signal

import pytest

from tests.host.test_main_job import extract, said, wait_until
from tests.host.test_modes import MODES, check_at_rest, check_promise, give_hooks, start_busy, start_quiet, states
from tests.lab.daemon import docker_daemon
from tests.lab.product import install, volume
from tests.lab.quick.volumes import run, volume_group
from trinity_snap.backup.run import run_backup
from trinity_snap.snapshot.logicalvolumes import our_snapshots

pytestmark = pytest.mark.skipif(shutil.which("dockerd") is None, reason="needs dockerd")
ROUNDS = int(os.environ.get("TRINITY_SNAP_MODE_ROUNDS", "1"))
SECONDS_OF_A_ROUND = 120
# Agents on the thick volume have names of their mode alone; those on the thin one are called `…-thin`.
ON_THICK = dict(MODES)
ON_THIN = {f"{name}-thin": mode for name, mode in MODES.items()}
EVERY = ON_THICK | ON_THIN
LABELS = {
    "stop": "application-consistent",
    "hooks": "application-consistent",
    "pause": "host-crash-consistent",
    "none": "crash-consistent",
}
log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    with volume_group("lab-4", "/dev/ubdf", tmp_path_factory.mktemp("group") / "mnt") as made:
        made.pool("pool", "500M")
        made.thick("thick", "ext4", "700M")
        made.thin("thin", "xfs", "400M")
        made.thick("home", "ext4", "400M")
        yield made


@pytest.fixture(scope="module")
def daemon(group):
    """Docker with its data on the thick volume."""
    with docker_daemon(group.place / "thick" / "docker") as made:
        yield made


@pytest.fixture
def home(group, tmp_path):
    """A directory on a disk, for the repository: memory is scarce in here."""
    place = group.place / "home" / tmp_path.name
    place.mkdir()
    yield place
    shutil.rmtree(place)


@pytest.fixture(autouse=True)
def nothing_stays(daemon, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", daemon.host)
    yield
    assert our_snapshots() == ()
    assert daemon.paused() == []
    daemon.clean()


def put_on_thin(daemon, group, name):
    """Make the volumes of an agent to come on the thin volume."""
    for part in ("workspace", "public"):
        place = group.place / "thin" / f"{name}-{part}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        bind = {"type": "none", "o": "bind", "device": str(place)}
        daemon.client.volumes.create(f"agent-{name}-{part}", driver="local", driver_opts=bind)


def wait_until_busy(daemon, name, number):
    """Wait until an agent has written more than so often; asking Docker where is done once, it takes long in here."""
    path = volume(daemon, f"agent-{name}-public") / "said"
    try:
        wait_until(lambda: path.exists() and int(path.read_bytes() or b"0") > number, 60)
    except AssertionError as error:
        container = daemon.client.containers.get(f"agent-{name}")
        raise AssertionError(f"{container.name} is {container.status}: {container.logs().decode()}") from error


def is_short_of_time(result):
    """Whether a time limit was too short, which a busy machine may cause; the run has said so of each agent concerned."""
    weaker = [str(agent.error) for agent in result.agents if agent.outcome == "downgraded"]
    return result.outcome == "downgraded" and all("budget" in error or " within " in error for error in weaker)


@pytest.mark.slow
@pytest.mark.timeout(300 + ROUNDS * SECONDS_OF_A_ROUND)
def test_every_mode_keeps_its_promise_to_databases_in_use_on_thick_and_thin_volumes(daemon, group, home):
    product = install(
        home,
        daemon,
        quiesce={"budget_seconds": 15},
        overrides={name: {"quiesce": {"mode": mode}} for name, mode in EVERY.items()},
    )
    for name in ON_THIN:
        put_on_thin(daemon, group, name)
    for name in EVERY:
        start_busy(daemon, name, nice=19)  # there is one processor in here, and the run needs some of it
    whole, attempts = 0, 0
    while whole < ROUNDS:
        attempts += 1
        assert attempts <= 2 * ROUNDS + 1, "the machine is too busy for this"
        before = {name: said(daemon, name) for name in EVERY}
        for name in EVERY:
            wait_until_busy(daemon, name, before[name] + 20)
        result = run_backup(product.policy)
        assert our_snapshots() == ()
        if is_short_of_time(result):
            log.info("attempt %d: too slow: %s", attempts, [agent.error for agent in result.agents])
            continue
        assert (result.outcome, result.exit_code()) == ("done", 0), result
        agents = {agent.agent: agent for agent in result.agents}
        labels = {name: agent.consistency for name, agent in agents.items()}
        assert labels == {name: LABELS[mode] for name, mode in EVERY.items()}, result.notes
        assert {agents[name].provider for name in ON_THICK} == {"lvm"}
        assert {agents[name].provider for name in ON_THIN} == {"lvm-thin"}
        repository = product.repository()
        for name, mode in EVERY.items():
            assert (agents[name].pause_seconds > 0) == (mode in ("pause", "hooks"))
            assert (agents[name].stopped_seconds > 0) == (mode == "stop")
            point = repository.read_point(str(agents[name].point))
            assert point.mode == mode
            extract(repository, point, home / "check")
            check_promise(home / "check", name, mode)
            assert int((home / "check" / f"agent-{name}-public" / "said").read_bytes()) > before[name]
            shutil.rmtree(home / "check")
        for name in (name for name, mode in EVERY.items() if mode == "hooks"):
            told = (volume(daemon, f"agent-{name}-workspace") / "after").read_text()
            # Where letting go takes longer than the budget, the guardian is there first, and knows only that the run was late.
            assert told.splitlines()[-1] in (f"done {result.run_id}", f"aborted {result.run_id}")
        whole += 1
        log.info(
            "round %d of %d attempts: paused %.2f s, stopped %.2f s, took %.1f s",
            whole,
            attempts,
            max(agent.pause_seconds for agent in result.agents),
            max(agent.stopped_seconds for agent in result.agents),
            result.duration_seconds,
        )
    assert set(states(daemon).values()) == {"running"}
    product.run("restore", "stopped-thin", "--to", str(home / "out"))
    check_at_rest(home / "out", "stopped-thin")


@pytest.fixture
def at_rest(daemon, group, home):
    """Three quiet agents and a product with room for 8 MiB in thick snapshots: shut down, and with hooks on both volumes."""
    overrides = {"stopped": {"quiesce": {"mode": "stop"}}}
    overrides |= {name: {"quiesce": {"mode": "hooks"}} for name in ("hooked", "hooked-thin")}
    product = install(
        home, daemon, quiesce={"budget_seconds": 15}, overrides=overrides, snapshot={"lvm": {"size": "8MiB"}}
    )
    put_on_thin(daemon, group, "hooked-thin")
    for name in overrides:
        start_quiet(daemon, name)
        (volume(daemon, f"agent-{name}-workspace") / "data").write_bytes(os.urandom(2 << 20))
    for name in ("hooked", "hooked-thin"):
        give_hooks(daemon, name, before="#!/bin/sh\nexit 0\n")
    return product


def told(daemon, name):
    """What the after-hook of an agent was told the last time."""
    return (volume(daemon, f"agent-{name}-workspace") / "after").read_text().splitlines()[-1].split()[0]


def back_up_but(product, step, act):
    """A run that is halted at a step, where `act` is done; its exit code and answer."""
    process = product.start("backup", "--json", TRINITY_SNAP_HANG_AT=step)
    try:
        os.waitpid(process.pid, os.WUNTRACED)
        act()
        os.kill(process.pid, signal.SIGCONT)
        output, errors = process.communicate(timeout=140)
    finally:
        process.kill()
    assert "Traceback" not in errors
    return process.returncode, json.loads(output)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_agents_at_rest_go_on_when_a_snapshot_cannot_be_made_or_overflows(daemon, group, home, at_rest):
    started = {name: daemon.client.containers.get(name).attrs["State"]["StartedAt"] for name in states(daemon)}

    def take_all_room():
        assert states(daemon)["agent-stopped"] == "exited"
        run("lvcreate", "-y", "-q", "-l", "100%FREE", "-n", "greedy", group.name)

    code, answer = back_up_but(at_rest, "all-stopped", take_all_room)
    run("lvremove", "-q", "-y", f"{group.name}/greedy")
    assert code == 1, answer
    assert "could not be made" in answer["error"]["message"]
    assert "free" in answer["error"]["message"]  # LVM's own words
    assert {(agent["outcome"], agent["point"]) for agent in answer["agents"]} == {("failed", None)}
    assert set(states(daemon).values()) == {"running"}
    assert daemon.client.containers.get("agent-stopped").attrs["State"]["StartedAt"] > started["agent-stopped"]
    assert [told(daemon, name) for name in ("hooked", "hooked-thin")] == ["failed", "failed"]
    assert our_snapshots() == ()

    def write_much():
        assert set(states(daemon).values()) == {"running"}  # long before anything is read
        (volume(daemon, "agent-hooked-public") / "much").write_bytes(os.urandom(40 << 20))
        os.sync()

    code, answer = back_up_but(at_rest, "shipping", write_much)
    assert code == 10, answer
    agents = {agent["agent"]: agent for agent in answer["agents"]}
    for name in ("stopped", "hooked"):
        assert (agents[name]["outcome"], agents[name]["point"]) == ("failed", None)
        assert "overflowed" in agents[name]["error"]
        assert "had room for 8.0 MiB" in agents[name]["error"]
    assert (agents["hooked-thin"]["outcome"], agents["hooked-thin"]["consistency"]) == ("done", LABELS["hooks"])
    assert [told(daemon, name) for name in ("hooked", "hooked-thin")] == ["done", "done"]
    assert set(states(daemon).values()) == {"running"}
    assert our_snapshots() == ()

    after = at_rest.run("backup")  # and nothing of that stays
    assert {agent["consistency"] for agent in after["agents"]} == {LABELS["stop"]}
