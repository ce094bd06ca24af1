"""What a fleet run decides by itself: outcomes from events, batches, thresholds, exit codes, and what Ansible gets to see."""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trinity_snap.errors import UsageError
from trinity_snap.fleet.environment import environment
from trinity_snap.fleet.limits import in_batches, parse_batches, parse_threshold
from trinity_snap.fleet.model import FleetResult, HostResult
from trinity_snap.fleet.outcomes import Tracker
from trinity_snap.fleet.private import PREFIX, private_directory, sweep
from trinity_snap.fleet.request import ACTIONS, parse_variables

MODULE = "trinity.snap.trinity_snap_backup"


class Notes:
    """A watcher that remembers the outcomes that it was told."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str]] = []

    def begin(self, action: str, run_id: str, hosts: int) -> None: ...

    def host_started(self, host: str) -> None: ...

    def host_ended(self, result: HostResult) -> None:
        self.ended.append((result.host, result.outcome))

    def note(self, sentence: str, hosts: Iterable[str] = ()) -> None: ...


def event(kind: str, host: str = "h", action: str = MODULE, **more: Any) -> dict[str, Any]:
    return {"event": kind, "event_data": {"host": host, "task_action": action, **more}}


STATS = {"event": "playbook_on_stats", "event_data": {}}
BEGUN = [event("runner_on_start", action="ansible.builtin.validate_argument_spec"), event("runner_on_start")]
ANSWER = event("runner_on_ok", res={"changed": True, "rc": 0, "agents": [{"agent": "web"}]})


def outcome_of(*events: dict[str, Any], action: str = "backup") -> HostResult:
    notes = Notes()
    tracker = Tracker(ACTIONS[action], ["h", "other"], notes)
    for one in events:
        tracker.handle(one)
    tracker.finish()
    assert tracker.results["other"].outcome == "not-started"
    assert notes.ended == [] or notes.ended == [("h", tracker.results["h"].outcome)]
    return tracker.results["h"]


def unreachable(words: str, action: str = MODULE) -> dict[str, Any]:
    return event("runner_on_unreachable", action=action, res={"unreachable": True, "msg": words})


def test_a_host_that_answered_is_done_even_if_the_play_was_cut_off_then():
    for events in ((*BEGUN, ANSWER, STATS), (*BEGUN, ANSWER)):
        result = outcome_of(*events)
        assert (result.outcome, result.changed, result.agents) == ("done", True, [{"agent": "web"}])


def test_a_host_that_said_it_failed_has_failed_in_its_own_words():
    said = {"failed": True, "msg": "web: its volume\n is gone", "rc": 10, "agents": [{"agent": "web"}]}
    result = outcome_of(*BEGUN, event("runner_on_failed", res=said), STATS)
    assert (result.outcome, result.exit_code, result.message) == ("failed", 10, "web: its volume is gone")
    assert result.agents == [{"agent": "web"}]


@pytest.mark.parametrize(
    "words",
    [
        "Failed to connect to the host via ssh: ssh: connect to host 192.0.2.1 port 22: Connection refused",
        "Failed to connect to the host via ssh: Host key verification failed.",
        "Failed to connect to the host via ssh: root@h: Permission denied (publickey).",
        "Failed to connect to the host via ssh: Connection closed by 192.0.2.1 port 22",
        "Failed to connect to the host via ssh: ssh: Could not resolve hostname h: Name or service not known",
    ],
)
def test_a_host_that_no_connection_was_made_to_is_unreachable(words):
    assert outcome_of(*BEGUN, unreachable(words), STATS).outcome == "unreachable"


@pytest.mark.parametrize(
    "words",
    [
        "Failed to connect to the host via ssh: Shared connection to 192.0.2.1 closed.",
        "Failed to connect to the host via ssh: Connection to 192.0.2.1 closed by remote host.",
        "Failed to connect to the host via ssh: Timeout, server 192.0.2.1 not responding.",
        "Failed to connect to the host via ssh: client_loop: send disconnect: Broken pipe",
        "something that nobody has ever seen",
    ],
)
def test_a_host_that_may_be_at_work_is_unknown_and_never_called_unreachable(words):
    assert outcome_of(*BEGUN, unreachable(words), STATS).outcome == "unknown"
    before = "ansible.builtin.validate_argument_spec"
    assert outcome_of(BEGUN[0], unreachable(words, before), STATS).outcome == "unreachable"


def test_a_host_at_work_when_the_play_ended_is_unknown_and_one_that_was_not_is_not_started():
    assert outcome_of(*BEGUN).outcome == "unknown"
    assert outcome_of(BEGUN[0]).outcome == "not-started"
    assert outcome_of().outcome == "not-started"


def test_a_host_on_which_the_module_was_killed_is_unknown():
    crash = {"failed": True, "msg": "MODULE FAILURE", "module_stdout": "", "module_stderr": "Killed", "rc": 137}
    assert outcome_of(*BEGUN, event("runner_on_failed", res=crash), STATS).outcome == "unknown"


def test_what_was_left_quiesced_and_then_recovered_is_no_longer_the_exit_code():
    result = result_of(("done", 0), ("failed", 11))
    assert result.exit_code() == 11
    result.hosts[1].recovered = True
    assert result.exit_code() == 10


def test_a_restore_of_several_agents_has_all_their_answers():
    module = "trinity.snap.trinity_snap_restore"
    items = [{"restore": {"agent": name}, "rc": 0} for name in ("platform", "web")]
    begun = event("runner_on_start", action=module)
    result = outcome_of(begun, event("runner_on_ok", action=module, res={"results": items}), STATS, action="restore")
    assert [one["agent"] for one in result.agents] == ["platform", "web"]


@given(st.integers(1, 300), st.lists(st.tuples(st.integers(1, 100), st.booleans()), min_size=1, max_size=4))
def test_batches_hold_every_host_once_and_in_order(count: int, sizes: list[tuple[int, bool]]) -> None:
    hosts = [str(number) for number in range(count)]
    amounts = parse_batches(",".join(f"{number}{'%' if percent else ''}" for number, percent in sizes))
    batches = list(in_batches(hosts, amounts))
    assert [host for batch in batches for host in batch] == hosts
    assert all(batches)
    if not sizes[0][1]:
        assert len(batches[0]) == min(sizes[0][0], count)


def test_a_threshold_is_passed_by_more_than_it_says():
    assert [parse_threshold("10%").passed(bad, 20) for bad in (0, 2, 3)] == [False, False, True]
    assert [parse_threshold("0").passed(bad, 20) for bad in (0, 1)] == [False, True]
    for wrong in ("", "-1", "101%", "ten", "1.5"):
        with pytest.raises(UsageError):
            parse_threshold(wrong)
    for wrong in ("0", "5,0%", ""):
        with pytest.raises(UsageError):
            parse_batches(wrong)


def result_of(*hosts: tuple[str, int | None], **more: Any) -> FleetResult:
    made = [HostResult(str(number), outcome=end, exit_code=code) for number, (end, code) in enumerate(hosts)]  # type: ignore[arg-type]  # words of the test
    return FleetResult("backup", "00", "now", made, **more)


@pytest.mark.parametrize(
    ("result", "code", "outcome"),
    [
        (result_of(("done", 0), ("done", 0)), 0, "done"),
        (result_of(("done", 0), ("unreachable", None)), 10, "some-failed"),
        (result_of(("failed", 1), ("unknown", None)), 1, "failed"),
        (result_of(("done", 0), ("failed", 12)), 12, "some-failed"),
        (result_of(("failed", 12), ("failed", 10)), 1, "failed"),
        (result_of(("done", 0), ("failed", 11), ("unknown", None)), 11, "some-failed"),
        (result_of(("done", 0), ("not-started", None), stopped="Enough."), 10, "stopped"),
        (result_of(("done", 0), ("done", 0), signal=15), 143, "interrupted"),
        (result_of(("unknown", None), signal=2), 130, "interrupted"),
    ],
)
def test_the_exit_code_says_how_it_ended(result: FleetResult, code: int, outcome: str) -> None:
    assert (result.exit_code(), result.outcome) == (code, outcome)


def test_ansible_sees_little_of_the_environment_and_checks_host_keys(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("TRINITY_SNAP_PASSPHRASE", "hush")
    monkeypatch.setenv("ANSIBLE_HOST_KEY_CHECKING", "False")
    monkeypatch.setenv("ANSIBLE_SSH_RETRIES", "5")
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", "/v")
    found = environment("/venv/bin/ansible-playbook", tmp_path)
    assert "hush" not in found.values()
    assert (found["ANSIBLE_HOST_KEY_CHECKING"], found["ANSIBLE_SSH_RETRIES"]) == ("True", "0")
    assert found["ANSIBLE_VAULT_PASSWORD_FILE"] == "/v"
    assert (
        environment("/venv/bin/ansible-playbook", tmp_path, ["AWS_SECRET_ACCESS_KEY"])["AWS_SECRET_ACCESS_KEY"]
        == "hush"
    )
    with pytest.raises(UsageError):
        environment("/venv/bin/ansible-playbook", tmp_path, ["NO_SUCH_VARIABLE"])


def test_the_private_directory_is_in_memory_for_one_user_and_goes_away():
    with private_directory() as directory:
        assert directory.stat().st_mode & 0o777 == 0o700
        kinds = {line.split()[1]: line.split()[2] for line in Path("/proc/self/mounts").read_text().splitlines()}
        above = max((point for point in kinds if directory.is_relative_to(point)), key=len)
        assert kinds[above] == "tmpfs"
        assert (directory / "collections/ansible_collections/trinity/snap/playbooks/backup.yml").is_file()
        with private_directory() as another:
            assert directory.is_dir() and another != directory, "one that is alive is left alone"
    assert not directory.exists()


def test_what_a_killed_run_left_is_swept_and_what_lives_is_not(tmp_path):
    dead, alive, other = (tmp_path / f"{PREFIX}{name}" for name in ("dead", "alive", "other"))
    for directory in (dead, alive, other):
        directory.mkdir()
    for directory in (dead, alive):
        (directory / "lock").touch()
    lock = os.open(alive / "lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    sweep(tmp_path)
    os.close(lock)
    assert [dead.exists(), alive.exists(), other.exists()] == [False, True, True]


def test_variables_are_taken_in_three_forms_and_nothing_else(tmp_path):
    (tmp_path / "more").write_text('{"b": [1]}')
    assert parse_variables(["a=1 2", f"@{tmp_path}/more", '{"c": true}']) == {"a": "1 2", "b": [1], "c": True}
    for wrong in ("a", "a-b=1", "{", "@/nonexistent", "[1]"):
        with pytest.raises(UsageError):
            parse_variables([wrong])


def test_on_a_terminal_hosts_at_work_are_shown_and_what_is_through_stays_above_them():
    rich_console = pytest.importorskip("rich.console")
    from trinity_snap.cli.fleet_progress import TableWatcher

    stream = io.StringIO()
    table = TableWatcher(rich_console.Console(file=stream, width=200))
    table.console.print(table)
    table.begin("backup", "db141b16" * 4, 18)
    for number in range(17):
        table.host_started(f"host{number}")
    answer: dict[str, object] = {
        "agents": [{"agent": "web", "outcome": "done", "consistency": "host-crash-consistent", "error": None}]
    }
    table.host_ended(HostResult("host0", "done", duration_seconds=75, answer=answer))
    table.console.print(table)
    lines = stream.getvalue().splitlines()
    assert lines[:3] == [
        "Reading the inventory",
        "host0  web  done  host-crash-consistent",
        "host0: done in 1 min 15 s",
    ]
    assert lines[3] == "backup db141b16: 1 of 18 hosts through, 1 done"
    assert lines[4].startswith("  host1  ") and lines[-1] == "  and 1 more"
