"""When the data of a repository was read last, as the receipts of checks have it."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from trinity_snap.errors import TargetError
from trinity_snap.report.times import timestamp
from trinity_snap.repository.checks import data_checked
from trinity_snap.repository.receipts import read_receipts
from trinity_snap.repository.repository import Repository

__all__ = ["checked_data", "checked_warnings"]


def checked_data(repository: Repository) -> dict[str, object] | None:
    """What `status --json` shows of it; None if the storage does not tell."""
    try:
        found = data_checked(repository, read_receipts(repository.target, repository.host), time.time_ns())
    except TargetError:
        return None
    if found is None:
        return None
    complete = None if found.complete_ns is None else timestamp(datetime.fromtimestamp(found.complete_ns / 1e9, UTC))
    return {"packs": found.packs, "never": found.never, "damaged": found.damaged, "complete_since": complete}


def checked_warnings(checked: dict[str, object] | None) -> list[str]:
    """Sentences on what is wrong."""
    if checked is None or not checked["damaged"]:
        return []
    return [
        (
            f"{checked['damaged']} packs were damaged when they were read last: `trinity-snap verify` says whom that concerns, "
            "the next run stores anew what is still there, and `trinity-snap repair` brings back what a replica has."
        )
    ]
