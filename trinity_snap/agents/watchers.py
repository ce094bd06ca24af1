"""What on a host may take a paused agent for a dead one, and restart it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trinity_snap.agents.inventory import Container
from trinity_snap.agents.model import Agent

_SOCKET = "docker.sock"
# Docker's own defaults for a health check that does not say.
_INTERVAL_NS = 30 * 10**9
_RETRIES = 3


def autohealers(containers: Iterable[Container]) -> tuple[str, ...]:
    """The names of running containers that restart others: by image or name, or by label if they have Docker's socket."""
    return tuple(container.name for container in containers if container.state == "running" and _heals(container))


def watcher_notes(autoheal: Sequence[str], agents: Iterable[Agent], pause_seconds: float) -> list[str]:
    """Warnings, as sentences: who may restart agents while they are paused for `pause_seconds` at most."""
    notes = []
    if autoheal:
        notes.append(
            f"{', '.join(autoheal)} restarts containers that look unhealthy, and a paused one may. If that happens during a "
            "snapshot, the recovery point says so. Let it wait for longer than `quiesce: budget_seconds`."
        )
    hasty = [agent.name for agent in agents if _seconds_to_unhealthy(agent) < pause_seconds]
    if hasty:
        notes.append(
            f"The health checks of {', '.join(hasty)} give up (interval × retries) in less than the {pause_seconds:g} s "
            "for which they may be paused."
        )
    return notes


def _heals(container: Container) -> bool:
    if "autoheal" in container.image.lower() or "autoheal" in container.name.lower():
        return True
    has_socket = any(mount.kind == "bind" and mount.source.endswith(_SOCKET) for mount in container.mounts)
    return has_socket and any("autoheal" in label.lower() for label in container.labels)


def _seconds_to_unhealthy(agent: Agent) -> float:
    check = (agent.definition or {}).get("Healthcheck")
    if not check or not check.get("Test") or check["Test"][0] == "NONE":
        return float("inf")
    return float((check.get("Interval") or _INTERVAL_NS) * (check.get("Retries") or _RETRIES)) / 1e9
