"""Times, read and written."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from trinity_snap.errors import UsageError

_UNITS = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
    "y": timedelta(days=365),
}


def timestamp(moment: datetime) -> str:
    """A time as the JSON has it: RFC 3339 in UTC, to the millisecond."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_moment(text: str) -> datetime:
    """A moment: `2026-11-23T14:00:00Z`, `2026-11-23 14:00` in the host's time zone, or `2h ago`. Raise UsageError."""
    if match := re.fullmatch(r"(.+?) ?ago", text.strip()):
        return datetime.now(UTC) - parse_duration(match[1])
    try:
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{text!r:.60} is no time.", next_step="Write 2026-11-23T14:00:00Z, '2026-11-23 14:00' or '2h ago'."
        ) from error


def parse_duration(text: str) -> timedelta:
    """A length of time: `26h`, `2d`, `90min`, `1y` (365 days). Raise UsageError."""
    match = re.fullmatch(r"([0-9]{1,6}) ?(s|min|m|h|d|w|y)", text.strip())
    if match is None:
        raise UsageError(f"{text!r:.60} is no length of time.", next_step="Write 90min, 26h, 2d or 1w.")
    return int(match[1]) * _UNITS[match[2]]
