"""Trinity's HTTP API, as far as it is used here: the edition, agents, their autonomy, starting them, notifications.

Answers are bounded in time and size and are believed in nothing but what is asked for. Redirects are not followed, and no
proxy is used: the key goes to the configured address only.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from trinity_snap.errors import KeyFileError, TrinityRefused, TrinityUnreachable

if TYPE_CHECKING:
    from urllib.request import OpenerDirector

    from trinity_snap.trinity.settings import TrinitySettings

__all__ = ["Autonomy", "Notification", "TrinityClient", "find_key"]

_SECONDS = 10.0
_START_SECONDS = 120.0
_MAX_ANSWER_BYTES = 4 << 20
_MAX_KEY_BYTES = 8192
_MOST_NOTIFICATIONS = 500  # more are not given at a time
_CATEGORY = "backup"


@dataclass(frozen=True)
class Autonomy:
    """Whether an agent's schedules may fire, and how many of them are enabled (None: it did not say)."""

    enabled: bool
    enabled_schedules: int | None = None


@dataclass(frozen=True)
class Notification:
    """One that Trinity shows; `message` is its text, "" if it has none."""

    id: str
    message: str


@dataclass
class TrinityClient:
    """Asks one Trinity. The key is read when it is first needed, and never shown."""

    settings: TrinitySettings
    _opener: OpenerDirector | None = field(default=None, repr=False)
    _key: str | None = field(default=None, repr=False)

    def version(self) -> dict[str, Any]:  # JSON, as it came
        """`GET /api/version`: needs no key. Raise TrinityUnreachable, TrinityRefused."""
        return _mapping(self._ask("GET", "/api/version", with_key=False), "/api/version")

    def agent_names(self) -> list[str]:
        """The names of the agents that Trinity has in its database. Raise TrinityError, KeyFileError."""
        answer = self._ask("GET", "/api/agents")
        listed = answer.get("agents") if isinstance(answer, dict) else answer
        if not isinstance(listed, list):
            raise _nonsense("/api/agents")
        return [one["name"] for one in listed if isinstance(one, dict) and isinstance(one.get("name"), str)]

    def autonomy(self, agent: str) -> Autonomy:
        """Whether the agent's schedules may fire. Raise TrinityError, KeyFileError."""
        path = f"/api/agents/{quote(agent, safe='')}/autonomy"
        answer = _mapping(self._ask("GET", path), path)
        enabled, count = answer.get("autonomy_enabled"), answer.get("enabled_schedules")
        if not isinstance(enabled, bool):
            raise _nonsense(path)
        return Autonomy(enabled, count if isinstance(count, int) else None)

    def set_autonomy(self, agent: str, enabled: bool) -> None:
        """Switch it. Raise TrinityError, KeyFileError."""
        self._ask("PUT", f"/api/agents/{quote(agent, safe='')}/autonomy", {"enabled": enabled})

    def start(self, agent: str) -> None:
        """Start an agent; its container is made anew around its volumes if it is missing. Raise TrinityError, KeyFileError."""
        self._ask("POST", f"/api/agents/{quote(agent, safe='')}/start", seconds=_START_SECONDS)

    def notify(self, title: str, message: str, *, kind: str, priority: str) -> str:
        """Make a notification in the name of the key's agent, and return its id. Raise TrinityError, KeyFileError.

        `kind`: alert, info, status; `priority`: low, normal, high, urgent; at most 200 characters of title.
        """
        path = "/api/notifications"
        body = {
            "notification_type": kind,
            "priority": priority,
            "title": title,
            "message": message,
            "category": _CATEGORY,
        }
        made = _mapping(self._ask("POST", path, body), path).get("id")
        if not isinstance(made, str) or not made:
            raise _nonsense(path)
        return made

    def open_notifications(self) -> list[Notification]:
        """The newest that nobody has acknowledged or dismissed, as the key sees them. Raise TrinityError, KeyFileError."""
        path = f"/api/notifications?status=pending&limit={_MOST_NOTIFICATIONS}"
        listed = _mapping(self._ask("GET", path), path).get("notifications")
        if not isinstance(listed, list):
            raise _nonsense(path)
        return [
            Notification(one["id"], str(one.get("message") or ""))
            for one in listed
            if isinstance(one, dict) and isinstance(one.get("id"), str)
        ]

    def dismiss(self, notification: str) -> None:
        """Close a notification; one that is gone is closed. Raise TrinityError, KeyFileError."""
        try:
            self._ask("POST", f"/api/notifications/{quote(notification, safe='')}/dismiss")
        except TrinityRefused as error:
            if error.status != 404:
                raise

    def _ask(
        self, method: str, path: str, body: object = None, *, with_key: bool = True, seconds: float = _SECONDS
    ) -> object:
        from http.client import HTTPException
        from urllib.error import HTTPError
        from urllib.request import Request

        headers = {"Accept": "application/json"}
        if with_key:
            headers["Authorization"] = f"Bearer {self._the_key()}"
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        request = Request(self.settings.url + path, data, headers, method=method)
        try:
            with self._open().open(request, timeout=seconds) as answer:
                text = answer.read(_MAX_ANSWER_BYTES + 1)
        except HTTPError as error:
            with error:
                detail = _detail(error)
            if error.code >= 500:
                raise TrinityUnreachable(
                    f"Trinity at {self.settings.url} answers {method} {path} with an error of its own ({error.code}: {detail}).",
                    next_step="See the log of its backend.",
                ) from None
            raise TrinityRefused(
                f"Trinity at {self.settings.url} refuses {method} {path} ({error.code}: {detail}).",
                status=error.code,
                detail=detail,
                next_step=_WHAT_TO_DO.get(error.code, "").format(key=self.settings.key_setting),
            ) from None
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise TrinityUnreachable(
                f"Trinity at {self.settings.url} cannot be reached: {reason}.",
                next_step="See that its backend runs, and `trinity: url` in the policy.",
            ) from error
        if len(text) > _MAX_ANSWER_BYTES:
            raise _nonsense(path)
        try:
            return json.loads(text) if text else None
        except (ValueError, RecursionError) as error:
            raise _nonsense(path) from error

    def _the_key(self) -> str:
        if self._key is None:
            self._key = find_key(self.settings)
        return self._key

    def _open(self) -> OpenerDirector:
        if self._opener is None:
            self._opener = _make_opener(self.settings.ca_file)
        return self._opener


