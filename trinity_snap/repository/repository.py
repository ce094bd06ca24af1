"""A repository: the encrypted store of one host's recovery points, opened with a host secret, an identity, or both."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from trinity_snap.errors import (
    AgentMissing,
    ForeignRepository,
    IdentityNeeded,
    IntegrityError,
    ObjectMissing,
    PointAmbiguous,
    PointMissing,
    RepositoryExists,
    RepositoryMissing,
    SessionDamaged,
    WrongKey,
)
from trinity_snap.repository.counting import Counting
from trinity_snap.repository.documents import (
    check_header,
    created_now,
    hex_field,
    sign_document,
    split_document,
    verify_document,
)
from trinity_snap.repository.keys import REPOSITORY_ID_BYTES, HostSecret, Identity, Recipient, repository_id_of
from trinity_snap.repository.points import RecoveryPoint, open_point, sealed_document
from trinity_snap.repository.reader import PointReader, SessionKeys, open_as_spare
from trinity_snap.repository.recipients import (
    RecipientList,
    current_recipients,
    open_host_secret,
    open_session,
    recipient_entries,
    session_histories,
)
from trinity_snap.repository.sealed import POINT_MAGIC, parse_header
from trinity_snap.repository.session import Session
from trinity_snap.repository.spares import SparePack, Spares, spares_of
from trinity_snap.targets.protocol import Target

if TYPE_CHECKING:
    from trinity_snap.repository.trust import Trust

__all__ = ["Repository"]

_MINIMUM_PREFIX = 4
_BACK = (
    "Put that object back, from a copy of the repository, or from an older version in a bucket that keeps them "
    "(`trinity-snap target heal`): all else may be whole."
)


class Repository:
    """An open repository. `create` and `open` make one; nothing is written but by sessions."""

    def __init__(
        self,
        target: Target,
        host: HostSecret,
        identity: Identity | None,
        trust: Trust | None = None,
        document: bytes | None = None,
    ) -> None:
        self.target = target
        self.host = host
        self.identity = identity
        self.trust = trust
        self.unreadable_points: list[tuple[str, str]] = []
        self.passed_over: list[tuple[str, str]] = []
        self.damaged_lists: tuple[str, ...] = ()
        self._document = document  # the object `repository`, which never changes
        self._session_keys: dict[bytes, bytes] = {}
        self._history: dict[bytes, tuple[bytes, ...]] | None = None

    @property
    def id(self) -> bytes:
        """The repository's id, 16 bytes."""
        return self.host.repository_id

    @classmethod
    def create(cls, target: Target, host: HostSecret, recipients: Sequence[Recipient]) -> Repository:
        """Make a repository at an empty target. Raise RepositoryExists if there is one."""
        payload = {
            "id": host.repository_id.hex(),
            "created": created_now(),
            "generation": 0,
            "recipients": recipient_entries(host, recipients),
        }
        if not target.put_if_absent("repository", sign_document("repository", payload, host.mac_key)):
            raise RepositoryExists(
                f"There is a repository at {target.url} already.",
                untouched="It was left as it is.",
                next_step="Choose another target, or use the keys of the repository that is there.",
            )
        return cls(target, host, None)

    @classmethod
    def open(
        cls,
        target: Target,
        *,
        host: HostSecret | None = None,
        identity: Identity | None = None,
        trust: Trust | None = None,
    ) -> Repository:
        """Open the repository at `target`. An identity alone is enough: it opens the host secret too.

        `trust` judges the list of recipients before anything is sealed to it; without it every authentic list will do.
        Raise RepositoryMissing, ForeignRepository (another host's), WrongKey or IntegrityError.
        """
        try:
            data = target.get("repository")
        except ObjectMissing as error:
            raise RepositoryMissing(
                f"There is no repository at {target.url}.", next_step="Make one with `trinity-snap init`."
            ) from error
        try:
            payload, _, _ = split_document(data)
            check_header("repository", payload)
            repository_id = hex_field(payload, "id", REPOSITORY_ID_BYTES)
        except IntegrityError as error:
            raise IntegrityError(
                f"The object `repository` at {target.url} is damaged: {error}",
                untouched="Nothing was read or written.",
                next_step=_BACK,
            ) from error
        if host is not None and host.repository_id != repository_id:
            raise ForeignRepository(
                f"The repository at {target.url} ({repository_id.hex()}) is not the one that this host's key "
                f"belongs to "
                f"({host.repository_id.hex()}).",
                untouched="Nothing was read or written.",
                next_step="Check target and keys in the policy.",
            )
        if host is None:
            if identity is None:
                raise IdentityNeeded("A repository opens only with a host key or an identity.")
            host = _host_secret(target, payload, identity)
        try:
            if repository_id_of(host.secret) != host.repository_id:
                raise IntegrityError("The repository's id does not belong to its host secret.")
            verify_document("repository", data, host.mac_key)
        except IntegrityError as error:
            raise WrongKey(
                f"The host key does not fit the repository at {target.url}, or its `repository` object was altered.",
                untouched="Nothing was read or written.",
                next_step=f"Check target and keys in the policy. {_BACK}",
            ) from error
        return cls(target, host, identity, trust, data)

    # -- points -----------------------------------------------------------------------------------------------------

    def point_ids(self) -> list[str]:
        """The ids of all recovery points, in no order. Needs no identity."""
        return [name.removeprefix("points/") for name in self.target.list_prefix("points/")]

    def session_key(self, session_id: bytes) -> bytes:
        """The key of a session. Raise IdentityNeeded, WrongKey or IntegrityError."""
        key = self._session_keys.get(session_id)
        if key is None:
            key = self._session_keys[session_id] = self._open_session(session_id)
        return key

    def _open_session(self, session_id: bytes) -> bytes:
        if self.identity is None:
            raise IdentityNeeded(
                "Only an identity opens recovery points, and this host has none.",
                next_step="Give one with `keys.identity` in the policy, or work where the identity is.",
            )
        name = f"sessions/{session_id.hex()}"
        try:
            data = self.target.get(name)
        except ObjectMissing as error:
            raise SessionDamaged(name, "It is missing from the repository.") from error
        try:
            try:
                return open_session(data, self.id, session_id, self.identity, self.host.mac_key, {})
            except WrongKey:
                if (key := self._key_from_history(session_id, self.identity)) is None:
                    raise
                return key
        except IntegrityError as error:
            raise SessionDamaged(name, str(error)) from error

    def _key_from_history(self, session_id: bytes, identity: Identity) -> bytes | None:
        """What the lists of recipients say that the key is; where they differ, what opens a point of that session."""
        if self._history is None:
            self._history = session_histories(self.target, self.host, identity)
        keys = self._history.get(session_id, ())
        if len(keys) > 1:
            for point_id in self.point_ids():
                for key in keys:
                    if self._opens(point_id, session_id, key):
                        return key
        return keys[0] if keys else None

    def _opens(self, point_id: str, session_id: bytes, key: bytes) -> bool:
        name = f"points/{point_id}"
        try:
            data = self.target.get(name)
            header = parse_header(data, POINT_MAGIC, self.id, name)
            if header.session_id == session_id:
                open_point(data, header, key, self.host.mac_key, point_id)
                return True
        except (ForeignRepository, IntegrityError, ObjectMissing):
            pass
        return False

    def read_point(self, point_id: str) -> RecoveryPoint:
        """The recovery point with that whole id. Raise PointMissing, IdentityNeeded or IntegrityError."""
        name = f"points/{point_id}"
        try:
            data = self.target.get(name)
        except ObjectMissing as error:
            raise PointMissing(f"There is no recovery point {point_id}.") from error
        header = parse_header(data, POINT_MAGIC, self.id, name)
        return open_point(data, header, self.session_key(header.session_id), self.host.mac_key, point_id)

    def read_document(self, point_id: str) -> bytes:
        """The document of a point as it was sealed, whatever this version knows of it. Raise as `read_point`."""
        name = f"points/{point_id}"
        try:
            data = self.target.get(name)
        except ObjectMissing as error:
            raise PointMissing(f"There is no recovery point {point_id}.") from error
        header = parse_header(data, POINT_MAGIC, self.id, name)
        return sealed_document(data, header, self.session_key(header.session_id), self.host.mac_key, point_id)

    def points(self, agent: str | None = None) -> list[RecoveryPoint]:
        """All recovery points (of one agent), newest first. Those that cannot be read end up in `unreadable_points`."""
        points = []
        self.unreadable_points = []
        for point_id in self.point_ids():
            try:
                point = self.read_point(point_id)
            except (IntegrityError, ForeignRepository, WrongKey) as error:
                self.unreadable_points.append((point_id, str(error)))
                continue
            if agent is None or point.agent == agent:
                points.append(point)
        points.sort(key=lambda point: (point.created_ns, point.id), reverse=True)
        return points

    def resolve(
        self,
        selector: str | None = None,
        *,
        agent: str | None = None,
        at: datetime | None = None,
        at_any_price: bool = False,
    ) -> RecoveryPoint:
        """The point that `selector` means: `latest` (or None), a whole id, or a prefix of one of 4 digits or more.

        With `at`, `latest` is the newest made at or before that time. One that does not count is never the latest; such ones
        that are newer end up in `passed_over`, with the reason. If none counts, it is the newest `at_any_price`. Raise
        PointMissing, PointAmbiguous or AgentMissing.
        """
        self.passed_over = []
        if selector is not None and selector != "latest":
            return self._by_prefix(selector.lower(), agent)
        points = self.points(agent)
        if not points:
            broken = f" {len(self.unreadable_points)} cannot be read." if self.unreadable_points else ""
            if agent is not None:
                raise AgentMissing(
                    f"The repository has no recovery point of an agent {agent!r}.{broken}",
                    next_step="`trinity-snap list` shows what there is.",
                )
            raise PointMissing(f"The repository has no recovery point.{broken}")
        if at is not None:
            moment = int(at.timestamp() * 1_000_000_000)
            points = [point for point in points if point.created_ns <= moment]
            if not points:
                raise PointMissing(
                    f"There is no recovery point as old as {at.isoformat()}.",
                    next_step="`trinity-snap list` shows what there is.",
                )
        return self._newest_that_counts(points, at_any_price=at_any_price)

    def latest_of_each(self) -> list[RecoveryPoint]:
        """The newest point that counts of every agent that has one, by agent; newer ones end up in `passed_over`."""
        self.passed_over = []
        counting = Counting(self)
        latest: dict[str, RecoveryPoint] = {}
        for point in self.points():
            if point.agent not in latest and self._counts(counting, point):
                latest[point.agent] = point
        return [latest[agent] for agent in sorted(latest)]

    def _newest_that_counts(self, points: list[RecoveryPoint], *, at_any_price: bool) -> RecoveryPoint:
        counting = Counting(self)
        for point in points:
            if self._counts(counting, point):
                return point
        if at_any_price:
            return points[0]
        point_id, reason = self.passed_over[0]
        raise PointMissing(
            f"None of the {len(points)} recovery points that there are counts. Of the newest, {point_id[:8]}: {reason}",
            next_step="`trinity-snap list` shows them all; name one by its id to use it nevertheless.",
        )

    def _counts(self, counting: Counting, point: RecoveryPoint) -> bool:
        reason = counting.void(point)
        if reason is not None:
            self.passed_over.append((point.id, reason))
        return reason is None

    def _by_prefix(self, prefix: str, agent: str | None) -> RecoveryPoint:
        found = [point_id for point_id in self.point_ids() if point_id.startswith(prefix)]
        if not found and len(prefix) >= _MINIMUM_PREFIX:
            found = self._repacked_from(prefix)
        if len(prefix) < _MINIMUM_PREFIX or not found:
            raise PointMissing(
                f"There is no recovery point {prefix!r}.",
                next_step=f"`trinity-snap list` shows the ids; give at least {_MINIMUM_PREFIX} digits of one.",
            )
        if len(found) > 1:
            raise PointAmbiguous(f"{len(found)} recovery points begin with {prefix!r}.", next_step="Give more digits.")
        point = self.read_point(found[0])
        if agent is not None and point.agent != agent:
            raise PointMissing(f"Recovery point {point.id} is one of agent {point.agent!r}, not of {agent!r}.")
        return point

    def _repacked_from(self, prefix: str) -> list[str]:
        """The ids of the points that were repacked from one whose id began like that."""
        if self.identity is None:
            return []
        points = self.points()
        return [point.id for point in points if point.repacked and point.repacked.original.startswith(prefix)]

    def reader(self, point: RecoveryPoint, *, tables_from_packs: bool = False) -> PointReader:
        """What reads the entries and data of a point, and with `tables_from_packs` first looks into each of its packs."""
        return PointReader(
            self.target, self.point_keys(), point, tables_from_packs=tables_from_packs, spares=self.spares()
        )

    def spares(self) -> Spares:
        """What finds chunks of lost packs in others."""

        def open_spare(digest: str, length: int) -> SparePack:
            return open_as_spare(self.target, self.point_keys(), digest, length)

        return spares_of(self.target, self.host, open_spare)

    def point_keys(self) -> SessionKeys:
        """What opens the packs of every point."""
        return SessionKeys(self.host, self.session_key)

    # -- writing ----------------------------------------------------------------------------------------------------

    def believed_recipients(self) -> RecipientList:
        """The current recipients, whom this host may seal to: whatever seals a session key asks here, and nowhere else.

        Raise RecipientsMismatch if it may not.
        """
        listed = self._listed_recipients()
        if self.trust is not None:
            self.trust.check(listed, self.id)
        return listed

    def _listed_recipients(self) -> RecipientList:
        return current_recipients(self.target, self.host, self._document)

    def begin_session(self, cache_directory: Path, *, anew: bool = False) -> Session:
        """Begin a run's writes, sealed to the current recipients. `cache_directory` is this host's own for caches.

        With `anew`, into an empty one, every chunk is stored, also what is there already.
        Raise RecipientsMismatch if those are not whom this host may seal to; nothing is written then.
        """
        directory = cache_directory / self.id.hex() / "chunks"
        while True:
            recipients = self.believed_recipients()
            session = Session(self.target, self.host, recipients.recipients, directory, anew=anew)
            # A recipient that joins after the list was read and before the session was put would miss this session.
            if self._listed_recipients().generation == recipients.generation:
                self.damaged_lists = recipients.damaged
                return session
            session.close()

    def look_again(self, session: Session) -> None:
        """What a run does before it commits: see what was fenced meanwhile, and renew a session that is getting old.

        Raise RecipientsMismatch if the recipients are no longer whom this host may seal to.
        """
        if not session.is_aging:
            session.look_again()
            return
        while True:
            recipients = self.believed_recipients()
            session.renew(recipients.recipients)
            if self._listed_recipients().generation == recipients.generation:
                return


def _host_secret(target: Target, payload: dict[str, object], identity: Identity) -> HostSecret:
    """The host secret, from the first list of recipients or, for one who joined later, from a later list."""
    try:
        return open_host_secret(payload, identity)
    except WrongKey:
        for name in sorted(target.list_prefix("recipients/")):
            try:
                data = target.get(name)
                later, _, _ = split_document(data)
                host = open_host_secret(later, identity)
                verify_document("recipients", data, host.mac_key)
            except (WrongKey, IntegrityError, ForeignRepository, ObjectMissing):
                continue
            if later.get("id") == payload.get("id") and repository_id_of(host.secret) == host.repository_id:
                return host
        raise
