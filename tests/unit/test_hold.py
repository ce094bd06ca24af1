"""What is hard to make a real Docker daemon do: refuse to resume, or to pause."""

import os
import time
from types import SimpleNamespace

import pytest
from docker.errors import APIError, NotFound

from trinity_snap.agents import HeldContainer
from trinity_snap.errors import LeftQuiesced
from trinity_snap.quiesce import Journal, critical, guardian, hold, recover
from trinity_snap.quiesce.hold import Hold
from trinity_snap.quiesce.journal import read_journal
from trinity_snap.quiesce.stopping import Stops

FOREVER = time.monotonic() + 3600


class Api:
    """Containers by id, each in a state; `stuck` ones cannot be resumed, `stubborn` ones are paused at the third try.

    `secret` ones are paused, and Docker says that it failed.
    """

    def __init__(self, stuck=(), stubborn=(), gone=(), secret=()):
        self.states = {}
        self.stuck, self.gone = set(stuck), set(gone)
        self.tries = dict.fromkeys(stubborn, 2)
        self.secret = set(secret)
        self.base_url = ""

    def pause(self, container):
        if container in self.gone:
            raise NotFound("gone")
        if self.tries.get(container):
            self.tries[container] -= 1
            raise APIError("unable to freeze")
        if self.states.get(container) == "paused":
            raise APIError("already paused")
        self.states[container] = "paused"
        if container in self.secret:
            raise APIError("context deadline exceeded")

    def unpause(self, container):
        if container in self.gone:
            raise NotFound("gone")
        if container in self.stuck or self.states.get(container) != "paused":
            raise APIError("no")
        self.states[container] = "running"

    def inspect_container(self, container):
        if container in self.gone:
            raise NotFound("gone")
        if container in self.secret:
            self.secret.remove(container)  # it takes Docker a moment to learn it
            return {"Name": f"/{container}", "State": {"Paused": False, "Running": True}}
        state = self.states.get(container, "running")
        return {"Name": f"/{container}", "State": {"Paused": state == "paused", "Running": True}}


class Client:
    def __init__(self, **api):
        self.api = Api(**api)


class Guardian:
    abandoned = False

    def abandon(self):
        self.abandoned = True


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(hold, "_RETRY_SECONDS", 0.2)


def held(client, journal, *names):
    containers = [HeldContainer(name, name, "running") for name in names]
    journal.pausing(names)
    return Hold(client, containers, journal)


def test_a_container_that_cannot_be_resumed_is_an_error_and_the_others_run(tmp_path):
    client, journal = Client(stuck=["b"]), Journal.start(tmp_path, "run-1")
    everything = held(client, journal, "a", "b", "c")
    everything.begin_pausing(FOREVER)
    everything.wait_until_paused(FOREVER)
    everything.resume()
    assert client.api.states == {"a": "running", "b": "paused", "c": "running"}
    guardian = Guardian()
    section = critical._Section(client, [], [], journal, {}, 5.0, 30.0, ())  # type: ignore[arg-type]
    section.hold, section.guardian = everything, guardian  # type: ignore[assignment]
    section.stops = Stops(client, journal, [], 30.0)  # type: ignore[arg-type]
    with pytest.raises(LeftQuiesced, match="b") as left:
        section._require_undone()
    assert left.value.exit_code == 11
    assert guardian.abandoned
    assert read_journal(journal.path).held == ("b",)


def test_recover_keeps_trying_to_resume_what_is_still_paused(tmp_path):
    client, journal = Client(stuck=["b"]), Journal.start(tmp_path, "run-1")
    journal.pausing(["a", "b"])
    client.api.states = {"a": "paused", "b": "paused"}
    journal.path.write_text(journal.path.read_text().replace('"start_ticks": ', '"start_ticks": 9'))
    with pytest.raises(LeftQuiesced):
        recover(tmp_path, client)  # type: ignore[arg-type]
    assert client.api.states == {"a": "running", "b": "paused"}
    client.api.stuck.clear()
    assert recover(tmp_path, client).resumed == ["b"]  # type: ignore[arg-type]
    assert read_journal(journal.path).ended


