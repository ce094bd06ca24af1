"""Restore grants: what they open, what they do not, how long they last, and what comes of hostile ones."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import Store
from tests.engine.test_backup_engine import make_tree, on_disk
from tests.engine.test_backup_s3 import Bucket, OneIn, bucket, fill, served
from tests.faults.proxy import FLIP_ANSWER, TRUNCATE, Answer, Proxy, Request, refusal
from trinity_snap.errors import GrantError, IntegrityError, TargetDenied, TargetError, TrinitySnapError, UsageError
from trinity_snap.repository.grantform import decode_grant, encode_grant
from trinity_snap.repository.grants import Grant, GrantedPack, GrantedRepository
from trinity_snap.repository.keys import object_key
from trinity_snap.repository.packs import pack_name
from trinity_snap.repository.points import PackReference, RecoveryPoint
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.verify import verify
from trinity_snap.restore import execute, plan_restore
from trinity_snap.restore.granting import grant_restore
from trinity_snap.targets import Target
from trinity_snap.targets.presigned import PresignedTarget
from trinity_snap.targets.retries import Retries

__all__ = ["bucket", "served"]  # fixtures

HOUR = 3600


def sent(grant: Grant) -> Grant:
    """The grant as it arrives."""
    return decode_grant(encode_grant(grant))


def restore(repository: Any, grant: Grant, to: Path, **wishes: Any) -> dict[str, bytes]:
    """Restore the grant's point from a repository into a directory; what is in it then."""
    plan = plan_restore(repository, grant.point, state_dir=to.parent / "state", to=to, **wishes)
    execute(plan, repository)
    return on_disk(to / grant.point.volumes[0].name)


def at_addresses(grant: Grant, **settings: Any) -> GrantedRepository:
    """What a host without any credentials makes of a grant."""
    assert grant.addresses is not None
    settings.setdefault("retries", Retries(attempts=6, first_seconds=0.01, longest_seconds=0.05))
    return GrantedRepository(grant, PresignedTarget(grant.addresses.__getitem__, grant.target, **settings))


def forms(secret: bytes) -> set[bytes]:
    """How a secret could look in text or bytes; base64 wherever it begins in it."""
    found = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    for shift in range(3):
        text = base64.b64encode(bytes(shift) + secret)
        found.add(text[(0, 2, 3)[shift] : len(text) - (0 if (len(secret) + shift) % 3 == 0 else 4)])
    return found


@pytest.fixture
def two_runs(store: Store, tmp_path: Path) -> tuple[str, str]:
    """Two points, the second of which shares data with the first."""
    fill(tmp_path / "tree", 20, seed=1)
    first = store.backup(tmp_path / "tree").id
    fill(tmp_path / "tree", 20, seed=2)
    return first, store.backup(tmp_path / "tree").id


def test_a_grant_restores_what_the_identity_restores_by_the_same_plan(
    store: Store, two_runs: tuple[str, str], tmp_path: Path
) -> None:
    repository = store.open()
    for number, point_id in enumerate(two_runs):
        point = repository.read_point(point_id)
        grant = sent(grant_restore(repository, point, valid_seconds=HOUR))
        granted = GrantedRepository(grant, store.target())
        state = tmp_path / "state"
        for paths in ([], ["large-1"]):
            plans = [
                plan_restore(each, of, state_dir=state, to=tmp_path / f"{number}", paths=paths)
                for each, of in ((repository, point), (granted, grant.point))
            ]
            shown = [{**plan.to_json(), "restore_id": "", "space": []} for plan in plans]
            assert shown[0] == shown[1]
        assert grant.point == point
        wanted = restore(repository, grant, tmp_path / f"identity-{number}")
        assert restore(granted, grant, tmp_path / f"grant-{number}") == wanted


def test_a_grant_opens_its_packs_and_holds_no_other_secret(store: Store, two_runs: tuple[str, str]) -> None:
    repository = store.open()
    first, second = (repository.read_point(each) for each in two_runs)
    grant = sent(grant_restore(repository, first, valid_seconds=HOUR))
    of_first, of_second = ({each.name for each in point.pack_references()} for point in (first, second))
    assert set(grant.packs) == of_first != of_second
    data = encode_grant(grant)
    for point in (first, second):
        assert repository.session_key(point.session_id) not in data
    host = store.host
    for secret in (host.secret, host.mac_key, host.index_key, store.operator.seed, store.recovery.seed):
        assert secret not in data
    reader = GrantedRepository(grant, store.target()).reader(second)
    assert {name.rpartition("/")[2] for name in reader.damaged_packs} == of_second - of_first
    assert "no key" in next(iter(reader.damaged_packs.values()))


