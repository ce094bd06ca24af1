"""The parts of the quiesce modes that need no container: what Docker and agents may answer, and what follows from it."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError, NotFound

from trinity_snap.agents import Agent, HeldContainer, Source, watcher_notes
from trinity_snap.agents.inventory import Container, Mount
from trinity_snap.agents.watchers import autohealers
from trinity_snap.policy.settings import HookSettings
from trinity_snap.quiesce import drain, hooks
from trinity_snap.quiesce.drain import Busy, NoEndpoint, ask, understand
from trinity_snap.quiesce.events import Event, Events, held_seconds
from trinity_snap.quiesce.execution import Executed, _Output
from trinity_snap.quiesce.hooks import Hook, Hooks
from trinity_snap.quiesce.journal import Journal, OpenHook, StoppedContainer, read_journal
from trinity_snap.quiesce.outcome import AgentHold, judge, loosened
from trinity_snap.quiesce.stopping import Stop, Stops


def agent(name: str) -> Agent:
    source = Source(f"agent-{name}-workspace", "volume", Path(f"/volumes/{name}"), "/home/developer")
    return Agent(name, name, f"agent-{name}", "running", (source,))


def writer(name: str, *agents: str, state: Any = "running") -> HeldContainer:
    return HeldContainer(name, f"agent-{name}", state, frozenset(agents or (name,)))


# -- labels -------------------------------------------------------------------------------------------------------------


def hooked(name: str, failure: str = "") -> Hook:
    return Hook(name, name, HookSettings(), was_started=True, failure=failure)


def stopped(name: str, failure: str = "") -> Stop:
    return Stop(name, name, asked=True, is_stopped=True, is_clean=not failure, failure=failure)


def levels(
    modes: Any, writers: Any, hooks: Any = (), stops: Any = (), loose: Any = None, why: str = ""
) -> dict[str, str]:
    judged = judge([agent(name) for name in modes], modes, writers, hooks, stops, loose or {}, why)
    return {name: hold.level + ("!" if hold.shortfall else "") for name, hold in judged.items()}


def test_a_point_is_as_strong_as_the_weakest_container_that_can_write_to_it():
    modes = {"a": "hooks", "b": "pause"}
    alone = [writer("a"), writer("b")]
    together = [writer("a"), writer("b", "a", "b")]
    assert levels(modes, alone, [hooked("a")]) == {"a": "at rest", "b": "frozen"}
    assert levels(modes, together, [hooked("a")]) == {"a": "frozen", "b": "frozen"}
    both = {"a": "stop", "b": "stop"}
    down = [writer("a", state="exited"), writer("b", "a", "b", state="exited")]
    assert levels(both, down, (), [stopped("a"), stopped("b")]) == {"a": "at rest", "b": "at rest"}
    assert levels(both, down, (), [stopped("a"), stopped("b", "killed")]) == {"a": "frozen", "b": "frozen!"}


def test_what_was_disturbed_concerns_only_its_agents_and_a_missed_budget_all():
    modes = {"a": "pause", "b": "stop", "c": "none"}
    writers = [writer("a"), writer("b", state="exited"), writer("c")]
    assert levels(modes, writers, (), [stopped("b")], {"a": "x"}) == {"a": "running!", "b": "at rest", "c": "running"}
    assert levels(modes, writers, (), [stopped("b")], {"c": "x"}) == {"a": "frozen", "b": "at rest", "c": "running"}
    assert levels(modes, writers, (), [stopped("b")], why="late") == {"a": "running!", "b": "running!", "c": "running"}


@pytest.mark.parametrize(("code", "is_absent"), [(1, True), (127, True), (None, False), (137, False)])
def test_a_hook_that_could_not_be_looked_for_is_not_taken_for_absent(monkeypatch, tmp_path, code, is_absent):
    monkeypatch.setattr(hooks, "execute", lambda *_, **__: Executed(code, ""))
    one = Hook("a", "a", HookSettings())
    journal = Journal.start(tmp_path, "run")
    Hooks(None, journal, [one]).before(lambda: False)  # type: ignore[arg-type]  # Docker is not asked
    assert (one.is_absent, bool(one.failure)) == (is_absent, not is_absent)
    level = levels({"a": "hooks"}, [writer("a")], [one])["a"]
    assert level == ("frozen" if is_absent else "frozen!")


def test_labels_of_a_running_agent_depend_on_the_provider_alone():
    assert AgentHold("running").consistency(atomic=True) == "crash-consistent"
    assert AgentHold("running").consistency(atomic=False) == "file-consistent"
    assert AgentHold("frozen").consistency(atomic=False) == "host-crash-consistent"


def began(events: list[Event], containers: list[Container] = []) -> set[str]:  # noqa: B006
    writers = [writer("a"), writer("b", "b", "c"), writer("d", state="exited")]
    return set(loosened(events, 100, writers, [agent(name) for name in "abcd"], lambda: containers))


def test_only_what_began_to_run_before_the_snapshot_was_made_weakens():
    assert began([Event(50, "pause", "a"), Event(150, "unpause", "a")]) == set()
    assert began([Event(50, "unpause", "a")]) == {"a"}
    assert began([Event(50, "start", "b")]) == {"b", "c"}
    assert began([Event(50, "die", "a")]) == {"a"}
    assert began([Event(40, "die", "d")]) == set()  # the shutdown that was asked for, told late
    assert began([Event(40, "die", "d"), Event(50, "start", "d")]) == {"d"}


def test_a_container_that_came_and_went_is_told_by_what_it_mounted():
    mounted = Event(49, "mount", "x", "agent-c-workspace")
    assert began([mounted, Event(50, "start", "x")]) == {"c"}
    assert began([Event(50, "start", "x")]) == set()
    mount = Mount("volume", "agent-a-workspace", "/volumes/a", "/x", True)
    assert began([Event(50, "start", "x")], [Container("x", "x", "running", {}, 0, (mount,))]) == {"a"}


# -- events -------------------------------------------------------------------------------------------------------------


class Stream:
    """Events as docker-py hands them out; the live one ends when it is closed, or breaks."""

    def __init__(self, events: list[dict[str, Any]], live: bool, breaks: bool) -> None:
        self.events, self.live, self.breaks = events, live, breaks
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from self.events
        if self.breaks:
            raise ConnectionResetError
        if self.live:
            self.closed.wait(10)

    def close(self) -> None:
        self.closed.set()


class Docker:
    def __init__(self, live: list[dict[str, Any]], later: list[dict[str, Any]], breaks: bool = False) -> None:
        self.api = self
        self.live, self.later, self.breaks = live, later, breaks

    def events(self, since: str, until: str | None, filters: object, decode: bool) -> Stream:
        return Stream(self.live if until is None else self.later, until is None, self.breaks and until is None)


def raw(action: str, container: str, at: int) -> dict[str, Any]:
    return {"Type": "container", "Action": action, "Actor": {"ID": container, "Attributes": {}}, "timeNano": at}


def heard(docker: Docker) -> Events:
    events = Events(docker)  # type: ignore[arg-type]
    until = time.monotonic() + 10
    while len(events.all()) < len(docker.live) and time.monotonic() < until:
        time.sleep(0.01)
    events.close()
    return events


def test_what_docker_has_forgotten_was_heard_and_what_was_not_heard_is_asked_for():
    events = heard(Docker([raw("pause", "a", 1)], [raw("pause", "b", 2), raw("unpause", "b", 2 * 10**9)]))
    assert events.is_whole
    assert [(event.action, event.container) for event in events.all()] == [
        ("pause", "a"),
        ("pause", "b"),
        ("unpause", "b"),
    ]
    assert held_seconds(events.all(), {"a", "b"}) == {"b": pytest.approx(2, abs=0.1)}


def test_a_broken_connection_is_noticed():
    docker = Docker([], [], breaks=True)
    events = Events(docker)  # type: ignore[arg-type]
    until = time.monotonic() + 10
    while events.is_whole and time.monotonic() < until:
        time.sleep(0.01)
    assert not events.is_whole
    events.close()


# -- output of commands -------------------------------------------------------------------------------------------------


def test_output_is_put_together_however_it_is_cut_and_only_its_end_is_kept():
    stream = b"".join(
        bytes([1 + number % 2, 0, 0, 0]) + len(words).to_bytes(4, "big") + words
        for number, words in enumerate([b"hello ", b"w\xc3\xb6rld\n", b"", b"\x1b[2J"])
    )
    for seed in range(50):
        cuts = sorted(random.Random(seed).choices(range(len(stream) + 1), k=5))
        output = _Output()
        for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            output.feed(stream[begin:end])
        assert output.text() == "hello wörld\n�[2J"
    output = _Output()
    output.feed(bytes([1, 0, 0, 0]) + (10_000_000).to_bytes(4, "big"))
    for _ in range(100):
        output.feed(b"x" * 100_000)
    assert len(output.text()) == 2000


# -- stopping -----------------------------------------------------------------------------------------------------------


class Stubborn:
    """A container that cannot be started again."""

    def __init__(self) -> None:
        self.api = self
        self.running = True

    def inspect_container(self, container: str) -> dict[str, Any]:
        return {"Name": "/a", "State": {"Running": self.running, "StartedAt": "t", "ExitCode": 0}, "HostConfig": {}}

    def stop(self, container: str, timeout: int) -> None:
        self.running = False

    def start(self, container: str) -> None:
        raise APIError("no")


def test_a_container_that_cannot_be_started_stays_noted(tmp_path, monkeypatch):
    monkeypatch.setattr("trinity_snap.quiesce.stopping.START_SECONDS", 0.3)
    journal = Journal.start(tmp_path, "run-1")
    stops = Stops(Stubborn(), journal, [Stop("a", "a")], 1.0)  # type: ignore[arg-type]
    stops.stop(lambda: False)
    assert stops.stops[0].is_clean
    stops.start()
    assert stops.stops[0].stuck == "no"
    assert [each.id for each in read_journal(journal.path).stopped] == ["a"]
    assert not journal.end()


def test_stopped_containers_and_hooks_are_open_until_they_are_noted_to_be_over(tmp_path):
    journal = Journal.start(tmp_path, "run-1")
    journal.stopping([StoppedContainer("a", "t1"), StoppedContainer("b", "t2")], 5.0)
    hook = OpenHook("c", "e", "agent", "after", 3.0)
    journal.hook(hook)
    journal.started_again("a", "run")
    state = read_journal(journal.path)
    assert (state.stopped, state.hooks) == ((StoppedContainer("b", "t2", 5.0),), (hook,))
    assert not state.is_undone
    journal.started_again("b", "run")
    journal.hook_over("c", "guardian")
    assert read_journal(journal.path).is_undone


# -- drain --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "tasks"),
    [
        ({"active_tasks": 0}, 0),
        ({"active_tasks": 2, "diagnostics": {"running_executions": 1}}, 2),
        ({"active_tasks": [], "diagnostics": {"running_executions": [{}, {}]}}, 2),
        ({"active_tasks": False, "diagnostics": None}, 0),
        ({"active_tasks": -3}, 0),
    ],
)
def test_an_agent_says_how_busy_it_is_in_several_ways(said, tasks):
    assert understand(json.dumps(said).encode()) == Busy(tasks)


@pytest.mark.parametrize("said", [b"", b"<html>", b"[1]", b"{}", b'{"active_tasks": "many"}', b"[" * 100_000, b"\xff"])
def test_whatever_else_an_agent_says_is_no_answer(said):
    with pytest.raises(NoEndpoint):
        understand(said)


class Server(BaseHTTPRequestHandler):
    answer = b""
    code = 200

    def do_GET(self) -> None:
        self.send_response(self.code)
        self.end_headers()
        self.wfile.write(self.answer if self.path == "/health" else b"")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), type("One", (Server,), {}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Inside:
    """A container with an address, and nothing inside to ask with."""

    def __init__(self) -> None:
        self.api = self

    def inspect_container(self, container: str) -> dict[str, Any]:
        return {"NetworkSettings": {"Networks": {"none": {"IPAddress": ""}, "bridge": {"IPAddress": "127.0.0.1"}}}}

    def exec_create(self, *arguments: object, **more: object) -> None:
        raise NotFound("no")


def test_an_agent_with_an_address_is_asked_there(server, monkeypatch):
    handler, port = server.RequestHandlerClass, server.server_address[1]
    handler.answer = b'{"active_tasks": 4}'
    assert ask(Inside(), "a", port) == Busy(4)  # type: ignore[arg-type]
    handler.code = 500
    with pytest.raises(NoEndpoint):
        ask(Inside(), "a", port)  # type: ignore[arg-type]
    handler.code, handler.answer = 200, b'{"active_tasks": 0, "x": "' + b"x" * 10_000_000
    with pytest.raises(NoEndpoint):
        ask(Inside(), "a", port)  # type: ignore[arg-type]


def test_an_agent_that_answers_in_drops_is_not_waited_for(monkeypatch):
    import socket

    monkeypatch.setattr(drain, "_ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            connection, _ = listening.accept()
            with connection:
                try:
                    while True:
                        connection.send(b"x")
                        time.sleep(0.05)
                except OSError:
                    pass

        thread = threading.Thread(target=drip)
        thread.start()
        began = time.monotonic()
        with pytest.raises(NoEndpoint):
            ask(Inside(), "a", listening.getsockname()[1])  # type: ignore[arg-type]
        assert time.monotonic() - began < 10
        thread.join()


# -- who may restart paused agents --------------------------------------------------------------------------------------


def container(name: str, image: str = "", state: Any = "running", labels: Any = None, source: str = "") -> Container:
    mounts = (Mount("bind", "", source, source, True),) if source else ()
    return Container(name, name, state, labels or {}, 0, mounts, image)


def test_autoheal_containers_are_known_by_image_name_or_label():
    found = autohealers(
        [
            container("one", "willfarrell/autoheal:latest"),
            container("my-autoheal"),
            container("three", labels={"autoheal.interval": "5"}, source="/var/run/docker.sock"),
            container("labelled-agent", labels={"autoheal": "true"}),
            container("portainer", source="/var/run/docker.sock"),
            container("off", "willfarrell/autoheal", state="exited"),
        ]
    )
    assert found == ("one", "my-autoheal", "three")


def test_only_health_checks_that_give_up_within_the_pause_are_named():
    def checked(name: str, **check: Any) -> Agent:
        return Agent(name, name, name, "running", (), {"Healthcheck": check} if check else {})

    second = 10**9
    agents = [
        checked("hasty", Test=["CMD", "x"], Interval=second, Retries=3),
        checked("calm", Test=["CMD", "x"], Interval=10 * second, Retries=3),
        checked("default", Test=["CMD", "x"]),
        checked("switched-off", Test=["NONE"], Interval=second, Retries=1),
        checked("none"),
    ]
    (note,) = watcher_notes((), agents, 5.0)
    assert "of hasty give up" in note
    assert watcher_notes((), agents, 2.0) == []
