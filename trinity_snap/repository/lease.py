"""The two lengths of time that prune's safety rests on (docs/format.md section 14). Part of the format: all parties use the same.

They are measured on the storage's clock, as the difference between the times that it gave to two objects.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

__all__ = ["LEASE", "Lease", "running_ns"]

_HOUR_NS = 3600 * 1_000_000_000


@dataclass(frozen=True)
class Lease:
    """`lease_ns`: how long after its session a recovery point may be stored and count.

    `margin_ns`: more than storages take to show what was put, and more than the clocks of a storage's machines differ.
    """

    lease_ns: int = 24 * _HOUR_NS
    margin_ns: int = _HOUR_NS

    @property
    def wait_ns(self) -> int:
        """After that long, whoever began without knowing of a fence has stored a point that counts, or never will."""
        return self.lease_ns + self.margin_ns

    @property
    def session_ns(self) -> int:
        """So old is a session at least that goes because no point and no pack is of it."""
        return 7 * self.wait_ns

    @property
    def skew_ns(self) -> int:
        """Times that differ by no more may be of things that happened in the other order."""
        return self.margin_ns // 2


LEASE = Lease()


def running_ns() -> int:
    """This machine's time since it started, suspension included: for a process that watches its own lease."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
