"""Waiting until agents are idle, before anything is held.

An agent's server says at `GET /health` on port 8000 how many tasks it works on (`active_tasks`, and
`diagnostics.running_executions`). It is asked over the network if the container has an address, otherwise from
inside, with whatever the container has to ask with. The answer is the agent's own word: it is bounded in size and
time, and nothing but the moment of the snapshot depends on it.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from trinity_snap.quiesce.execution import ExecutionFailed, execute

if TYPE_CHECKING:
    from docker import DockerClient

    from trinity_snap.agents.model import Agent, JsonObject
    from trinity_snap.policy.settings import QuiesceSettings

_PORT = 8000
_ANSWER_SECONDS = 3.0
_ANSWER_BYTES = 64 * 1024
_AGAIN_SECONDS = 1.0
_QUICK_SECONDS = 2.0
_THREADS = 32
_TRIES = 3
_ADDRESS = f"http://127.0.0.1:{_PORT}/health"
# Some builds of busybox crash when wget is given a time limit; those do without.
_ASK = f"""\
curl -fsS --max-time 2 {_ADDRESS} 2>/dev/null ||
wget -q -T 2 -O - {_ADDRESS} 2>/dev/null || {{ [ $? -gt 128 ] && wget -q -O - {_ADDRESS} 2>/dev/null; }} ||
python3 -c 'import urllib.request as u; print(u.urlopen("{_ADDRESS}", timeout=2).read().decode())' 2>/dev/null"""


class NoEndpoint(Exception):
    """The agent does not answer that question."""


@dataclass(frozen=True)
class Busy:
    """How busy an agent is."""

    tasks: int


class Drain:
    """The agents of a run that are to be idle first: `wait` before all else, `look` right before the hold."""

    def __init__(self, client: DockerClient, agents: Sequence[Agent], settings: Mapping[str, QuiesceSettings]) -> None:
        self._client = client
        self._over = threading.Event()
        self._budgets = {
            agent.name: (agent, seconds)
            for agent in agents
            if agent.container_id is not None and agent.state == "running"
            if (seconds := settings[agent.name].drain_seconds) is not None
        }

    @property
    def is_wanted(self) -> bool:
        """Whether there is anybody to wait for."""
        return bool(self._budgets)

    def wait(self) -> list[str]:
        """Wait until each agent is idle or its budget is over, all side by side; what there is to say, as sentences."""
        return self._each({name: seconds for name, (_, seconds) in self._budgets.items()})

    def look(self) -> list[str]:
        """Give those that were idle and are busy again a moment to finish; who is busy even then, as sentences."""
        return self._each(dict.fromkeys(self._budgets, _QUICK_SECONDS))

    def _each(self, budgets: Mapping[str, float]) -> list[str]:
        if not budgets:
            return []
        with ThreadPoolExecutor(min(_THREADS, len(budgets))) as pool:
            try:
                said = dict(zip(budgets, pool.map(self._until_idle, budgets, budgets.values()), strict=True))
            finally:
                self._over.set()  # whoever interrupts this does not wait for budgets
        self._over.clear()
        self._budgets = {name: budget for name, budget in self._budgets.items() if not said.get(name)}
        return [f"{name}: {sentence}" for name, sentence in said.items() if sentence]

    def _until_idle(self, name: str, seconds: float) -> str:
        """Nothing once the agent is idle, else why that is not so, or not known."""
        until = time.monotonic() + seconds
        failures = 0
        while True:
            try:
                busy = ask(self._client, str(self._budgets[name][0].container_id))
            except NoEndpoint as error:
                failures += 1  # a server under load may miss one question
                if failures == _TRIES:
                    return f"whether it is idle is not known ({error}); it was not waited for."
            else:
                failures = 0
                if not busy.tasks:
                    return ""
                if time.monotonic() >= until:
                    return f"it was busy ({busy.tasks} active tasks) after {seconds:g} s of waiting."
            if self._over.wait(min(_AGAIN_SECONDS, max(0.0, until - time.monotonic()))):
                return ""


def ask(client: DockerClient, container: str, port: int = _PORT) -> Busy:
    """Ask one agent how busy it is. Raise NoEndpoint."""
    from docker.errors import DockerException

    try:
        inspected = cast("JsonObject", client.api.inspect_container(container))
    except (DockerException, OSError) as error:
        raise NoEndpoint(f"Docker does not say how to reach it: {error}") from error
    networks = (inspected.get("NetworkSettings") or {}).get("Networks") or {}
    for network in networks.values():
        if address := network.get("IPAddress"):
            try:
                return understand(_get(str(address), port))
            except (OSError, NoEndpoint):
                continue
    try:
        done = execute(client, container, ["sh", "-c", _ASK], seconds=4 * _ANSWER_SECONDS)
    except ExecutionFailed as error:
        raise NoEndpoint(str(error)) from error
    if done.exit_code != 0:
        raise NoEndpoint("nothing there answers at port 8000, /health")
    return understand(done.output.encode())


def understand(answer: bytes) -> Busy:
    """What a server said, as a number of tasks. Raise NoEndpoint if it is something else."""
    try:
        said = json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise NoEndpoint("its answer is no JSON") from error
    if not isinstance(said, dict) or "active_tasks" not in said:
        raise NoEndpoint("its answer has no `active_tasks`")
    diagnostics = said.get("diagnostics")
    running = diagnostics.get("running_executions") if isinstance(diagnostics, dict) else 0
    return Busy(max(_count(said["active_tasks"]), _count(running)))


def _count(value: object) -> int:
    if isinstance(value, list | dict):
        return len(value)
    if isinstance(value, int):
        return max(0, value)
    if value is None:
        return 0
    raise NoEndpoint("its answer has an `active_tasks` that is no number")


def _get(address: str, port: int) -> bytes:
    """The body of `GET /health`, within a time limit for all of it. Raise OSError or NoEndpoint."""
    until = time.monotonic() + _ANSWER_SECONDS
    received = b""
    with socket.create_connection((address, port), timeout=_ANSWER_SECONDS) as connection:
        connection.sendall(f"GET /health HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
        while len(received) < _ANSWER_BYTES:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(left)
            more = connection.recv(_ANSWER_BYTES)
            if not more:
                break
            received += more
    head, _, body = received.partition(b"\r\n\r\n")
    if head.split(b" ", 2)[1:2] != [b"200"]:
        raise NoEndpoint("it answers with an error")
    return body
