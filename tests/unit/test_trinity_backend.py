"""The routes in Trinity's backend, in a small app with its service and dependencies, driving the real command."""

from __future__ import annotations

import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import FastAPI, Header, HTTPException
from fastapi.testclient import TestClient

from tests.unit.test_cli_repository import Host, host, make_host, repository
from tests.unit.test_entitlements import SENTENCE, Service
from trinity_snap.trinity.control import CommandFailed, Control

__all__ = ["host", "make_host", "repository"]  # fixtures

PREFIX = "/api/enterprise/backups"
ADMIN = {"X-Role": "admin"}


def requires_entitlement(feature_id: str) -> Any:
    """As Trinity's: asks the service at the time of the request."""

    def check() -> None:
        service = sys.modules["services.entitlement_service"].entitlement_service
        if not service.is_entitled(feature_id):
            detail = f"Enterprise feature '{feature_id}' is not licensed for this instance. Contact your administrator."
            raise HTTPException(403, detail)

    return check


def require_admin(x_role: Annotated[str, Header()] = "") -> Any:
    if x_role != "admin":
        raise HTTPException(403, "Admin access required")
    return types.SimpleNamespace(username="ada")


@pytest.fixture
def backend(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """Trinity's backend on the host's own machine."""
    modules = {name: types.ModuleType(name) for name in ("services", "services.entitlement_service", "dependencies")}
    modules["services.entitlement_service"].entitlement_service = Service()  # type: ignore[attr-defined]  # made here
    modules["dependencies"].requires_entitlement = requires_entitlement  # type: ignore[attr-defined]  # made here
    modules["dependencies"].require_admin = require_admin  # type: ignore[attr-defined]  # made here
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("TRINITY_SNAP_COMMAND", f"{sys.executable} -m trinity_snap")
    monkeypatch.setenv("TRINITY_SNAP_POLICY", str(host.policy))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    from trinity_snap.trinity.backend import mount

    app = FastAPI()
    assert mount(app)
    with TestClient(app) as client:
        yield client


def test_outside_of_the_backend_nothing_is_mounted():
    from trinity_snap.trinity.backend import mount

    app = FastAPI()
    before = len(app.routes)
    assert not mount(app)
    assert len(app.routes) == before


ROUTES = [
    ("GET", "/policy"), ("PUT", "/policy"), ("GET", "/policy/history"), ("GET", "/policy/schema"), ("GET", "/status"),
    ("GET", "/points"), ("GET", "/runs"), ("POST", "/runs"), ("GET", "/runs/x"), ("POST", "/restores"),
    ("GET", "/restores"), ("GET", "/restores/x"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_needs_the_entitlement_and_an_administrator(backend: TestClient, method: str, path: str):
    assert backend.request(method, PREFIX + path, json={}).json() == {"detail": "Admin access required"}
    sys.modules["services.entitlement_service"].entitlement_service = Service()  # type: ignore[attr-defined]  # made here
    refused = backend.request(method, PREFIX + path, json={}, headers=ADMIN)
    assert (refused.status_code, refused.json()) == (403, {"detail": SENTENCE})


def test_every_route_is_in_that_list(backend: TestClient):
    described = backend.get("/openapi.json").json()["paths"]
    found = {
        (method.upper(), path.removeprefix(PREFIX).replace("{job_id}", "x"))
        for path, methods in described.items()
        for method in methods
    }
    assert found == set(ROUTES)


def test_policy_status_and_points_are_the_commands_own_answers(backend: TestClient, host: Host):
    point = host.back_up()
    policy = backend.get(f"{PREFIX}/policy", headers=ADMIN).json()
    assert policy["path"] == str(host.policy)
    assert [one["id"] for one in backend.get(f"{PREFIX}/points", headers=ADMIN).json()["points"]] == [point]
    assert backend.get(f"{PREFIX}/points?agent=web", headers=ADMIN).json()["points"][0]["agent"] == "web"
    assert backend.get(f"{PREFIX}/status", headers=ADMIN).json()["source"] == "repository"


def test_a_restore_shows_its_plan_and_needs_to_be_confirmed(backend: TestClient, host: Host):
    host.back_up()
    answer = backend.post(f"{PREFIX}/restores", headers=ADMIN, json={"agent": "web"})
    assert (answer.status_code, "confirm" in answer.json()["detail"]) == (409, True)
    plan = backend.post(f"{PREFIX}/restores", headers=ADMIN, json={"agent": "web", "dry_run": True})
    assert (plan.status_code, "Docker" in plan.json()["detail"]) == (502, True)
    job = backend.post(f"{PREFIX}/restores", headers=ADMIN, json={"agent": "web", "confirm": True}).json()
    ended = wait(backend, f"/restores/{job['id']}")
    assert (ended["state"], ended["exit_code"], "Docker" in ended["error"]) == ("failed", 1, True)
    assert [one["id"] for one in backend.get(f"{PREFIX}/restores", headers=ADMIN).json()["restores"]] == [job["id"]]


def test_a_run_goes_on_by_itself_and_says_what_became_of_it(backend: TestClient, host: Host, tmp_path: Path):
    (tmp_path / "platform").mkdir()
    (tmp_path / "platform/trinity.db").write_text("data")
    with host.policy.open("a") as file:
        file.write("\n")
    text = host.policy.read_text()
    text = text.replace("  #paths: []", f"  paths: [{tmp_path}/platform]").replace(
        "    #trinity: true", "    trinity: false"
    )
    host.policy.write_text(text)
    started = backend.post(f"{PREFIX}/runs", headers=ADMIN, json={})
    assert (started.status_code, started.json()["state"]) == (202, "waiting") or started.json()["state"] == "running"
    ended = wait(backend, f"/runs/{started.json()['id']}")
    assert (ended["state"], ended["exit_code"]) == ("done", 0), ended
    assert [agent["agent"] for agent in ended["answer"]["agents"]] == ["platform"]
    refused = backend.post(f"{PREFIX}/runs", headers=ADMIN, json={"agents": ["nobody"]}).json()
    assert wait(backend, f"/runs/{refused['id']}")["exit_code"] == 2


@pytest.mark.parametrize("agent", ["--to=/etc", "-h", "a b", "a;b", "../x", ""])
def test_names_that_would_be_options_or_paths_are_refused(backend: TestClient, agent: str):
    assert backend.post(f"{PREFIX}/restores", headers=ADMIN, json={"agent": agent, "confirm": True}).status_code == 422
    assert backend.post(f"{PREFIX}/runs", headers=ADMIN, json={"agents": [agent]}).status_code == 422


def test_arguments_are_quoted_for_the_shell_behind_ssh(tmp_path: Path):
    (tmp_path / "bin").mkdir()
    ssh = tmp_path / "bin/ssh"
    ssh.write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
    ssh.chmod(0o755)
    command = tmp_path / "snap"
    command.write_text('#!/bin/sh\nprintf \'{"got": "%s"}\' "$4"\n')
    command.chmod(0o755)
    control = Control((str(ssh), "host", str(command)))
    assert control.ask(["show", f"$(touch {tmp_path}/evil); `id`"]) == {"got": f"$(touch {tmp_path}/evil); `id`"}
    assert not (tmp_path / "evil").exists()


def test_a_host_that_cannot_be_reached_is_a_bad_gateway_and_no_more():
    with pytest.raises(CommandFailed, match="could not be run") as failed:
        Control(("/nonexistent/trinity-snap",)).ask(["status"])
    assert failed.value.exit_code == -1
    with pytest.raises(CommandFailed, match="gave no answer"):
        Control(("/bin/echo",)).ask(["status"])


def wait(backend: TestClient, path: str) -> dict[str, Any]:
    until = time.monotonic() + 60
    while True:
        job: dict[str, Any] = backend.get(PREFIX + path, headers=ADMIN).json()
        if job["state"] not in ("waiting", "running"):
            return job
        assert time.monotonic() < until
        time.sleep(0.05)
