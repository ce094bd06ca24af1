"""Words for operators: counts, sizes, lengths of time."""

from __future__ import annotations

__all__ = ["plural", "seconds", "size"]

_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")


def plural(count: int, one: str, many: str = "") -> str:
    """`1 agent`, `2 agents`; `many` where it is not the word with an s."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def size(count: int) -> str:
    """`count` bytes in binary units: `1536` gives `1.5 KiB`."""
    amount = float(count)
    if amount < 1024:
        return f"{count} B"
    for unit in _UNITS:
        amount /= 1024
        if amount < 1023.95 or unit == _UNITS[-1]:
            return f"{amount:.1f} {unit}"
    raise AssertionError


def seconds(amount: float | None) -> str:
    """A duration: `0.0123` gives `12 ms`, `75` gives `1 min 15 s`."""
    if amount is None:
        return "-"
    if amount < 1:
        return f"{amount * 1000:.0f} ms"
    if amount < 60:
        return f"{amount:.1f} s"
    minutes, rest = divmod(round(amount), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