_WHAT_TO_DO = {
    401: "See that the key in `{key}` is right and has not expired.",
    403: "The key must be a person's who administers Trinity; keys of agents may not do that.",
    404: "Trinity has no such agent: its database may be older than this host's volumes.",
    409: "Volumes are there that Trinity does not know: restore its database first, then start the agent.",
}


def find_key(settings: TrinitySettings) -> str:
    """The API key of the policy's `key_file`, or of the systemd credential. Raise KeyFileError."""
    path = settings.key_file
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if path is None and directory and (credential := Path(directory) / settings.credential).exists():
        path = credential
    if path is None:
        raise KeyFileError(
            f"There is no key for Trinity at {settings.url}.",
            next_step=f"Name one with `{settings.key_setting}`, or give the unit the credential `{settings.credential}`.",
        )
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            text = os.read(descriptor, _MAX_KEY_BYTES) if stat.S_ISREG(status.st_mode) else b""
        finally:
            os.close(descriptor)
    except OSError as error:
        raise KeyFileError(f"Trinity's key {path} cannot be read: {error.strerror}.") from error
    if status.st_mode & 0o077:
        raise KeyFileError(
            f"Trinity's key {path} can be used by others than its owner (mode {stat.S_IMODE(status.st_mode):04o}).",
            next_step=f"Run `chmod 600 {path}`; if others have had access to this host, make a new key.",
        )
    key = text.decode("ascii", "replace").strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise KeyFileError(f"{path} does not hold an API key: it is one line of letters and digits.")
    return key


def _make_opener(ca_file: Path | None) -> OpenerDirector:
    import ssl
    from urllib.request import HTTPRedirectHandler, HTTPSHandler, ProxyHandler, build_opener

    class Stay(HTTPRedirectHandler):
        def redirect_request(self, *_: object) -> None:
            return None

    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except OSError as error:
        raise KeyFileError(f"The certificates {ca_file} (trinity.ca_file) cannot be read: {error}.") from error
    return build_opener(ProxyHandler({}), HTTPSHandler(context=context), Stay())


def _detail(error: Any) -> str:  # the library's error is a file, too
    try:
        said = json.loads(error.read(65536))
    except (OSError, ValueError, RecursionError):
        return str(error.reason)
    detail = said.get("detail") if isinstance(said, dict) else None
    return (detail if isinstance(detail, str) else str(error.reason)).rstrip(".")[:300]


def _mapping(answer: object, path: str) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise _nonsense(path)
    return answer


def _nonsense(path: str) -> TrinityUnreachable:
    return TrinityUnreachable(
        f"What answers at {path} is not Trinity's API, or one of a version that is not known.",
        next_step="See `trinity: url` in the policy.",
    )
