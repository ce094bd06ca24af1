"""What is hard to make a real Docker daemon do: refuse to resume, or to pause."""

import time

import pytest
from docker.errors import APIError, NotFound

from trinity_snap.agents import HeldContainer
from trinity_snap.errors import LeftQuiesced
from trinity_snap.quiesce import Journal, critical, hold, recover
from trinity_snap.quiesce.hold import Hold
from trinity_snap.quiesce.journal import read_journal
from trinity_snap.quiesce.stopping import Stops

FOREVER = time.monotonic() + 3600


class Api:
    """Containers by id, each in a state; `stuck` ones cannot be resumed, `stubborn` ones are paused at the third try."""

    def __init__(self, stuck=(), stubborn=(), gone=()):
        self.states = {}
        self.stuck, self.gone = set(stuck), set(gone)
        self.tries = dict.fromkeys(stubborn, 2)
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

    def unpause(self, container):
        if container in self.gone:
            raise NotFound("gone")
        if container in self.stuck or self.states.get(container) != "paused":
            raise APIError("no")
        self.states[container] = "running"

    def inspect_container(self, container):
        if container in self.gone:
            raise NotFound("gone")
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
