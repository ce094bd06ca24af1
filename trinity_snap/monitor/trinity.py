"""The sink of Trinity's own notifications: one that is open for every alarm, and closed when it is over.

The last line of each is a mark of host, kind and subject. By it one is found again that was made by a process which died before
it could note that, so that nobody sees the same alarm twice and none stays open for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trinity_snap.errors import KeyFileError, TrinityError, TrinityRefused
from trinity_snap.monitor.messages import body_of, title_of
from trinity_snap.monitor.sinks import SinkFailed
from trinity_snap.quiesce.steps import step
from trinity_snap.trinity.client import Notification, TrinityClient

if TYPE_CHECKING:
    from trinity_snap.monitor.episodes import Message
    from trinity_snap.policy.schema import Policy
    from trinity_snap.trinity.settings import TrinitySettings

__all__ = ["TEST", "TrinitySink", "scope_of"]

TEST = "test"
"""The kind of a message that only tries whether messages arrive."""

_PRIORITIES = {"warning": "normal", "critical": "high"}
_WHOSE_KEY = "The key in `monitor: trinity_key_file` must be an agent's, such as that of trinity-system."


class TrinitySink:
    """Makes notifications in the name of the key's agent. `scope` says where recovery points are, in a sentence."""

    name = "trinity"
    closes = True

    def __init__(self, settings: TrinitySettings, scope: str) -> None:
        self._settings = settings
        self._scope = scope

    def tell(self, host: str, messages: Sequence[Message]) -> None:
        """Make or close what each message asks for. What was done stays done, and noted in its episode, if a later one fails."""
        client = TrinityClient(self._settings)
        try:
            there = _open(client)
            made = [self._one(client, host, message, there or ()) for message in messages]
            unseen = {each for each in made if each}
            if unseen and there is not None:
                unseen -= {each.id for each in client.open_notifications()}
                if unseen:
                    raise SinkFailed(f"Trinity took the alarm and shows it to nobody. {_WHOSE_KEY}")
        except TrinityRefused as error:
            raise SinkFailed(f"{error.message} {_WHOSE_KEY}" if error.status == 403 else str(error)) from error
        except (TrinityError, KeyFileError) as error:
            raise SinkFailed(str(error)) from error

    def _one(self, client: TrinityClient, host: str, message: Message, there: Sequence[Notification]) -> str | None:
        """Do what one message asks for; return the id of a notification that was made for it."""
        episode, made = message.episode, None
        mark = f"trinity-snap: {host}, {episode.kind}:{episode.subject}"
        known = episode.handles.get(self.name, "")
        marked = [each.id for each in there if each.message.endswith(f"\n{mark}")]
        now = ""
        if message.news == "raised" and known:
            return None
        if message.news != "cleared":
            now = next((each for each in marked if each != known and episode.kind != TEST), "")
            if not now:
                critical_still = message.news == "still" and episode.severity == "critical"
                now = made = client.notify(
                    title_of(host, [message]),
                    "\n".join((body_of([message]), self._scope, mark)),
                    kind="info" if episode.kind == TEST else "alert",
                    priority="urgent" if critical_still else _PRIORITIES.get(episode.severity, "normal"),
                )
                step("monitor.posted")
            episode.handles[self.name] = now
        for each in dict.fromkeys((known, *marked)):
            if each and each != now:
                client.dismiss(each)
        return made


def _open(client: TrinityClient) -> list[Notification] | None:
    """Those that are open; None if the key may not see any: then they are known only by what was noted."""
    try:
        return client.open_notifications()
    except TrinityRefused as error:
        if error.status == 403:
            return None
        raise


def scope_of(policy: Policy) -> str:
    """The honest answer to where this host's recovery points are."""
    places = [policy.target.url, *(replica.url for replica in policy.replicas)]
    if any(not place.startswith(("/", "file:")) for place in places):
        return "Recovery points of this host are kept off it, too."
    return "Recovery points of this host are in directories of this host only."
