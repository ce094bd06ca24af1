"""A Trinity backend that refuses what the real one refuses: HTTP in front of a small model of database, volumes, containers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

KEY = "trinity_mcp_0123456789abcdef"
AGENT_KEY = "trinity_mcp_fedcba9876543210"
PERSON = "operator@example.org"
_TYPES = ("alert", "info", "status", "completion", "question")
_PRIORITIES = ("low", "normal", "high", "urgent")


@dataclass
class FakeAgent:
    """A row of the database. `enabled` are its schedules, each as its owner left it."""

    autonomy: bool = True
    enabled: dict[str, bool] = field(default_factory=dict)
    base: str = ""
    system: bool = False


@dataclass
class FakeNotification:
    """One notification: of an agent, or of a person whose key made it."""

    id: str
    owner: str
    body: dict[str, Any]
    status: str = "pending"


@dataclass
class FakeTrinity:
    """The state of one Trinity, and what it was asked (method and path) in that order.

    `key` is a person's, `agent_key` that of `key_agent`.

    `volumes` maps names to labels, `containers` the names of containers to whether they run. `bulk` makes it one from before
    autonomy was a gate: switching it rewrites every schedule.
    """

    features: list[str] = field(default_factory=lambda: ["agent_backup"])
    agents: dict[str, FakeAgent] = field(default_factory=dict)
    volumes: dict[str, dict[str, str]] = field(default_factory=dict)
    containers: dict[str, bool] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    key: str = KEY
    agent_key: str = AGENT_KEY
    key_agent: str = "trinity-system"
    notifications: list[FakeNotification] = field(default_factory=list)
    broken: bool = False
    bulk: bool = False
    redirect: str = ""
    url: str = ""

    def volume_of(self, name: str) -> str:
        """The workspace of an agent: under the name that it had when it was made."""
        return f"agent-{self.agents[name].base or name}-workspace"

    def sweep(self) -> list[str]:
        """Remove labelled volumes that no agent owns and no container has; as the real one does within the hour."""
        owned = {self.volume_of(name) for name in self.agents}
        gone = [name for name, labels in self.volumes.items() if "trinity.agent-name" in labels and name not in owned]
        for name in gone:
            del self.volumes[name]
        return gone

    def answer(self, method: str, path: str, key: str, body: Any) -> tuple[int, object]:
        """The status and JSON of one request."""
        self.asked.append((method, path))
        if self.broken:
            return 500, {"detail": "database is locked"}
        if (method, path) == ("GET", "/api/version"):
            edition = "enterprise" if self.features else "oss"
            return 200, {"version": "0.9.5", "edition": edition, "enterprise_features": self.features}
        if key not in (f"Bearer {self.key}", f"Bearer {self.agent_key}"):
            return 401, {"detail": "Could not validate credentials"}
        owner = PERSON if key == f"Bearer {self.key}" else self.key_agent
        if path.startswith("/api/notifications"):
            return self._notifications(method, path, owner, body)
        if owner != PERSON and method == "PUT":
            return 403, {"detail": "Keys of agents may not do that"}
        if (method, path) == ("GET", "/api/agents"):
            return 200, [{"name": name} for name in self.agents]
        if (method, path) == ("POST", "/api/agents"):
            return self._create(str(body["name"]))
        match path.removeprefix("/api/agents/").split("/"):
            case [name, action] if unquote(name) in self.agents:
                return self._act(method, unquote(name), action, body)
        return 404, {"detail": "Agent not found"}

    def open_alarms(self) -> list[str]:
        """What is open, by the last line of each, which says what it is about."""
        return [one.body["message"].rpartition(", ")[2] for one in self.notifications if one.status == "pending"]

    def _notifications(self, method: str, path: str, owner: str, body: Any) -> tuple[int, object]:
        """As the real router: anybody may make one, but those of people are in no list, as they are no agent's."""
        route, _, query = path.removeprefix("/api/notifications").partition("?")
        if (method, route) == ("POST", ""):
            if not isinstance(body, dict) or not body.get("title"):
                return 422, {"detail": [{"loc": ["body", "title"], "msg": "Field required"}]}
            if body.get("notification_type") not in _TYPES:
                return 400, {"detail": "Invalid notification_type"}
            if body.get("priority", "normal") not in _PRIORITIES:
                return 400, {"detail": "Invalid priority"}
            if len(body["title"]) > 200:
                return 400, {"detail": "Title too long (max 200 characters)"}
            self.notifications.append(FakeNotification(f"notif_{len(self.notifications)}", owner, body))
            return 201, {"id": self.notifications[-1].id, "agent_name": owner, "status": "pending", **body}
        if (method, route) == ("GET", ""):
            asked = dict(part.split("=") for part in query.split("&") if part)
            if not 1 <= int(asked.get("limit", "50")) <= 500:
                return 422, {"detail": "limit"}
            shown = [one for one in reversed(self.notifications) if one.owner in self.agents]
            shown = [one for one in shown if one.status == asked.get("status", one.status)]
            listed = [{"id": one.id, "agent_name": one.owner, "status": one.status, **one.body} for one in shown]
            return 200, {"count": len(listed), "notifications": listed[: int(asked.get("limit", "50"))]}
        match route.strip("/").split("/"):
            case [which, "dismiss"] if method == "POST":
                for one in self.notifications:
                    if one.id == which and one.owner not in self.agents:
                        return 403, {"detail": "Access denied to agent"}
                    if one.id == which:
                        one.status = "dismissed"
                        return 200, {"id": which, "status": "dismissed"}
        return 404, {"detail": "Notification not found"}

    def _create(self, name: str) -> tuple[int, object]:
        volume = f"agent-{name}-workspace"
        if name in self.agents or volume in self.volumes:
            return 409, {"detail": f"Volume {volume} exists already; it is not adopted"}
        self.agents[name] = FakeAgent()
        self.volumes[volume] = {"trinity.agent-name": name}
        self.containers[f"agent-{name}"] = True
        return 200, {"name": name}

    def _act(self, method: str, name: str, action: str, body: Any) -> tuple[int, object]:
        agent = self.agents[name]
        match method, action:
            case "GET", "autonomy":
                count = sum(agent.enabled.values())
                return 200, {"agent_name": name, "autonomy_enabled": agent.autonomy, "enabled_schedules": count}
            case "PUT", "autonomy":
                if agent.system:
                    return 403, {"detail": "Cannot modify autonomy for system agent"}
                agent.autonomy = bool(body["enabled"])
                if self.bulk:
                    agent.enabled = dict.fromkeys(agent.enabled, agent.autonomy)
                return 200, {"agent_name": name, "autonomy_enabled": agent.autonomy}
            case "POST", "start":
                self.volumes.setdefault(self.volume_of(name), {"trinity.agent-name": name})
                self.containers[f"agent-{name}"] = True
                return 200, {"message": "started"}
        return 405, {"detail": "Method Not Allowed"}


@contextmanager
def serve(trinity: FakeTrinity) -> Iterator[FakeTrinity]:
    """Have it answer at `trinity.url`."""

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"null")
            if trinity.redirect:
                self.send_response(307)
                self.send_header("Location", trinity.redirect + self.path)
                self.end_headers()
                return
            status, said = trinity.answer(self.command, self.path, self.headers.get("Authorization", ""), body)
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self._do()

        def do_PUT(self) -> None:
            self._do()

        def do_POST(self) -> None:
            self._do()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    trinity.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield trinity
    finally:
        server.shutdown()
        server.server_close()
