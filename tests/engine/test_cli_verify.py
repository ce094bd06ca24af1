"""`trinity-snap verify` from the command line: shares, agents, damage named, and scrubbing without any key."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.conftest import Store
from tests.engine.test_healing import make_tree
from tests.unit.test_cli_json import assert_same_shape, documented
from tests.unit.test_cli_repository import Host, host, make_host, repository
from trinity_snap.progress import NullProgress
from trinity_snap.repository.copies import put_copy_note
from trinity_snap.repository.fences import put_fence
from trinity_snap.repository.keys import generate_identity
from trinity_snap.repository.receipts import put_checks
from trinity_snap.repository.recipients import add_recipient
from trinity_snap.repository.scrub import scrub
from trinity_snap.targets import LocalTarget

__all__ = ["host", "make_host", "repository"]  # fixtures


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def test_shares_points_and_agents(host: Host, repository: str) -> None:
    first, second = host.back_up("web"), host.back_up("db")
    packs = len(list(Path(repository, "packs").glob("*/*")))
    assert host.json("status")["data_checked"] == {"packs": packs, "never": packs, "damaged": 0, "complete_since": None}
    assert "never read" in host.text("status")
    some = host.json("verify", "--read-data", "1%")
    assert (some["packs_read"], some["read_data"], some["good"]) == (1, True, True)
    assert host.json("verify")["packs_read"] == 0
    assert host.json("verify", "--read-data", second[:8])["points"][0]["id"] == second
    of_one = host.json("verify", "--agent", "web", "--read-data")
    assert [point["id"] for point in of_one["points"]] == [first]
    assert 1 <= of_one["packs_read"] == of_one["packs_checked"] < packs
    assert host.json("verify", "--agent", "nobody", code=2)["error"] == "AgentMissing"
    for wrong in ("0%", "101%", "5%5"):
        assert host.json("verify", "--read-data", wrong, code=2)["error"] == "UsageError"
    assert host.json("verify", "--read-data")["packs_read"] == packs
    assert_same_shape(host.json("status"), documented("status"))
    assert "All data was read" in host.text("status")


def test_damage_is_named_with_those_whom_it_concerns(host: Host, repository: str) -> None:
    point, other = host.back_up("web"), host.back_up("db")
    concerned = {point, other}
    for path in sorted(Path(repository, "packs").glob("*/*")):
        original = path.read_bytes()
        flip(path)
        answer = host.json("verify", "--read-data", code=90)
        assert_same_shape(answer, documented("verify"))
        (damaged,) = answer["damaged_objects"]
        assert damaged["name"] == f"packs/{path.parent.name}/{path.name}"
        bad = {one["id"]: one["agent"] for one in answer["points"] if not one["good"]}
        assert set(damaged["points"]) == bad.keys() <= concerned
        assert set(damaged["agents"]) == set(bad.values())
        assert damaged["points_affected"] == len(bad) >= 1
        text = host.text("verify", "--read-data", code=90)
        assert damaged["name"] in text
        assert "needed by" in text
        assert "1 packs were damaged" in host.text("status")
        path.write_bytes(original)
    assert host.json("verify", "--read-data")["good"]
    assert host.json("status")["data_checked"]["damaged"] == 0


def test_whoever_can_read_the_storage_scrubs_it_without_policy_and_keys(
    host: Host, repository: str, tmp_path: Path
) -> None:
    host.back_up()
    host.policy.unlink()
    answer = host.json("verify", "--hashes", "--target", repository)
    assert_same_shape(answer, documented("verify"))
    assert (answer["good"], answer["opened"]) == (True, False)
    assert answer["packs_checked"] == len(list(Path(repository, "packs").glob("*/*")))
    assert answer["bytes_read"] > 0
    damaged = sorted(Path(repository, "packs").glob("*/*"))[0]
    flip(damaged)
    assert [
        one["name"] for one in host.json("verify", "--hashes", "--target", repository, code=90)["damaged_objects"]
    ] == [f"packs/{damaged.parent.name}/{damaged.name}"]
    assert host.json("verify", "--hashes", "--target", str(tmp_path / "empty"), code=1)["error"] == "TargetError"


@pytest.mark.parametrize("how", ["truncated", "emptied", "of another kind", "of another repository"])
def test_a_scrub_names_every_kind_of_object(store: Store, make_store, tmp_path: Path, how: str) -> None:
    other = make_store("other")
    for one in (store, other):
        one.backup(make_tree(tmp_path / "tree"))
        add_recipient(one.target(), one.host, one.operator, generate_identity("late").recipient)
        put_fence(one.target(), one.host, [bytes(32)])
        put_checks(one.target(), one.host, {bytes(32): 1}, {})
        put_copy_note(one.target(), one.host.repository_id, ["0" * 32])
    target = LocalTarget(store.directory)
    assert scrub(target, NullProgress()).good
    kinds = {name.partition("/")[0]: name for name in sorted(store.objects(""))}
    assert len(kinds) == 9
    for kind, name in kinds.items():
        if kind == "repository" or (kind == "copies" and how == "of another repository"):
            continue
        path = store.directory / name
        data = path.read_bytes()
        theirs = (other.directory / sorted(other.objects(f"{kind}/"))[0]).read_bytes()
        harmed = {
            "truncated": data[:-2],
            "emptied": b"",
            "of another kind": (store.directory / kinds["points" if kind != "points" else "index"]).read_bytes(),
            "of another repository": theirs,
        }[how]
        path.chmod(0o600)
        path.write_bytes(harmed)
        assert list(scrub(target, NullProgress()).damaged_objects) == [name], kind
        path.write_bytes(data)
    (store.directory / kinds["sessions"]).unlink()
    assert list(scrub(target, NullProgress()).damaged_objects) == [kinds["sessions"]]
