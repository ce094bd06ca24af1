"""What a command prints: one JSON object, or lines for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from trinity_snap.wording import plural as plural
from trinity_snap.wording import seconds as seconds
from trinity_snap.wording import size as size

Lines = Iterable[str] | Callable[[], Iterable[str]]


def emit(answer: Mapping[str, object], lines: Lines, as_json: bool) -> None:
    """Print `answer` as JSON, or the lines. Names that are not UTF-8 have surrogates in JSON (PEP 383)."""
    if as_json:
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    else:
        for line in lines() if callable(lines) else lines:
            sys.stdout.write(safe(line) + "\n")
    sys.stdout.flush()


def safe(text: str, *, lines: bool = False) -> str:
    """`text` with everything escaped that a terminal would act on or cannot show; `lines` leaves line ends."""
    if text.isprintable():
        return text
    kept = "\n" if lines else ""
    return "".join(
        one if one.isprintable() or one == kept else one.encode("unicode_escape").decode("ascii") for one in text
    )


def age(moment: datetime, now: datetime | None = None) -> str:
    """How long ago something was: `3 h ago`."""
    passed = ((now or datetime.now(UTC)) - moment).total_seconds()
    if passed < -60:
        return "in the future"
    for length, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if passed >= length * (2 if name == "d" else 1):
            return f"{int(passed // length)} {name} ago"
    return "just now"


def local_time(moment: datetime) -> str:
    """A time for people, in the host's time zone."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> list[str]:
    """Aligned columns two spaces apart; the columns in `right` are right-aligned."""
    everything = [header, *[[safe(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in everything) for column in range(len(header))]
    rightward = set(right)
    return [
        "  ".join(
            cell.rjust(widths[column]) if column in rightward else cell.ljust(widths[column])
            for column, cell in enumerate(row)
        ).rstrip()
        for row in everything
    ]
