"""The sink for people: ntfy, mail, Slack and whatever else apprise knows. It is the optional extra `notify`."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.monitor.sinks import SinkFailed

if TYPE_CHECKING:
    from trinity_snap.monitor.episodes import Message

__all__ = ["AppriseSink", "body_of", "title_of"]

_NEWS = {"raised": "ALARM", "still": "STILL", "cleared": "well again"}
_TITLE = 200


class AppriseSink:
    """Tells all addresses in a file, one in a line, `#` in front of what is none."""

    name = "notify"
    closes = False

    def __init__(self, path: Path) -> None:
        self._path = path

    def tell(self, host: str, messages: Sequence[Message]) -> None:
        """Send one message with all of it."""
        addresses = self._addresses()
        try:
            import apprise
        except ImportError as error:
            raise SinkFailed("`notify_file` needs apprise: install trinity-snap[notify].") from error
        logging.getLogger("apprise").setLevel(logging.CRITICAL)
        one = apprise.Apprise()
        for number, address in addresses:
            if not one.add(address):
                raise SinkFailed(f"{self._path}:{number}: apprise does not know an address like this.")
        worst = {message.episode.severity for message in messages if message.news != "cleared"}
        kind = "failure" if "critical" in worst else "warning" if worst else "success"
        if not one.notify(body=body_of(messages), title=title_of(host, messages), notify_type=kind):
            raise SinkFailed(f"Not every address in {self._path} took the message.")

    def _addresses(self) -> list[tuple[int, str]]:
        try:
            with self._path.open(encoding="utf-8") as file:
                mode = os.fstat(file.fileno()).st_mode
                lines = file.read().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SinkFailed(f"{self._path} cannot be read: {error}.") from error
        if stat.S_IMODE(mode) & 0o077:
            raise SinkFailed(f"Others may read {self._path}, and it holds passwords: `chmod 600 {self._path}`.")
        found = [(number, line.strip()) for number, line in enumerate(lines, 1)]
        found = [(number, line) for number, line in found if line and not line.startswith("#")]
        if not found:
            raise SinkFailed(f"{self._path} has no address in it.")
        return found


def title_of(host: str, messages: Sequence[Message]) -> str:
    """The line that is seen on a phone."""
    wrong = [message for message in messages if message.news != "cleared"]
    shown = wrong or messages
    what = shown[0].episode.sentence if len(shown) == 1 else f"{len(shown)} alarms"
    state = _NEWS[shown[0].news] if len({message.news for message in shown}) == 1 else "ALARM"
    return f"[{host}] backups: {state}: {what}"[:_TITLE]


def body_of(messages: Sequence[Message]) -> str:
    """All of them: what is wrong, and what to do."""
    lines = []
    for message in messages:
        episode = message.episode
        lines.append(f"{_NEWS[message.news]}: {episode.sentence}")
        if message.news == "cleared":
            lines.append(f"  It was so since {episode.since}.")
        else:
            lines.append(f"  {episode.advice} (since {episode.since})")
    return "\n".join(lines)
