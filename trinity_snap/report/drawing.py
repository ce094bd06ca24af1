"""Small curves as SVG: the sizes of an agent's recovery points over time, and when it had none."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from trinity_snap.wording import size

__all__ = ["curve"]

_WIDTH, _HEIGHT, _TOP = 120, 26, 3
_PLACES = 60


def curve(sizes: Sequence[tuple[int, int]], missed: Sequence[int], since: int, until: int) -> str:
    """An `<svg>` of sizes (Unix time, bytes) between two times, with a tick for every stretch with a missed run.

    At most sixty places are drawn, each with the last size in it; the description says it in words. Empty if there is nothing.
    """
    sizes = [one for one in sizes if since <= one[0] <= until]
    if not sizes:
        return ""
    length = max(until - since, 1)
    places = {(when - since) * _PLACES // length: (when, count) for when, count in sizes}
    most = max(count for _, count in places.values()) or 1
    drawn = [
        f"{round((when - since) * _WIDTH / length)} {_HEIGHT - round(count * (_HEIGHT - _TOP) / most)}"
        for when, count in places.values()
    ]
    line = f"M{'L'.join(drawn)}" if len(drawn) > 1 else f"M{drawn[0]}h1"
    ticks = {(when - since) * _PLACES // length for when in missed if since <= when <= until}
    marks = "".join(f"M{place * _WIDTH // _PLACES} {_HEIGHT}v-5" for place in sorted(ticks))
    words = f"{size(sizes[0][1])} on {_day(sizes[0][0])}, {size(sizes[-1][1])} on {_day(sizes[-1][0])}"
    if ticks:
        words += f", {len(ticks)} stretches with a failed run"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role=img aria-label="{words}"><path class=c d="{line}"/>'
        + (f'<path class=x d="{marks}"/>' if marks else "")
        + "</svg>"
    )


def _day(when: int) -> str:
    return f"{datetime.fromtimestamp(when, UTC):%Y-%m-%d}"
