"""Restore grants: what a host needs to restore one recovery point, and no more than that (docs/format.md section 12).

A grant is made where the identity is, and holds the opened recovery point, the keys of its packs and, where the target
can sign some, addresses to get just these packs from. It opens nothing else: no session key, no host secret is in it. Whoever
reads one trusts nothing that it says: it may come from anybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache

import msgspec

from trinity_snap.errors import ForeignRepository, IntegrityError, ObjectMissing, RepositoryMissing
from trinity_snap.repository.documents import check_header, hex_field, split_document
from trinity_snap.repository.keys import REPOSITORY_ID_BYTES
from trinity_snap.repository.packs import PackOpener, Table, pack_name
from trinity_snap.repository.points import PackReference, RecoveryPoint, encode_references
from trinity_snap.repository.reader import PointReader, SegmentRead, SessionKeys, open_as_spare
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.sealed import PACK_MAGIC, Header, pack_key
from trinity_snap.repository.spares import PackOfIndex, Spares, chunk_ids, spares_of
from trinity_snap.targets.presigned import Presigning
from trinity_snap.targets.protocol import Target

__all__ = [
    "Grant",
    "GrantedPack",
    "GrantedRepository",
    "NotingReader",
    "make_grant",
]


@dataclass(frozen=True)
class GrantedPack:
    """A pack that a grant opens: its length in bytes, its own key (32 bytes), and what its header says besides."""

    length: int
    key: bytes = field(repr=False)
    session_id: bytes
    salt: bytes


@dataclass(frozen=True)
class Grant:
    """A grant. `packs` goes by SHA-256 in hex, `addresses` by the name of the object (None: the target signs none).

    `created` and `expires` are Unix times by the clock of whoever made it. `paths` are what it is for; none: all of the
    point. `missing` are packs of the point that could not be granted, and why.
    """

    repository_id: bytes
    target: str
    created: int
    expires: int
    paths: tuple[str, ...]
    point: RecoveryPoint
    chunk_id_key: bytes = field(repr=False)
    packs: Mapping[str, GrantedPack] = field(repr=False)
    addresses: Mapping[str, str] | None = field(repr=False)
    certificates: str | None = field(repr=False)
    missing: Mapping[str, PackReference] = field(repr=False)
    reasons: Mapping[str, str] = field(repr=False)

    @property
    def pack_bytes(self) -> int:
        """The lengths of all packs together."""
        return sum(pack.length for pack in self.packs.values())


# -- making ------------------------------------------------------------------------------------------------------------


@dataclass
class _NotedKeys:
    """The keys of a repository; notes what opened each pack."""

    keys: SessionKeys
    used: dict[str, tuple[Header, bytes]] = field(default_factory=dict)

    @property
    def chunk_id_key(self) -> bytes:
        return self.keys.chunk_id_key

    def opener(self, name: str, read_header: Callable[[], bytes | memoryview]) -> PackOpener:
        header, session_key = self.keys.header_and_key(name, read_header())
        key = pack_key(header, session_key)
        self.used[name] = header, key
        return PackOpener.with_pack_key(header, key, name)

    def tables(self, target: Target, wanted: Mapping[bytes, int], *, at_any_price: bool = False) -> dict[bytes, Table]:
        return {}


class NotingReader(PointReader):
    """A reader that notes in which packs what it was asked for lies.

    A storage can put any other pack in the place of one, and so have its key granted: only those count whose own table,
    opened with that key, names something that was asked for.
    """

    def __init__(self, repository: Repository, point: RecoveryPoint, doubted: Collection[bytes] = ()) -> None:
        """`doubted`: packs (SHA-256) that were damaged when they were read last: what else holds their chunks is noted, too."""
        self._noted_keys = keys = _NotedKeys(repository.point_keys())
        self._noted: set[int] = set()
        self._doubted = {pack_name(digest.hex()) for digest in doubted}
        self._doubtful: set[bytes] = set()
        target = repository.target
        self._others = spares_of(
            target, repository.host, lambda digest, length: open_as_spare(target, keys, digest, length)
        )
        super().__init__(target, keys, point, tables_from_packs=True, spares=self._others)

    def plan_reads(self, ids: Iterable[bytes]) -> list[SegmentRead]:
        """As any reader does, and note the packs."""
        wanted = list(ids)
        reads = super().plan_reads(wanted)
        self.note(wanted)
        return reads

    def note(self, ids: Iterable[bytes]) -> None:
        """Note the packs that hold these chunks; one that none holds is passed over."""
        packs = self._load()
        places = self._places
        for chunk_id in ids:
            if chunk_id in places:
                self._noted.add(number := places[chunk_id] >> 32)
                if packs[number].name in self._doubted:
                    self._doubtful.add(chunk_id)

    def granted(self) -> dict[str, GrantedPack]:
        """The packs noted so far, by SHA-256 in hex."""
        packs = self._load()
        found = {}
        for pack in (packs[number] for number in sorted(self._noted)):
            header, key = self._noted_keys.used[pack.name]
            found[_digest(pack.name)] = GrantedPack(pack.length, key, header.session_id, header.salt)
        for spare in self._others.packs_with(self._doubtful) if self._doubtful else ():
            if spare.name not in self._doubted and not self._doubtful.isdisjoint(chunk_ids(spare.table)):
                header, key = self._noted_keys.used[spare.name]
                found[_digest(spare.name)] = GrantedPack(spare.length, key, header.session_id, header.salt)
        return found


def make_grant(
    repository: Repository,
    reader: NotingReader,
    *,
    valid_seconds: int,
    paths: Sequence[str] = (),
    clock: Callable[[], float] = time.time,
) -> Grant:
    """A grant for what a reader was asked for, which is all of its point, or `paths` of it.

    One for paths has no definition of the container. Packs that cannot be read are granted to nobody, and noted. Raise
    TargetError.
    """
    target, point = repository.target, reader.point
    granted = reader.granted()
    damaged = {_digest(name): reason for name, reason in reader.damaged_packs.items()}
    references = [each for each in point.pack_references() if each.name not in granted and each.name in damaged]
    references += [PackReference(digest, pack.length) for digest, pack in granted.items()]
    created = int(clock())
    signed = certificates = None
    if isinstance(target, Presigning):
        names = [pack_name(digest) for digest in granted]
        signed = {name: target.presign(name, valid_seconds) for name in names}
        certificates = target.certificates()
    return Grant(
        repository_id=repository.id,
        target=target.url,
        created=created,
        expires=created + valid_seconds,
        paths=tuple(paths),
        point=msgspec.structs.replace(
            point, container=None if paths else point.container, packs=encode_references(references)
        ),
        chunk_id_key=repository.host.chunk_id_key,
        packs=granted,
        addresses=signed,
        certificates=certificates,
        missing={each.name: each for each in references if each.name not in granted},
        reasons=damaged,
    )


def _digest(name: str) -> str:
    return name.rpartition("/")[2]


# -- reading with a grant ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _GrantedKeys:
    """The keys of who has a grant."""

    grant: Grant

    @property
    def chunk_id_key(self) -> bytes:
        return self.grant.chunk_id_key

    def opener(self, name: str, read_header: Callable[[], bytes | memoryview]) -> PackOpener:
        pack = self.grant.packs.get(_digest(name))
        if pack is None:
            raise IntegrityError(self.grant.reasons.get(_digest(name)) or f"The grant has no key of {name}.")
        header = Header(PACK_MAGIC, self.grant.repository_id, pack.session_id, pack.salt)
        return PackOpener.with_pack_key(header, pack.key, name)

    def tables(self, target: Target, wanted: Mapping[bytes, int], *, at_any_price: bool = False) -> dict[bytes, Table]:
        return {}


@dataclass(frozen=True)
class GrantedRepository:
    """What a grant lets a host read of a repository, from a target: `trinity_snap.restore` needs no more."""

    grant: Grant
    target: Target

    def check_target(self) -> None:
        """Raise ForeignRepository or RepositoryMissing if the target does not hold the grant's repository."""
        try:
            payload, _, _ = split_document(self.target.get("repository"))
        except ObjectMissing as error:
            raise RepositoryMissing(f"There is no repository at {self.target.url}.") from error
        check_header("repository", payload)
        found = hex_field(payload, "id", REPOSITORY_ID_BYTES)
        if found != self.grant.repository_id:
            raise ForeignRepository(
                f"The grant is for the repository {self.grant.repository_id.hex()}; at {self.target.url} is {found.hex()}.",
                untouched="Nothing was changed.",
                next_step="Name the right place with --target, or in the policy.",
            )

    def reader(self, point: RecoveryPoint) -> PointReader:
        """The reader of the grant's point. What one pack has lost is read from another one of the grant."""
        keys = _GrantedKeys(self.grant)
        spares = Spares(
            self.target,
            self.grant.chunk_id_key,
            lambda digest, length: open_as_spare(self.target, keys, digest, length),
            cache(lambda: list(self._tables(keys))),
            lambda: {bytes.fromhex(digest) for digest in self.grant.packs},
        )
        return PointReader(self.target, keys, point, tables_from_packs=True, spares=spares)

    def _tables(self, keys: _GrantedKeys) -> Iterator[PackOfIndex]:
        for digest, pack in self.grant.packs.items():
            with suppress(IntegrityError):
                table = open_as_spare(self.target, keys, digest, pack.length).table
                yield PackOfIndex(bytes.fromhex(digest), pack.length, table)
