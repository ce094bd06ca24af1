"""Words for operators that depend on a number."""

from __future__ import annotations

__all__ = ["plural"]


def plural(count: int, one: str, many: str = "") -> str:
    """`1 agent`, `2 agents`; `many` where it is not the word with an s."""
    return f"{count} {one if count == 1 else many or one + 's'}"
