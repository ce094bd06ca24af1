"""How old a session is by the storage's clock, for the run that holds it (docs/format.md section 14).

A run whose machine stood still for days, or whose clock is wrong, cannot tell from its own time. Its session may be gone by then,
and with it the key of all that it stores from there on: no run may ever rely on that.
"""

from __future__ import annotations

from contextlib import suppress

from trinity_snap.errors import ObjectMissing, RepositoryError, TargetDenied
from trinity_snap.repository.lease import LEASE, Lease
from trinity_snap.targets.protocol import Target, time_of, time_of_put

__all__ = ["Tenure"]


class Tenure:
    """One session's life in the storage. Where the storage does not say how old an object is, only what is listed counts."""

    def __init__(self, target: Target, session: str, lease: Lease = LEASE) -> None:
        """`session` is the name of the session object, which has just been put."""
        self._target = target
        self._session = session
        self._lease = lease
        self._began_ns = time_of_put(target, session)
        self._latest_ns = 0

    @property
    def is_aging(self) -> bool:
        """Whether half of the lease was over when the latest of what was asked for had been put."""
        return self._began_ns is not None and self._latest_ns - self._began_ns > self._lease.lease_ns // 2

    def look(self) -> None:
        """Before a recovery point is put: raise RepositoryError if the session is gone."""
        try:
            self._began_ns = self._target.stat(self._session).time_ns
        except ObjectMissing as error:
            raise self._gone() from error
        except TargetDenied:
            if self._session not in self._target.list_prefix(self._session):
                raise self._gone() from None

    def vouch_for(self, pack: str) -> None:
        """Before the index names a pack that was put a moment ago: raise RepositoryError unless its key stays.

        A session goes when it is a week old and no pack is of it. So one does not that is younger, or of which packs came so
        soon one after the other that none of them can have been deleted before the next was there.
        """
        if self._began_ns is None:
            self.look()
        try:
            time_ns = time_of(self._target, pack)
        except ObjectMissing as error:
            raise self._gone() from error
        except TargetDenied:
            self.look()
            return
        if self._began_ns is None:
            return
        is_young = time_ns - self._began_ns < self._lease.session_ns - self._lease.wait_ns
        if not is_young and time_ns - self._latest_ns > self._lease.lease_ns:
            raise self._gone()
        self._latest_ns = max(self._latest_ns, time_ns)

    def counts(self, point: str) -> bool | None:
        """Whether a point that was just put is in time; None if the storage does not say."""
        if self._began_ns is None:
            return None
        with suppress(ObjectMissing, TargetDenied):
            self._latest_ns = max(self._latest_ns, time_of(self._target, point))
            return self._latest_ns - self._began_ns <= self._lease.lease_ns
        return None

    def _gone(self) -> RepositoryError:
        return RepositoryError(
            f"This run stood still for days, and {self._session} is gone or may be: what the run stores could never be opened.",
            untouched="No recovery point was made of it; earlier ones are as they were.",
            next_step="Run the backup again.",
        )
