"""Routes for Trinity's own backend: policy, status, runs and restores under `/api/enterprise/backups` (extra `backend`).

    from trinity_snap.trinity.backend import mount
    mount(app)          # in Trinity's main.py, or in register_enterprise(app)

Every route needs the entitlement `agent_backup` and an administrator, by Trinity's own dependencies. What they do is done by the
command `trinity-snap` on the host, whose JSON is the whole contract (`trinity_snap.trinity.control`); nothing here opens a
repository or touches a volume.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, HTTPException
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from trinity_snap.trinity.control import CommandFailed, Control, Job, control_of_environment
from trinity_snap.trinity.entitlements import FEATURE, register

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["PREFIX", "make_router", "mount"]

PREFIX = "/api/enterprise/backups"

AgentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")]
PointId = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{4,32}|latest)$")]
RestorePath = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]{1,4096}$")]
SettingName = Annotated[str, StringConstraints(pattern=r"^[a-z][A-Za-z0-9_.\-]{0,200}$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PolicyChange(_Body):
    """Settings by dotted name, each with its new value. `confirm`: also if recovery points would go."""

    settings: dict[SettingName, Any] = Field(min_length=1, max_length=50)
    confirm: bool = False
    dry_run: bool = False


class RunRequest(_Body):
    """Which agents; none: all."""

    agents: list[AgentName] = Field(default=[], max_length=1000)


class RestoreRequest(_Body):
    """What to give back. Without `confirm` nothing is replaced: `dry_run` gives the plan."""

    agent: AgentName
    point: PointId = "latest"
    paths: list[RestorePath] = Field(default=[], max_length=100)
    dry_run: bool = False
    confirm: bool = False


def mount(app: FastAPI) -> bool:
    """Register the feature with Trinity's service and add the routes; False, and nothing is done, outside of its backend."""
    if not register():
        return False
    dependencies = import_module("dependencies")
    app.include_router(
        make_router(dependencies.requires_entitlement, dependencies.require_admin, control_of_environment())
    )
    return True


def make_router(
    requires_entitlement: Callable[[str], Callable[..., Any]], require_admin: Callable[..., Any], control: Control
) -> APIRouter:
    """The routes, guarded by these two dependencies of Trinity's; the second gives the user, for the policy's history."""
    router = APIRouter(prefix=PREFIX, tags=["backups"], dependencies=[Depends(requires_entitlement(FEATURE))])
    admin = Depends(require_admin)

    def ask(*arguments: str, good: tuple[int, ...] = (0,)) -> dict[str, Any]:
        try:
            return control.ask(arguments, good)
        except CommandFailed as error:
            raise _http_error(error) from error

    @router.get("/policy")
    def get_policy(_: Any = admin) -> dict[str, Any]:
        return ask("policy", "show")

    @router.put("/policy")
    def put_policy(change: PolicyChange, user: Any = admin) -> dict[str, Any]:
        settings = [f"{name}={_as_yaml(value)}" for name, value in change.settings.items()]
        flags = [*(["--yes"] if change.confirm else []), *(["--dry-run"] if change.dry_run else [])]
        return ask("policy", "set", f"--by={_name_of(user)}", *flags, "--", *settings)

    @router.get("/policy/history")
    def get_history(_: Any = admin) -> dict[str, Any]:
        return ask("policy", "history")

    @router.get("/policy/schema")
    def get_schema(_: Any = admin) -> dict[str, Any]:
        return ask("policy", "schema")

    @router.get("/status")
    def get_status(_: Any = admin) -> dict[str, Any]:
        return ask("status", good=(0, 1))

    @router.get("/points")
    def get_points(agent: AgentName | None = None, _: Any = admin) -> dict[str, Any]:
        return ask("list", *(["--", agent] if agent else []), good=(0, 90))

    @router.get("/runs")
    def get_runs(_: Any = admin) -> dict[str, Any]:
        return {"runs": [job.to_json() for job in control.jobs("backup")]}

    @router.post("/runs", status_code=202)
    def post_run(request: RunRequest, _: Any = admin) -> dict[str, Any]:
        return _started(control, "backup", ["backup", "--", *request.agents])

    @router.get("/runs/{job_id}")
    def get_run(job_id: str, _: Any = admin) -> dict[str, Any]:
        return _found(control, "backup", job_id).to_json()

    @router.post("/restores", status_code=202)
    def post_restore(request: RestoreRequest, _: Any = admin) -> dict[str, Any]:
        options = [f"--point={request.point}", *(f"--path={path}" for path in request.paths)]
        if request.dry_run:
            return {"plan": ask("restore", *options, "--dry-run", "--", request.agent)}
        if not request.confirm:
            raise HTTPException(409, "A restore replaces data: look at the plan with dry_run, then set confirm.")
        return _started(control, "restore", ["restore", *options, "--yes", "--", request.agent])

    @router.get("/restores")
    def get_restores(_: Any = admin) -> dict[str, Any]:
        return {"restores": [job.to_json() for job in control.jobs("restore")]}

    @router.get("/restores/{job_id}")
    def get_restore(job_id: str, _: Any = admin) -> dict[str, Any]:
        return _found(control, "restore", job_id).to_json()

    return router


def _started(control: Control, kind: str, arguments: list[str]) -> dict[str, Any]:
    try:
        return control.start(kind, arguments).to_json()
    except CommandFailed as error:
        raise _http_error(error) from error


def _found(control: Control, kind: str, job_id: str) -> Job:
    for job in control.jobs(kind):
        if job.id == job_id:
            return job
    raise HTTPException(404, f"There is no {kind} {job_id!r:.40} that was started here.")


def _http_error(error: CommandFailed) -> HTTPException:
    """What an exit code is over HTTP; the detail is the command's own sentences."""
    status = {2: 422, 3: 409, 20: 403}.get(error.exit_code, 502)
    return HTTPException(status, error.message)


def _as_yaml(value: object) -> str:
    import json

    return json.dumps(value)


def _name_of(user: object) -> str:
    name = str(getattr(user, "username", None) or getattr(user, "email", None) or "trinity")
    return "".join(one if one.isprintable() else "?" for one in name)[:80]