def test_a_grant_for_a_path_opens_only_the_packs_of_that_path(
    store: Store, two_runs: tuple[str, str], tmp_path: Path
) -> None:
    repository = store.open()
    point = repository.read_point(two_runs[1])
    whole = sent(grant_restore(repository, point, valid_seconds=HOUR))
    grant = sent(grant_restore(repository, point, valid_seconds=HOUR, paths=["small-2-7"]))
    assert 0 < len(grant.packs) < len(whole.packs)
    assert set(grant.packs) < set(whole.packs)
    assert grant.point.container is None
    granted = GrantedRepository(grant, store.target())
    wanted = (tmp_path / "tree/small-2-7").read_bytes()
    assert restore(granted, grant, tmp_path / "back", paths=["small-2-7"]) == {"small-2-7": wanted}
    with pytest.raises(IntegrityError):
        restore(granted, grant, tmp_path / "all")
    assert "large-2" not in on_disk(tmp_path / "all")
    with pytest.raises(UsageError):
        grant_restore(repository, point, valid_seconds=HOUR, paths=["not-there"])


class Swapping:
    """A storage that gives another pack, header and all, in the place of one that is as long."""

    def __init__(self, inner: Target, swapped: dict[str, str]) -> None:
        self.inner, self.swapped = inner, swapped

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self.inner.get_range(self.swapped.get(name, name), offset, length)


def data_pack(store: Store, tmp_path: Path, agent: str) -> tuple[RecoveryPoint, PackReference]:
    """A point of one file, whose data is not in the pack of its manifest: writers put each into either of two packs."""
    for number in range(64):
        tree = tmp_path / f"{agent}-{number}"
        tree.mkdir()
        (tree / "file").write_bytes(os.urandom(300_000))
        point = store.open().read_point(store.backup(tree, agent=agent, cache=tmp_path / f"cache-{agent}-{number}").id)
        reader = store.open().reader(point)
        entry = reader.entry(point.volumes[0], b"file")
        assert entry is not None
        packs = {read.pack for read in reader.plan_reads(entry.chunk_ids())}
        if len(packs) == 1 and packs.isdisjoint(read.pack for read in reader.plan_reads([point.volumes[0].root])):
            return point, next(each for each in point.pack_references() if pack_name(each.name) in packs)
    raise AssertionError("no writer puts a file's data into one pack and its manifest into another")


def test_a_storage_cannot_have_the_key_of_another_pack_granted(store: Store, tmp_path: Path) -> None:
    (point, mine), (_, other) = (data_pack(store, tmp_path, agent) for agent in ("a1", "a2"))
    assert mine.length == other.length
    lying = Swapping(store.target(), {pack_name(mine.name): pack_name(other.name)})
    honest = grant_restore(store.open(), point, valid_seconds=HOUR)
    grant = grant_restore(store.open(lying), point, valid_seconds=HOUR)
    assert mine.name in honest.packs
    assert set(grant.packs) == set(honest.packs) - {mine.name}


def test_a_missing_pack_costs_what_was_in_it_and_is_named(store: Store, tmp_path: Path) -> None:
    fill(tmp_path / "tree", 64, seed=1)
    committed = store.backup(tmp_path / "tree")
    repository = store.open()
    point = repository.read_point(committed.id)
    reader = repository.reader(point)
    (volume,) = point.volumes
    large = reader.entry(volume, b"large-1")
    assert large is not None
    # Where packs end is another place with every key: one may hold other files' data, or the manifest, as well.
    needed = {volume.root, *(page.page_id for page in reader.pages(volume))}
    for entry in reader.entries(volume):
        if entry.path != b"large-1":
            needed.update(entry.chunk_ids())
    others = {read.pack for read in reader.plan_reads(needed)}
    its_own = [read.pack for read in reader.plan_reads(large.chunk_ids()) if read.pack not in others]
    (store.directory / its_own[0]).unlink()
    grant = sent(grant_restore(repository, point, valid_seconds=HOUR))
    (missing,) = grant.missing
    assert "missing" in grant.reasons[missing]
    with pytest.raises(IntegrityError) as failed:
        restore(GrantedRepository(grant, store.target()), grant, tmp_path / "back")
    assert "large-1" in str(failed.value)
    back = on_disk(tmp_path / "back" / volume.name)
    assert back == {name: data for name, data in on_disk(tmp_path / "tree").items() if name != "large-1"}


