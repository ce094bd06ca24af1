"""Rot and forgery in any object are found, named, and never restored; what they do not touch stays restorable."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.conftest import Store
from tests.engine.test_backup_engine import contents, make_tree, on_disk
from trinity_snap.errors import (
    ForeignRepository,
    IntegrityError,
    RepositoryMissing,
    TrinitySnapError,
    WrongKey,
)
from trinity_snap.repository.documents import sign_document
from trinity_snap.repository.keys import HostSecret, generate_host_secret, generate_identity
from trinity_snap.repository.recipients import add_recipient, recipient_entries
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.verify import verify
from trinity_snap.targets import open_target


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(data)


@pytest.fixture
def filled(store: Store, tmp_path: Path) -> tuple[Store, Path, str, str]:
    """Two agents with data of their own, one point each."""
    for agent, seed in (("one", 1), ("two", 2)):
        make_tree(tmp_path / agent, 40, seed)
    first = store.backup(tmp_path / "one", "one")
    second = store.backup(tmp_path / "two", "two")
    return store, tmp_path, first.id, second.id


@pytest.mark.parametrize("how", ["flip", "truncate", "empty", "remove", "extend"])
def test_damage_to_any_object_is_found_and_never_restored(filled: tuple[Store, Path, str, str], how: str) -> None:
    store, trees, first, second = filled
    expected = {first: on_disk(trees / "one"), second: on_disk(trees / "two")}
    source = random.Random(how)
    for name in sorted(store.objects("")):
        path = store.directory / name
        original = path.read_bytes()
        if how == "remove":
            path.unlink()
        elif how == "flip":
            damaged = bytearray(original)
            damaged[source.randrange(len(damaged))] ^= 1 << source.randrange(8)
            overwrite(path, bytes(damaged))
        else:
            overwrite(path, {"truncate": original[:-1], "empty": b"", "extend": original + b"\0"}[how])
        restored = 0
        noticed = name.startswith("index/")  # losing the index loses nothing
        try:
            repository = store.open()
            points = repository.points()
            report = verify(repository, points, read_data=True)
            noticed |= not report.good or {point.id for point in points} != {first, second}
            for point in points:
                try:
                    assert contents(repository, point.id) == expected[point.id]
                    restored += 1
                except IntegrityError:
                    noticed = True
        except TrinitySnapError:
            assert name == "repository"
            noticed = True
        assert noticed, name
        if name.startswith(("packs/", "points/", "sessions/")):
            assert restored >= 1, f"damage to {name} took the other agent's point with it"
        if path.exists():
            path.unlink()
        path.write_bytes(original)
    assert verify(store.open(), store.open().points(), read_data=True).good


def test_verify_names_the_files_that_are_lost(filled: tuple[Store, Path, str, str]) -> None:
    store, _, first, second = filled
    point = store.open().read_point(first)
    reader = store.open().reader(point)
    entry = reader.entry(point.volumes[0], b"large")
    assert entry is not None
    read = reader.plan_reads(entry.chunk_ids())[0]
    path = store.directory / read.pack
    damaged = bytearray(path.read_bytes())
    damaged[read.offset + read.length // 2] ^= 1
    overwrite(path, bytes(damaged))
    report = verify(store.open(), store.open().points(), read_data=True)
    verdicts = {verdict.id: verdict for verdict in report.points}
    assert verdicts[first].files == [(point.volumes[0].name, b"large")]
    assert verdicts[second].good
    assert list(report.damaged_objects) == [read.pack]


def test_a_point_cannot_be_passed_off_as_another(filled: tuple[Store, Path, str, str]) -> None:
    store, _, first, second = filled
    overwrite(store.directory / "points" / first, (store.directory / "points" / second).read_bytes())
    with pytest.raises(IntegrityError):
        store.open().read_point(first)


def test_who_knows_only_the_public_keys_cannot_forge_a_point(
    filled: tuple[Store, Path, str, str], make_store: Callable[[str], Store]
) -> None:
    """A storage provider can seal to the recipients, but lacks the MAC key."""
    from trinity_snap.backup.engine import AgentPoint, Engine, SourceSpec
    from trinity_snap.repository.session import Session
    from trinity_snap.snapshot.view import DirectoryView

    store, trees, _, _ = filled

    class Forged(Repository):
        def begin_session(self, cache_directory: Path, *, anew: bool = False) -> Session:
            recipients = [store.operator.recipient, store.recovery.recipient]
            return Session(self.target, self.host, recipients, cache_directory)

    forger = HostSecret(os.urandom(32), store.host.repository_id)
    before = store.objects("points/")
    with Engine(Forged(store.target(), forger, None), trees / "forged") as engine:
        shipped = engine.ship(SourceSpec("v"), DirectoryView(trees / "one"), 0)
        engine.commit(AgentPoint("one", "h", "0" * 32, 0, "none", "x", "x"), [(SourceSpec("v"), shipped)])
    (forged,) = store.objects("points/") - before
    opened = store.open()
    with pytest.raises(IntegrityError):
        opened.read_point(forged.removeprefix("points/"))
    assert {point.id for point in opened.points()} == {name.removeprefix("points/") for name in before}
    assert len(opened.unreadable_points) == 1


def test_wrong_keys_are_told_apart(store: Store, make_store: Callable[[str], Store], tmp_path: Path) -> None:
    other = make_store("other")
    with pytest.raises(ForeignRepository):
        Repository.open(store.target(), host=other.host)
    with pytest.raises(WrongKey):
        Repository.open(store.target(), identity=generate_identity())
    impostor = generate_host_secret()
    with pytest.raises(WrongKey):
        Repository.open(store.target(), host=type(impostor)(impostor.secret, store.host.repository_id))
    (tmp_path / "nothing").mkdir()
    empty = open_target(str(tmp_path / "nothing"))
    with pytest.raises(RepositoryMissing):
        Repository.open(empty, host=store.host)


def test_forged_lists_of_recipients_stop_nobody(store: Store, tmp_path: Path) -> None:
    """Neither one of an unknown version, nor one sealed to somebody who joined late, before the true list."""
    late = generate_identity("late")
    target = store.target()
    make_tree(tmp_path / "tree", 3)
    first = store.backup(tmp_path / "tree")
    add_recipient(target, store.host, store.operator, late.recipient)
    forger = HostSecret(os.urandom(32), store.host.repository_id)
    entries = recipient_entries(forger, [late.recipient])
    payload = {"id": store.host.repository_id.hex(), "created": "now", "generation": 9, "recipients": entries}
    forged = sign_document("recipients", payload, forger.mac_key)
    assert target.put_if_absent("recipients/" + "0" * 32, forged)
    assert target.put_if_absent("recipients/" + "1" * 32, forged.replace(b'"version": 1', b'"version": 2'))
    second = store.backup(tmp_path / "tree")
    repository = Repository.open(target, identity=late)
    for committed in (first, second):
        assert contents(repository, committed.id) == on_disk(tmp_path / "tree")
