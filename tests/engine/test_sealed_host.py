"""A host that never sees an identity: what it can do, and that with all that it has nothing of its history opens."""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.engine.sealed import Pair, pair
from tests.engine.test_backup_engine import make_tree
from tests.engine.test_backup_s3 import Bucket, bucket, served
from tests.faults.rights import enforce
from tests.unit.test_cli_repository import make_host, repository
from trinity_snap.errors import IdentityNeeded
from trinity_snap.repository.keys import HostSecret, Identity
from trinity_snap.repository.repository import Repository
from trinity_snap.repository.sealed import INDEX_MAGIC, PACK_MAGIC, POINT_MAGIC, object_cipher, parse_header
from trinity_snap.repository.session import read_index
from trinity_snap.repository.stored import verify_stored
from trinity_snap.snapshot.precopied import PrecopyView
from trinity_snap.snapshot.view import DirectoryView
from trinity_snap.targets.s3_policy import host_policy

__all__ = ["bucket", "make_host", "pair", "repository", "served"]  # fixtures

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a run needs root")


def test_it_backs_up_stores_nothing_twice_and_is_restored_from_elsewhere(pair: Pair) -> None:
    (pair.data / "large").write_bytes(os.urandom(6_000_000))
    (pair.data / "small").write_bytes(b"small")
    pair.point()
    packs = pair.objects("packs/")
    (second,) = pair.back_up()["agents"]
    assert second["bytes_stored"] < 4096
    assert pair.objects("packs/") == packs
    expected = {path.name: path.read_bytes() for path in pair.data.iterdir()}
    assert pair.restored("operator") == pair.restored("paper") == expected


def test_a_lost_cache_comes_back_from_the_repository_and_no_chunk_is_stored_twice(pair: Pair) -> None:
    for number in range(3):
        (pair.data / f"large-{number}").write_bytes(os.urandom(3_000_000))
        (pair.data / f"small-{number}").write_bytes(os.urandom(300))
        pair.point()
    packs = pair.objects("packs/")
    shutil.rmtree(pair.state)
    (again,) = pair.back_up()["agents"]
    assert again["bytes_read"] > 9_000_000
    assert pair.objects("packs/") == packs
    chunks: Counter[bytes] = Counter()
    for name in pair.objects("index/"):
        for pack in read_index(pair.target().get(name), pair.secret, name):
            for segment in pack.table:
                chunks.update(segment.ids[at : at + 32] for at in range(0, len(segment.ids), 32))
    assert len(chunks) >= 9 and set(chunks.values()) == {1}
    assert pair.restored() == {path.name: path.read_bytes() for path in pair.data.iterdir()}


# -- it cannot open one byte ----


def opens(pair: Pair, name: str, keys: Iterable[bytes]) -> bool:
    """Whether one of the keys opens an object of the repository, as its parent's key or as its own."""
    data = pair.target().get(name)
    magic = {"packs": PACK_MAGIC, "points": POINT_MAGIC, "index": INDEX_MAGIC}[name.split("/")[0]]
    header = parse_header(data, magic, pair.secret.repository_id, name)
    if magic == PACK_MAGIC:
        table = int.from_bytes(data[-8:-4], "big")
        sealed, nonce = data[-8 - table : -8], b"\0\0\0\1" + bytes(8)
        associated = header.encode() + b"\1" + bytes(8)
    else:
        sealed, nonce, associated = data[72:], bytes(12), header.encode() + name.encode()
    for key in keys:
        for cipher in (object_cipher(header, key), AESGCM(key)):
            with suppress(InvalidTag):
                cipher.decrypt(nonce, sealed, associated)
                return True
    return False