def test_forged_data_is_noticed_even_if_the_forger_has_a_grant_too(
    store: Store, two_runs: tuple[str, str], tmp_path: Path
) -> None:
    """Who has a pack's key can seal other data into it; the keyed id of each chunk says that it is another one."""
    repository = store.open()
    point = repository.read_point(two_runs[0])
    grant = sent(grant_restore(repository, point, valid_seconds=HOUR))
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    for digest, pack in grant.packs.items():
        path = store.directory / pack_name(digest)
        data = bytearray(path.read_bytes())
        reader = GrantedRepository(grant, store.target()).reader(grant.point)
        table = next(each.table for each in reader._load() if each.name == pack_name(digest))
        sealed_length = table[0].sealed_length
        nonce, associated = bytes(12), bytes(data[:72]) + bytes(9)
        plain = bytearray(AESGCM(pack.key).decrypt(nonce, bytes(data[72 : 72 + sealed_length]), associated))
        plain[-1] ^= 1
        data[72 : 72 + sealed_length] = AESGCM(pack.key).encrypt(nonce, bytes(plain), associated)
        path.chmod(0o600)
        path.write_bytes(data)
    with pytest.raises(IntegrityError):
        restore(GrantedRepository(grant, store.target()), grant, tmp_path / "back")


# -- addresses --------------------------------------------------------------------------------------------------------


@pytest.fixture
def granted(bucket: Bucket, tmp_path: Path) -> tuple[Bucket, Grant]:
    fill(tmp_path / "tree", 40)
    point_id = bucket.backup(tmp_path / "tree").id
    repository = bucket.open()
    grant = sent(grant_restore(repository, repository.read_point(point_id), valid_seconds=HOUR))
    bucket.proxy.forget()
    return bucket, grant


def test_signed_addresses_are_all_a_host_needs_and_eight_are_read_at_once(
    granted: tuple[Bucket, Grant], tmp_path: Path
) -> None:
    bucket, grant = granted
    bucket.proxy.latency, bucket.proxy.rule = 0.1, OneIn(25)
    assert restore(at_addresses(grant), grant, tmp_path / "back") == on_disk(tmp_path / "tree")
    assert bucket.proxy.most_at_once["GET"] == 8
    seen = {request.path.partition("?")[0].rpartition("/")[2] for request in bucket.proxy.requests}
    assert seen == set(grant.packs)
    assert all("Authorization" not in request.headers for request in bucket.proxy.requests)


def test_an_address_gives_its_object_and_nothing_else(granted: tuple[Bucket, Grant]) -> None:
    import urllib3

    _, grant = granted
    assert grant.addresses is not None
    (name, address), (other, _) = itertools.islice(grant.addresses.items(), 2)
    pool = urllib3.PoolManager(retries=False)
    assert pool.request("GET", address, headers={"Range": "bytes=0-7"}).data == b"TSNAPPK\x01"
    for method, where in (("PUT", address), ("DELETE", address), ("GET", address.replace(name, other))):
        assert pool.request(method, where, body=b"x" if method == "PUT" else None).status == 403
    for part in ("points/", "sessions/"):
        (_, found), *_ = [(each, each) for each in granted[0].target.list_prefix(part)]
        assert pool.request("GET", address.replace(name, found)).status == 403