def test_nothing_is_resumed_for_a_run_of_an_earlier_boot(tmp_path):
    client, journal = Client(), Journal.start(tmp_path, "run-1")
    journal.pausing(["a"])
    client.api.states = {"a": "paused"}
    text = journal.path.read_text()
    boot = read_journal(journal.path).process.boot_id  # type: ignore[union-attr]
    journal.path.write_text(text.replace(boot, "earlier"))
    assert recover(tmp_path, client).resumed == []  # type: ignore[arg-type]
    assert client.api.states == {"a": "paused"}
    assert read_journal(journal.path).ended


def test_without_docker_what_is_paused_stays_noted(tmp_path):
    journal = Journal.start(tmp_path, "run-1")
    journal.pausing(["a"])
    journal.path.write_text(journal.path.read_text().replace('"start_ticks": ', '"start_ticks": 9'))
    assert len(recover(tmp_path, None).problems) == 1
    assert read_journal(journal.path).held == ("a",)


def test_a_container_that_docker_fails_to_freeze_is_tried_again(tmp_path):
    client, journal = Client(stubborn=["a"]), Journal.start(tmp_path, "run-1")
    everything = held(client, journal, "a")
    everything.begin_pausing(FOREVER)
    assert everything.wait_until_paused(FOREVER)
    assert client.api.states == {"a": "paused"}
    everything.resume()
    assert client.api.states == {"a": "running"}
    assert journal.end()


def test_what_somebody_else_paused_or_removed_meanwhile_is_left_alone(tmp_path):
    client, journal = Client(gone=["b"]), Journal.start(tmp_path, "run-1")
    client.api.states = {"a": "paused"}
    everything = held(client, journal, "a", "b", "c")
    everything.begin_pausing(FOREVER)
    everything.wait_until_paused(FOREVER)
    everything.resume()
    assert client.api.states == {"a": "paused", "c": "running"}
    assert journal.end()


def test_what_docker_paused_although_it_said_that_it_had_failed_is_resumed(tmp_path):
    client, journal = Client(secret=["a"]), Journal.start(tmp_path, "run-1")
    everything = held(client, journal, "a")
    everything.begin_pausing(FOREVER)
    assert everything.wait_until_paused(FOREVER)
    assert client.api.states == {"a": "paused"}
    everything.resume()
    assert client.api.states == {"a": "running"}
    assert journal.end()


# -- a full disk --------------------------------------------------------------------------------------------------------

MANY = [f"c{number}" for number in range(3 * guardian._THREADS)]


def fill_up(journal):
    """From now on, the journal's disk has no room."""
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, journal._descriptor)
    os.close(full)


def test_a_disk_that_fills_up_during_the_pause_keeps_nobody_held(tmp_path):
    client, journal = Client(), Journal.start(tmp_path, "run-1")
    everything = held(client, journal, *MANY)
    everything.begin_pausing(FOREVER)
    everything.wait_until_paused(FOREVER)
    assert set(client.api.states.values()) == {"paused"}
    fill_up(journal)
    everything.resume()
    assert set(client.api.states.values()) == {"running"}
    assert not journal.end()  # so that `recover` looks again


def test_the_guardian_resumes_all_also_where_it_cannot_note_that(tmp_path, monkeypatch):
    monkeypatch.setattr(guardian, "_AFTERMATH_SECONDS", 0.0)
    client, journal = Client(), Journal.start(tmp_path, "run-1")
    journal.pausing(MANY)
    client.api.states = dict.fromkeys(MANY, "paused")
    fill_up(journal)
    guardian._resume_until_over(client, journal.path, journal, worker_gone=True)  # type: ignore[arg-type]
    assert set(client.api.states.values()) == {"running"}


def test_whatever_goes_wrong_in_letting_go_the_rest_is_done(tmp_path):
    def fail(*ignored):
        done.append(ignored)
        raise RuntimeError("a mistake")

    done: list[object] = []
    section = critical._Section(Client(), [], [], Journal.start(tmp_path, "run-1"), {}, 5.0, 30.0, ())  # type: ignore[arg-type]
    section.hold = SimpleNamespace(resume=fail)  # type: ignore[assignment]
    section.guardian = SimpleNamespace(hold=lambda seconds: None)  # type: ignore[assignment]
    section.stops = SimpleNamespace(start=fail)  # type: ignore[assignment]
    section.hooks = SimpleNamespace(longest_seconds=1.0, after=fail)  # type: ignore[assignment]
    section.events = SimpleNamespace(close=fail)  # type: ignore[assignment]
    with pytest.raises(RuntimeError):
        section._undo()
    assert len(done) == 4
