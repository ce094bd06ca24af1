"""Batches of hosts, and how many may fail before the next batch is not begun.

Both are computed here: Ansible's own limits count nothing under some strategies and inside some blocks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trinity_snap.errors import UsageError

_AMOUNT = re.compile(r"([0-9]{1,6})(%?)")


@dataclass(frozen=True)
class Amount:
    """A number of hosts, or a part of all of them in percent."""

    number: int
    percent: bool = False

    def of(self, total: int) -> float:
        """The number of hosts that it is, of `total`."""
        return total * self.number / 100 if self.percent else float(self.number)


@dataclass(frozen=True)
class Threshold:
    """How many hosts may end otherwise than done."""

    amount: Amount

    def passed(self, not_done: int, total: int) -> bool:
        """Whether it is more than that."""
        return not_done > self.amount.of(total)

    def __str__(self) -> str:
        return f"{self.amount.number}{'%' if self.amount.percent else ''}"


def _amount(text: str, what: str, example: str) -> Amount:
    match = _AMOUNT.fullmatch(text.strip())
    if match is None or (match[2] and int(match[1]) > 100):
        raise UsageError(f"{text!r:.40} is no {what}.", next_step=f"Write {example}.")
    return Amount(int(match[1]), bool(match[2]))


def parse_threshold(text: str) -> Threshold:
    """`0`, `3` or `10%`. Raise UsageError."""
    return Threshold(_amount(text, "number of hosts", "a number such as 3, or a part such as 10%"))


def parse_batches(text: str) -> tuple[Amount, ...]:
    """`5`, `25%`, or several such as `1,5,25%`: the first batches, the last of which repeats. Raise UsageError."""
    amounts = tuple(_amount(one, "size of a batch", "5, 25%, or several: 1,5,25%") for one in text.split(","))
    if any(amount.number == 0 for amount in amounts):
        raise UsageError("A batch of no hosts never ends.", next_step="Write 5, 25%, or several: 1,5,25%.")
    return amounts


def in_batches(hosts: Sequence[str], amounts: Sequence[Amount]) -> Iterator[list[str]]:
    """The hosts, cut into batches of these sizes; every batch has at least one host."""
    at = number = 0
    while at < len(hosts):
        length = max(1, math.floor(amounts[min(number, len(amounts) - 1)].of(len(hosts))))
        yield list(hosts[at : at + length])
        at, number = at + length, number + 1