def test_rclone_refuses_an_address_whose_time_is_over_and_nothing_stays(bucket: Bucket, tmp_path: Path) -> None:
    fill(tmp_path / "tree", 4)
    repository = bucket.open()
    point = repository.read_point(bucket.backup(tmp_path / "tree").id)
    grant = sent(grant_restore(repository, point, valid_seconds=1))
    deadline = time.time() + 2.5
    while time.time() < deadline:
        time.sleep(0.1)
    with pytest.raises(TargetDenied) as refused:
        restore(at_addresses(grant), grant, tmp_path / "back")
    assert "new grant" in str(refused.value)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (refusal(403, "AccessDenied"), TargetDenied, "grant"),
        (refusal(400, "ExpiredToken"), TargetDenied, "grant"),
        (Answer(307, b"", {"Location": "http://127.0.0.1:1/"}), TargetError, "elsewhere"),
        (refusal(404, "NoSuchKey"), IntegrityError, "missing"),
        (refusal(500, "InternalError"), TargetError, "just now"),
        (Answer(206, b"x" * 10, {"Content-Range": "bytes 5-14/99"}), IntegrityError, "length"),
        (Answer(200, b"", {"Content-Length": "99999999999"}), TargetError, "no"),
        (FLIP_ANSWER, IntegrityError, ""),
    ],
)
def test_a_store_that_refuses_or_lies_in_the_middle_leaves_nothing(
    granted: tuple[Bucket, Grant], tmp_path: Path, answer: Answer | str, error: type[TrinitySnapError], words: str
) -> None:
    bucket, grant = granted
    begun = len(grant.packs) + 3  # the tables, and the manifest's first

    def rule(request: Request) -> Answer | str | None:
        return answer if request.number >= begun else None

    bucket.proxy.rule = rule
    with pytest.raises(error) as failed:
        restore(at_addresses(grant), grant, tmp_path / "back")
    assert words in str(failed.value)
    assert "X-Amz" not in str(failed.value) and "Signature" not in repr(failed.value.__context__)
    if error is IntegrityError:  # damage costs only what is damaged
        back = on_disk(tmp_path / "back" / grant.point.volumes[0].name)
        assert back.items() < on_disk(tmp_path / "tree").items()
    else:
        assert not (tmp_path / "back").exists()


def test_answers_cut_short_are_fetched_again(granted: tuple[Bucket, Grant], tmp_path: Path) -> None:
    bucket, grant = granted
    bucket.proxy.rule = lambda request: TRUNCATE if request.number % 5 == 3 else None
    assert restore(at_addresses(grant), grant, tmp_path / "back") == on_disk(tmp_path / "tree")


# -- bytes --------------------------------------------------------------------------------------------------------------


def wide(grant: Grant, packs: int) -> Grant:
    """The grant as if it were for that many packs."""
    assert grant.addresses is not None
    address = next(iter(grant.addresses.items()))
    made: dict[str, GrantedPack] = {}
    addresses, session = {}, os.urandom(16)
    for _ in range(packs):
        digest = os.urandom(32).hex()
        made[digest] = GrantedPack(16 << 20, os.urandom(32), session, os.urandom(32))
        name = pack_name(digest)
        addresses[name] = address[1].replace(address[0], name)[:-64] + os.urandom(32).hex()
    return dataclasses.replace(grant, packs=made, addresses=addresses, missing={}, reasons={})


@pytest.fixture
def small(store: Store, tmp_path: Path) -> Grant:
    """A grant with addresses that lead nowhere."""
    make_tree(tmp_path / "tree", 5)
    repository = store.open()
    point = repository.read_point(store.backup(tmp_path / "tree").id)
    grant = grant_restore(repository, point, valid_seconds=HOUR)
    names = [pack_name(digest) for digest in grant.packs]
    address = "https://127.0.0.1:1/bucket/prefix/{}?X-Amz-Date=20261123T180000Z&X-Amz-Signature={}"
    return dataclasses.replace(grant, addresses={name: address.format(name, os.urandom(32).hex()) for name in names})


def test_a_grant_for_ten_thousand_packs_is_small(small: Grant) -> None:
    grant = small
    large = wide(grant, 10_000)
    data = encode_grant(large)
    assert len(data) < 10_000 * 145
    again = decode_grant(data)
    assert (again.packs, again.addresses) == (large.packs, large.addresses)


def test_no_secret_is_in_what_is_shown_of_a_grant(small: Grant) -> None:
    grant = small
    shown = repr(grant) + repr(at_addresses(grant)) + repr(list(grant.packs.values()))
    for pack in grant.packs.values():
        assert repr(pack.key) not in shown and not any(each.decode("latin-1") in shown for each in forms(pack.key))
    assert "X-Amz" not in shown


@pytest.mark.parametrize(
    "changes",
    [
        {"repository_id": b"short"},
        {"chunk_id_key": b""},
        {"expires": 1},
        {"expires": 1 << 60},
        {"point": {"id": "../../etc"}},
        {"point": {"version": 2}},
        {"point": {"created_ns": -1}},
        {"addresses": "file:///etc/shadow"},
        {"addresses": "http://user:password@127.0.0.1/"},
        {"addresses": "http://127.0.0.1/a b/"},
        {"addresses": "http://127.0.0.1:999999/"},
        {"packs": {"length": 1 << 50}},
        {"packs": {"length": 7}},
    ],
    ids=str,
)
def test_a_grant_that_says_the_impossible_is_refused(small: Grant, changes: dict[str, Any]) -> None:
    import msgspec

    grant = small
    (name, value), *_ = changes.items()
    if name == "point":
        value = msgspec.structs.replace(grant.point, **value)
    elif name == "addresses":
        value = {each: f"{value}{each}{'0' * 64}" for each in (pack_name(digest) for digest in grant.packs)}
    elif name == "packs":
        value = {digest: dataclasses.replace(pack, **value) for digest, pack in grant.packs.items()}
    data = encode_grant(dataclasses.replace(grant, **{name: value}))
    with pytest.raises(GrantError):
        decode_grant(data)


