"""Trying again what failed for a reason that passes."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from trinity_snap.errors import TargetError

__all__ = ["Retries"]

_Result = TypeVar("_Result")
_logger = logging.getLogger(__name__)
_SAID_AT = 3
_SAY_AGAIN_SECONDS = 30.0


@dataclass(frozen=True)
class Retries:
    """How often and how soon: exponential backoff with full jitter, so that many clients do not come back together.

    With the default a storage may be away for half a minute or so. What lasts longer than a second or two is logged, once for
    all requests that fail at the same time.
    """

    attempts: int = 9
    first_seconds: float = 0.25
    longest_seconds: float = 15.0
    sleep: Callable[[float], None] = time.sleep
    _said: list[float] = field(default_factory=list, repr=False, compare=False)

    def run(self, operation: Callable[[int], _Result]) -> _Result:
        """The result of `operation(number of the attempt, from 0)`. Only a TargetError that is transient is tried again."""
        for attempt in range(self.attempts - 1):
            try:
                return operation(attempt)
            except TargetError as error:
                if not error.transient:
                    raise
                if attempt == _SAID_AT:
                    self._say(error)
            longest = min(self.longest_seconds, self.first_seconds * 2.0**attempt)
            self.sleep(longest * (0.25 + 0.75 * random.random()))
        return operation(self.attempts - 1)

    def _say(self, error: TargetError) -> None:
        now = time.monotonic()
        if not self._said or now - self._said[-1] >= _SAY_AGAIN_SECONDS:
            self._said.append(now)
            _logger.warning("The storage fails for now, and is tried again: %s", error)