def keys_of(host: HostSecret, files: dict[Path, bytes]) -> set[bytes]:
    """All that could be a key of 32 bytes among the files of a host, and what is derived from its secret."""
    keys = {host.secret, host.chunk_id_key, host.index_key, host.mac_key, host.repository_id * 2}
    for data in files.values():
        parts = [data, *(bytes.fromhex(text.decode()) for text in re.findall(rb"[0-9a-f]{64}", data))]
        parts += [
            base64.b64decode(text) for text in re.findall(rb'"([A-Za-z0-9+/]{40,}=*)"', data) if not len(text) % 4
        ]
        keys.update(part[at : at + 32] for part in parts for at in range(len(part) - 31))
    return keys


def test_with_all_files_of_the_host_nothing_of_its_history_opens(pair: Pair) -> None:
    gone, there = os.urandom(8).hex().encode(), os.urandom(8).hex().encode()
    text = os.urandom(16).hex().encode()
    (pair.data / f"gone-{gone.decode()}").write_bytes(text * 1000)
    (pair.data / f"there-{there.decode()}").write_bytes(text[::-1] * 1000)
    first = pair.point()
    (pair.data / f"gone-{gone.decode()}").unlink()
    pair.point()
    files = pair.host_files()

    stored = {name: pair.target().get(name) for name in pair.objects("")}
    for what, data in (*files.items(), *stored.items()):
        assert text not in data and text[::-1] not in data, what
        assert gone not in data, what
        assert there not in data or str(what).endswith(".tree"), what
    assert any(there in data for data in files.values()), "the cache has the names of what is there"

    assert len(pair.objects("packs/")) >= 2
    assert not any(set(data) & {"seed", "identity"} for data in map(_members, files.values()))
    sealed = [*pair.objects("packs/"), *pair.objects("points/")]
    keys = keys_of(pair.secret, files)
    assert len(keys) > 5_000
    assert not any(opens(pair, name, keys) for name in sealed)
    seeds = [pair.secret.secret, pair.secret.mac_key, pair.secret.index_key, pair.secret.chunk_id_key]
    assert not {Identity(seed).recipient.id for seed in seeds} & set().union(*pair.sealed_to())
    with pytest.raises(IdentityNeeded):
        Repository.open(pair.target(), host=pair.secret).read_point(first)

    # The same attempts do open everything for whoever has the key.
    control = Repository.open(pair.target(), identity=pair.identity("operator"))
    session_keys = [control.session_key(bytes.fromhex(name[-32:])) for name in pair.objects("sessions/")]
    assert all(opens(pair, name, session_keys) for name in sealed)
    assert all(opens(pair, name, keys) for name in pair.objects("index/"))
    assert pair.restored(point=first)[f"gone-{gone.decode()}"] == text * 1000


def _members(data: bytes) -> dict[str, object]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def test_the_names_of_a_tree_that_is_gone_leave_the_cache(pair: Pair) -> None:
    other = pair.host.home / "other"
    other.mkdir()
    marker = os.urandom(8).hex()
    (other / marker).touch()
    pair.configure(pair.data, other)
    pair.point()
    assert any(marker.encode() in data for data in pair.host_files().values())
    pair.configure()
    pair.point()
    assert not any(marker.encode() in data for data in pair.host_files().values())


