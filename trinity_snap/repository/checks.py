"""Reading the data in rolling shares: which packs are due, and what was found, noted so that the next share goes on there.

The notes are receipts (docs/format.md section 14). Nobody takes one for proof that data is good: a pack that was just checked
comes last in the next share, and that is all.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trinity_snap.errors import IntegrityError, TargetDenied, TargetError
from trinity_snap.repository.fences import put_fence, read_new_fences
from trinity_snap.repository.receipts import Receipts, put_checks

if TYPE_CHECKING:
    from trinity_snap.repository.repository import Repository

__all__ = ["ALL", "CheckLog", "DataChecked", "Share", "data_checked", "due_packs", "parse_share"]

_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*(%|[KMGTP]i?B|[kKMGTP]|B)")
_UNITS = "BKMGTP"
_CLOCK_ERROR_NS = 3600 * 10**9
_NOTED_SECONDS = 120.0


@dataclass(frozen=True)
class Share:
    """How much of the data to read: `percent` of it, or `amount` bytes."""

    percent: float = 0.0
    amount: int = 0

    def bytes_of(self, whole: int) -> int:
        """The bytes that this is of a whole of that size."""
        return self.amount or -int(-whole * self.percent // 100)


ALL = Share(percent=100.0)


def parse_share(text: str) -> Share | None:
    """The share that `5%`, `0.5%`, `10GiB` or `all` says; None if it says none. A bare number is none."""
    if text == "all":
        return ALL
    match = _SHARE.fullmatch(text)
    if match is None:
        return None
    amount, unit = float(match[1]), match[2]
    if unit == "%":
        return Share(percent=amount) if 0 < amount <= 100 else None
    amount *= (1000 if unit.endswith("B") and "i" not in unit else 1024) ** _UNITS.index(unit[0].upper())
    return Share(amount=int(amount)) if amount >= 1 else None


def due_packs(packs: Mapping[str, int], receipts: Receipts, share: Share, now_ns: int) -> list[str]:
    """Which of the packs (SHA-256 in hex, to length in bytes) to read: those that were damaged, then the oldest checked.

    One that was never checked is the oldest of all, and a check in the future was none. As many packs as it takes to reach
    the share, so that N shares of 1/N reach all.
    """

    def checked(digest: str) -> int:
        when = receipts.checked.get(bytes.fromhex(digest), 0)
        return when if when <= now_ns + _CLOCK_ERROR_NS else 0

    noted = receipts.damaged_packs
    damaged = sorted(digest for digest in packs if bytes.fromhex(digest) in noted)
    others = sorted(packs.keys() - set(damaged), key=lambda digest: (checked(digest), digest))
    wanted, read = share.bytes_of(sum(packs.values())), 0
    chosen = []
    for digest in others:
        if read >= wanted:
            break
        chosen.append(digest)
        read += packs[digest]
    return damaged + chosen


@dataclass
class CheckLog:
    """Notes what was found of packs, now and then and when it is closed, so that a check that is cut short is not in vain.

    With `condemns`, packs found damaged get a fence, so that no run relies on them any more: the next one stores their chunks
    anew. `note` is told, once, if the storage takes no notes.
    """

    repository: Repository
    condemns: bool
    note: Callable[[str], None]
    clock: Callable[[], int] = time.time_ns
    damaged: set[bytes] = field(default_factory=set)
    _checked: dict[bytes, int] = field(default_factory=dict)
    _damage: dict[bytes, tuple[int, str]] = field(default_factory=dict)
    _closed: bool = False
    _noted: float = field(default_factory=time.monotonic)

    def add(self, digest: bytes, problem: str | None) -> None:
        """One pack was read whole; `problem` is what is wrong with it."""
        if problem is None:
            self._checked[digest] = self.clock()
            self.damaged.discard(digest)
        else:
            self._damage[digest] = self.clock(), problem
            self.damaged.add(digest)
        if time.monotonic() - self._noted > _NOTED_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Note what has been found since the last time. Raise TargetError other than for want of a right or of room."""
        self._noted = time.monotonic()
        checked, self._checked = self._checked, {}
        damage, self._damage = self._damage, {}
        if self._closed or not (checked or damage):
            return
        try:
            if self.condemns and damage:
                self._condemn(set(damage))
            # A time for each pack would say nothing more.
            latest = max(checked.values(), default=0)
            put_checks(self.repository.target, self.repository.host, dict.fromkeys(checked, latest), damage)
        except TargetDenied:
            self._closed = True
            self.note(
                "The storage takes no notes of what was checked with these credentials: the next share begins anew."
            )
        except TargetError as error:
            if error.transient:
                raise
            self._closed = True
            self.note(f"What was checked could not be noted: {error.message}")

    def _condemn(self, packs: set[bytes]) -> None:
        target, host = self.repository.target, self.repository.host
        with suppress(IntegrityError):  # a fence that is damaged stops every run anyway, until prune removes it
            packs -= frozenset[bytes]().union(*read_new_fences(target, host, ()).values())
        if packs:
            put_fence(target, host, packs)


@dataclass(frozen=True)
class DataChecked:
    """What receipts say of the packs that there are. `complete_ns`: all were read since then; None if some never were."""

    packs: int
    never: int
    damaged: int
    complete_ns: int | None


def data_checked(repository: Repository, receipts: Receipts, now_ns: int) -> DataChecked | None:
    """What receipts say of all packs; None if the storage does not let them be listed."""
    with suppress(TargetDenied):
        packs = {bytes.fromhex(name[-64:]) for name in repository.target.list_prefix("packs/")}
        limit = now_ns + _CLOCK_ERROR_NS
        times = [when for digest in packs if (when := receipts.checked.get(digest, 0)) and when <= limit]
        never = len(packs) - len(times)
        damaged = len(packs & receipts.damaged_packs.keys())
        return DataChecked(len(packs), never, damaged, min(times) if times and not never else None)
    return None
