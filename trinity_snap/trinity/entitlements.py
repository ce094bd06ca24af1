"""What the edition of Trinity includes: the feature `agent_backup`, asked where the answer is.

Inside Trinity's backend its own service knows, and this package registers the feature there when the routes are loaded
(`register`). On a host the configured instance says it at `GET /api/version`. Where no Trinity is configured everything
is open: the gate belongs to Trinity's edition, not to this tool. What is asked for is named by `Use`; whatever is not there
is open to everyone, and above all restoring what exists, wherever it lies.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from trinity_snap.durable import make_directory_durably, write_file_durably
from trinity_snap.errors import NotEntitled, TrinityError
from trinity_snap.trinity.client import TrinityClient

if TYPE_CHECKING:
    from trinity_snap.policy.schema import Policy
    from trinity_snap.trinity.settings import TrinitySettings

__all__ = ["FEATURE", "FRESH_SECONDS", "USABLE_SECONDS", "Answer", "Use", "ask", "register", "require", "uses_of_run"]

FEATURE = "agent_backup"
FRESH_SECONDS = 3600.0
"""For so long an answer is not asked for again."""
USABLE_SECONDS = 7 * 86400.0
"""For so long the last answer holds while the instance cannot be reached: a backend that is down must not end backups at once."""

_SERVICE = "services.entitlement_service"
_NOT_LICENSED = f"Enterprise feature '{FEATURE}' is not licensed for this instance. Contact your administrator."
_OPEN = "Backups by hand to a target on this host are open to everybody, and restoring is never denied."


class Use(Enum):
    """What needs the feature, in words that complete “it is needed for …”."""

    SCHEDULES = "backups on a schedule"
    RETENTION = "retention by policy"
    OFF_HOST = "targets and replicas off this host"
    FLEET_RESTORE = "restoring a fleet"


class Service(Protocol):
    """Trinity's own entitlement service, as far as it is used."""

    def register_module(self, feature_id: str) -> None:
        """Claim that a feature is present and served."""

    def unregister_module(self, feature_id: str) -> bool:
        """Withdraw that."""

    def is_entitled(self, feature_id: str) -> bool:
        """Whether this instance may use it."""


@dataclass(frozen=True)
class Answer:
    """Whether the feature is included, when that was learned (seconds since 1970), and whether it could be asked just now."""

    entitled: bool
    at: float
    reachable: bool = True


def service() -> Service | None:
    """Trinity's service if this process is its backend, else None. Nothing is imported for the question."""
    module = sys.modules.get(_SERVICE)
    return None if module is None else cast("Service | None", getattr(module, "entitlement_service", None))


def register() -> bool:
    """Register the feature with Trinity's service; False where this process is not its backend. Twice does no harm."""
    try:
        from importlib import import_module

        import_module(_SERVICE)
    except ModuleNotFoundError:
        return False
    own = service()
    if own is None:
        return False
    own.register_module(FEATURE)
    return True


def require(policy: Policy, uses: Sequence[Use]) -> None:
    """Raise NotEntitled if the Trinity that the policy names does not include what these need; before anything is done."""
    if not uses:
        return
    own = service()
    if own is not None:
        entitled, unknown = own.is_entitled(FEATURE), ""
    else:
        settings = policy.trinity.settings()
        if settings is None:
            return
        entitled, unknown = _on_host(settings, policy.state.directory)
    if entitled:
        return
    raise NotEntitled(
        unknown or _NOT_LICENSED,
        untouched=f"Nothing was done: the feature is needed for {' and for '.join(use.value for use in uses)}.",
        next_step=_OPEN,
    )


def uses_of_run(policy: Policy, environment: Mapping[str, str] | None = None) -> list[Use]:
    """What of a backup needs the feature: that systemd's timer began it (`TRIGGER_UNIT`), and whereto it ships."""
    trigger = (os.environ if environment is None else environment).get("TRIGGER_UNIT", "")
    uses = [Use.SCHEDULES] if trigger.endswith(".timer") else []
    places = [policy.target.url, *(replica.url for replica in policy.replicas if replica.after_backup)]
    return uses + uses_of_places(places)


def uses_of_places(urls: Sequence[str]) -> list[Use]:
    """What storing in these places needs."""
    return [] if all(url.startswith(("/", "file:")) for url in urls) else [Use.OFF_HOST]


def ask(settings: TrinitySettings, state_dir: Path, *, now: float | None = None) -> Answer | None:
    """What the instance includes: asked, or remembered for an hour, or for a week while it cannot be reached. None: not known."""
    moment = time.time() if now is None else now
    remembered = _remembered(settings, state_dir)
    age = None if remembered is None else moment - remembered.at
    if age is not None and 0 <= age < FRESH_SECONDS:
        return remembered
    try:
        said = TrinityClient(settings).version()
    except TrinityError:
        if remembered is None or age is None or not -FRESH_SECONDS <= age < USABLE_SECONDS:
            return None
        return Answer(remembered.entitled, remembered.at, reachable=False)
    features = said.get("enterprise_features")
    answer = Answer(isinstance(features, list) and FEATURE in features, moment)
    _remember(settings, state_dir, answer)
    return answer


def _on_host(settings: TrinitySettings, state_dir: Path) -> tuple[bool, str]:
    """Whether it is included, and the sentence if that is not known."""
    if os.environ.get("TRINITY_OSS_ONLY", "").lower() in ("1", "true", "yes"):
        return False, ""
    answer = ask(settings, state_dir)
    if answer is not None:
        return answer.entitled, ""
    return False, (
        f"Trinity at {settings.url} cannot be reached, and what its edition includes was last heard more than "
        f"{USABLE_SECONDS / 86400:.0f} days ago, or never."
    )


def _file(state_dir: Path) -> Path:
    return state_dir / "trinity" / "edition.json"


def _remembered(settings: TrinitySettings, state_dir: Path) -> Answer | None:
    try:
        said = json.loads(_file(state_dir).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    match said:
        case {"url": str(url), "entitled": bool(entitled), "at": int(at) | float(at)} if url == settings.url:
            return Answer(entitled, at)
    return None


def _remember(settings: TrinitySettings, state_dir: Path, answer: Answer) -> None:
    path = _file(state_dir)
    text = json.dumps({"url": settings.url, "entitled": answer.entitled, "at": answer.at})
    try:
        make_directory_durably(path.parent)
        write_file_durably(path, text.encode())
    except OSError:
        pass  # then it is asked again the next time