def test_the_record_of_runs_has_no_names_of_files(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    (pair.data / "unreadable").write_bytes(b"x" * 100)
    for view in (DirectoryView, PrecopyView):
        real = view.open

        def fails(self: Any, path: bytes, real: Any = real) -> int:
            if path == b"unreadable":
                raise OSError(errno.EIO, "Input/output error")
            return int(real(self, path))

        monkeypatch.setattr(view, "open", fails)
    answer = pair.back_up(code=10)
    assert answer["agents"][0]["problems"][0]["path"] == "unreadable"
    (record,) = (pair.state / "runs").iterdir()
    (problem,) = json.loads(record.read_bytes())["agents"][0]["problems"]
    assert (problem["path"], problem["reason"]) == ("", "Input/output error")
    assert "1 entries could not be backed up." in pair.host.json("status")["agents"][0]["warnings"]


# -- what works without an identity, and what says that it does not ----


def test_what_needs_an_identity_says_who_has_one(pair: Pair) -> None:
    for _ in range(2):  # also of a repository that has no points yet
        for command in (
            "list", "show abcd", "restore platform --to /nowhere", "verify --read-data", "verify abcd", "key words",
            "key wrap trinity", "key unwrap", "key rotate", "key rotate --recovery", "key host-key /nowhere",
            f"key add {pair.file('paper')}",
        ):  # fmt: skip
            answer = pair.host.json(*command.split(), code=1)
            assert answer["error"] == "IdentityNeeded", command
            assert pair.recipient("operator").id in answer["message"]
            assert "Do this where an identity is" in answer["next_step"]
        point = pair.point()
    assert pair.host.json("list", "--identity", pair.key("paper"))["points"][0]["id"] == point
    for command in ("status", "verify", "key list", "policy check", "policy show", "target check", "recover"):
        pair.host.json(*command.split())


def test_status_comes_from_the_record_and_says_what_it_cannot_know(pair: Pair) -> None:
    pair.point()
    last = pair.point()
    status = pair.host.json("status", "--max-age", "1h")
    (agent,) = status["agents"]
    assert (status["source"], agent["point"], agent["points"], status["unnamed_points"]) == ("runs", last, 2, 0)
    shutil.rmtree(pair.state)
    status = pair.host.json("status")
    assert (status["agents"], status["unnamed_points"]) == ([], 2)
    assert "2 recovery points" in status["warnings"][0]
    pair.point()
    status = pair.host.json("status")
    assert (status["agents"][0]["points"], status["unnamed_points"], status["warnings"]) == (1, 2, [])
    assert "2 recovery points besides" in pair.host.text("status")


def test_verify_finds_what_is_missing_short_or_altered_without_a_key(pair: Pair) -> None:
    (pair.data / "large").write_bytes(os.urandom(5_000_000))
    pair.point()
    good = pair.host.json("verify", "--hashes")
    assert (good["good"], good["opened"], good["notes"]) == (True, False, [])
    assert good["packs_checked"] == len(pair.objects("packs/")) and good["bytes_read"] > 5_000_000
    largest = max((pair.repository / "packs").rglob("?" * 64), key=lambda path: path.stat().st_size)
    name, whole = str(largest.relative_to(pair.repository)), largest.read_bytes()
    largest.chmod(0o600)

    def verified(*options: str, code: int = 90) -> list[str]:
        return [one["name"] for one in pair.host.json("verify", *options, code=code)["damaged_objects"]]

    largest.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    assert verified(code=0) == []
    assert verified("--hashes") == [name]
    largest.write_bytes(whole[:-4096])
    assert verified() == [name]
    largest.unlink()
    assert verified() == [name]
    shutil.rmtree(pair.state)
    assert "pruned, or lost" in pair.host.json("verify")["notes"][0]
    largest.write_bytes(whole)
    (session,) = pair.objects("sessions/")
    (pair.repository / session).unlink()
    assert verified() == [session]


def test_with_the_rights_of_a_host_verify_looks_at_what_it_may(bucket: Bucket, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    make_tree(root, 20)
    bucket.proxy.rule = enforce(host_policy(bucket.target.url))
    bucket.backup(root)
    sealed = Repository.open(bucket.target, host=bucket.host)
    packs = {bytes.fromhex(name[-64:]) for name in bucket.target.list_prefix("packs/")}
    report = verify_stored(sealed, dict.fromkeys(packs, 0), hashes=True)
    assert (report.good, report.points, report.packs, report.packs_checked) == (True, 1, len(packs), 0)
    assert len(report.notes) == 3 and all("does not let this host" in note for note in report.notes)
    missing = os.urandom(32)
    report = verify_stored(sealed, {missing: 5})
    assert list(report.damaged_objects) == [f"packs/{missing.hex()[:2]}/{missing.hex()}"]