def test_a_grant_cut_short_anywhere_is_refused(store: Store, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree", 5)
    repository = store.open()
    point = repository.read_point(store.backup(tmp_path / "tree").id)
    data = encode_grant(grant_restore(repository, point, valid_seconds=HOUR))
    for length in range(len(data)):
        with pytest.raises(GrantError):
            decode_grant(data[:length])


def test_the_keys_are_those_that_the_format_says(store: Store, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree", 5)
    repository: Repository = store.open()
    point = repository.read_point(store.backup(tmp_path / "tree").id)
    for digest, pack in grant_restore(repository, point, valid_seconds=HOUR).packs.items():
        header = store.target().get_range(pack_name(digest), 0, 72)
        assert (header[24:40], header[40:72]) == (pack.session_id, pack.salt)
        assert pack.key == object_key(repository.session_key(pack.session_id), pack.salt, "pack")


def test_the_bytes_are_those_that_the_format_says(small: Grant) -> None:
    import msgspec

    data = encode_grant(small)
    document = msgspec.msgpack.decode(data[8:])
    assert (data[:8], document["version"], document["repository"]) == (b"TSNAPGR\x01", 1, small.repository_id)
    assert document["point"] == msgspec.to_builtins(
        msgspec.structs.replace(small.point, packs=b""), builtin_types=(bytes,)
    )
    (signed,) = document["addresses"]
    before, after, signatures = signed
    raw = document["packs"]
    assert len(raw) == 108 * len(small.packs) and len(signatures) == 32 * len(small.packs)
    for number, (digest, pack) in enumerate(sorted(small.packs.items())):
        one = raw[108 * number : 108 * number + 108]
        assert (one[:32].hex(), int.from_bytes(one[32:40], "big"), one[40:72]) == (digest, pack.length, pack.key)
        session = int.from_bytes(one[72:76], "big")
        assert document["sessions"][16 * session : 16 * session + 16] == pack.session_id
        assert one[76:] == pack.salt
        signature = signatures[32 * number : 32 * number + 32].hex()
        name = f"packs/{digest[:2]}/{digest}"
        assert (small.addresses or {})[name] == before + name + after + signature


def test_what_is_behind_a_proxy_is_read_through_it(granted: tuple[Bucket, Grant], tmp_path: Path) -> None:
    bucket, grant = granted
    proxy: Proxy = bucket.proxy
    with pytest.raises(TargetError) as failed:
        restore(at_addresses(grant, proxy="http://127.0.0.1:9", retries=Retries(attempts=1)), grant, tmp_path / "back")
    assert "proxy" in str(failed.value)
    assert not proxy.requests


@pytest.mark.parametrize("how", ["missing", "found damaged"])
def test_what_other_packs_hold_as_well_is_granted_and_read_from_there(store: Store, tmp_path: Path, how: str) -> None:
    """A later run has stored it anew, and this point names none of its packs."""
    fill(tmp_path / "tree", 64, seed=1)
    first = store.open().read_point(store.backup(tmp_path / "tree").id)
    own = {pack_name(each.name) for each in first.pack_references()}
    damaged = max(own, key=lambda name: (store.directory / name).stat().st_size)
    path = store.directory / damaged
    data = path.read_bytes()
    path.chmod(0o600)
    path.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    repository = store.open()
    verify(repository, repository.points(), read_data=True, record=True, condemn=True)
    if how == "missing":
        path.unlink()
    store.backup(tmp_path / "tree")
    repository = store.open()

    grant = sent(grant_restore(repository, repository.read_point(first.id), valid_seconds=HOUR))

    others = set(map(pack_name, grant.packs)) - own
    assert others
    assert others < store.objects("packs/")
    restore(GrantedRepository(grant, store.target()), grant, tmp_path / "back")
    (volume,) = first.volumes
    assert on_disk(tmp_path / "back" / volume.name) == on_disk(tmp_path / "tree")
