"""`restore --salvage` gives back all that can be read, and says exactly what cannot; nothing shortened is put in place."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_backup_engine import on_disk
from tests.engine.test_healing import DAMAGE
from tests.unit.test_cli_json import assert_same_shape, documented
from tests.unit.test_cli_repository import Host, host, make_host, repository
from trinity_snap.backup.engine import backup_tree
from trinity_snap.errors import IntegrityError
from trinity_snap.policy import load_policy
from trinity_snap.repository.identity import load_host_key
from trinity_snap.repository.manifest import Entry, PageReference
from trinity_snap.repository.reader import PointReader
from trinity_snap.repository.repository import Repository
from trinity_snap.targets import open_target

__all__ = ["host", "make_host", "repository"]  # fixtures

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="restoring needs root")


def name_of(number: int) -> str:
    return f"file-{number:04}"


class Victim:
    """A host with one point of a tree that has something of everything."""

    def __init__(self, host: Host, repository: str) -> None:
        self.host = host
        self.directory = Path(repository)
        self.tree = host.home / "tree"
        source = random.Random(7)
        for directory in ("a/deep", "b", "c"):
            (self.tree / directory).mkdir(parents=True)
        for number in range(300):  # with their long targets the links make several pages of manifest
            (self.tree / "b" / name_of(number)).write_bytes(b"%d" % number)
            (self.tree / "b" / f"{name_of(number)}-link").symlink_to("x/" * 2000)
        (self.tree / "a" / "deep" / "large").write_bytes(source.randbytes(5_000_000))
        (self.tree / "c" / "other").write_bytes(source.randbytes(1_000_000))
        os.link(self.tree / "a" / "deep" / "large", self.tree / "c" / "linked")
        with (self.tree / "sparse").open("wb") as file:
            file.seek(3_000_000)
            file.write(source.randbytes(1_500_000))
            file.truncate(6_000_000)
        policy = load_policy(host.policy)
        keys = load_host_key(policy.keys.host_key)
        self.target = open_target(policy.target.settings())
        backup_tree(Repository.open(self.target, host=keys), host.home / "cache", self.tree, agent="web")

    def open(self) -> PointReader:
        from trinity_snap.cli.context import Unlock, open_repository

        opened = open_repository(load_policy(self.host.policy), Unlock())
        self.volume = opened.resolve("latest").volumes[0]
        return opened.reader(opened.resolve("latest"))

    def spoil_chunk(self, chunk_id: bytes) -> str:
        (read,) = self.open().plan_reads((chunk_id,))
        path = self.directory / read.pack
        data = bytearray(path.read_bytes())
        data[read.offset + read.length // 2] ^= 1
        path.chmod(0o600)
        path.write_bytes(bytes(data))
        return read.pack

    def salvage(self, code: int = 12, *options: str) -> dict[str, Any]:
        to = self.host.home / "out"
        return self.host.json("restore", "web", "--to", str(to), "--salvage", *options, code=code)

    def check(self, answer: dict[str, Any]) -> dict[str, bytes]:
        """What was restored is what was backed up, and what was not is in the list. Return it."""
        places = [path for path in (self.host.home / "out").iterdir() if path.is_dir()]
        assert len(places) == 1 or answer["lost"]["pages"]  # of which none is there, there is no directory
        restored, expected = on_disk(places[0]) if places else {}, on_disk(self.tree)
        report = json.loads(Path(answer["report"]).read_text())
        listed = {file["path"] for file in report["files"]}
        missing = expected.keys() - restored.keys()
        pages = answer["lost"]["pages"]
        assert {path: expected[path] for path in restored} == restored
        assert listed <= missing
        for path in missing - listed:
            assert any(page["from"] <= path and (page["before"] is None or path < page["before"]) for page in pages), (
                path
            )
        assert report["files"][:1000] == answer["lost"]["files"]
        assert len(report["files"]) == answer["lost"]["files_lost"]
        assert Path(answer["report"]).stat().st_mode & 0o777 == 0o600
        return restored


@pytest.fixture
def victim(host: Host, repository: str) -> Victim:
    return Victim(host, repository)


def test_of_an_intact_point_everything_comes_back_and_nothing_is_listed(victim: Victim) -> None:
    answer = victim.salvage(0)
    assert answer["outcome"] == "restored"
    assert answer["report"] is None
    (place,) = (victim.host.home / "out").iterdir()
    assert on_disk(place) == on_disk(victim.tree)


@pytest.mark.parametrize("path", ["a/deep/large", "sparse", f"b/{name_of(7)}"])
def test_a_file_of_which_bytes_are_lost_is_left_out_and_its_bytes_are_named(victim: Victim, path: str) -> None:
    reader = victim.open()
    entry = reader.entry(victim.volume, path.encode())
    assert entry is not None
    ids = entry.chunk_ids()
    reads = [reader.plan_reads((one,))[0] for one in ids]
    alone = [number for number, read in enumerate(reads) if read.data_length == read.chunks[0][2]]
    number = alone[len(alone) // 2] if alone else 0  # chunks below 256 KiB share their segments
    begin = sum(reader.plan_reads((one,))[0].chunks[0][2] for one in ids[:number])
    length = reader.plan_reads((ids[number],))[0].chunks[0][2]
    victim.spoil_chunk(ids[number])
    answer = victim.salvage()
    assert_same_shape(answer, documented("restore", 3))
    restored = victim.check(answer)
    assert answer["outcome"] == "salvaged"
    assert path not in restored
    lost = {file["path"]: file for file in answer["lost"]["files"]}
    offset = 3_000_000 if path == "sparse" else 0
    hole = os.SEEK_DATA if path == "sparse" else None
    assert lost[path]["size"] == (victim.tree / path).stat().st_size
    if hole is None:
        assert lost[path]["ranges"] == [[offset + begin, length]]
    else:
        assert sum(amount for _, amount in lost[path]["ranges"]) == length
        assert all(offset - 4096 <= start < 4_504_096 for start, _ in lost[path]["ranges"])
    if path == "a/deep/large":
        assert lost.keys() == {path, "c/linked"}
    text = victim.host.text("restore", "web", "--to", str(victim.host.home / "again"), "--salvage", code=12)
    assert f"{path}" in text
    assert "NOT EVERYTHING" in text
    # Without being asked to, a restore says the same with its own exit code, and as before leaves out what is lost.
    assert (
        victim.host.json("restore", "web", "--to", str(victim.host.home / "third"), code=90)["error"]
        == "IntegrityError"
    )


def test_names_that_are_lost_with_a_page_of_the_manifest_are_counted_and_the_rest_comes_back(victim: Victim) -> None:
    reader = victim.open()
    pages = reader.pages(victim.volume)
    assert len(pages) >= 3
    original = PointReader.page

    def page(self: PointReader, reference: PageReference) -> list[Entry]:
        if reference.page_id == lost_page.page_id:
            raise IntegrityError("A chunk is damaged.")
        return original(self, reference)

    for number in (0, len(pages) // 2, len(pages) - 1):
        lost_page = pages[number]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PointReader, "page", page)  # the pages of so small a tree share a segment
            answer = victim.salvage()
        (lost,) = answer["lost"]["pages"]
        assert (lost["from"], lost["entries"]) == (os.fsdecode(lost_page.first_path), lost_page.entries)
        restored = victim.check(answer)
        assert len(restored) >= len(on_disk(victim.tree)) - lost_page.entries - 1
        made = {one["path"] for one in answer["lost"]["directories"]}
        assert len(made) == answer["lost"]["directories_made"]
        assert ({"", "b"} <= made) == (number == 0)
        shutil.rmtree(victim.host.home / "out")


@pytest.mark.parametrize("how", ["a bit in a segment", "a bit in the table", "missing"])
def test_whatever_is_done_to_whichever_pack_the_list_is_exact(victim: Victim, how: str) -> None:
    for path in sorted(victim.directory.glob("packs/*/*")):
        original = path.read_bytes()
        data = DAMAGE[how](original)
        path.unlink()
        if data is not None:
            path.write_bytes(data)
        answer = victim.salvage(0 if how == "a bit in the table" else 12)  # the index says the same as the table
        if how == "a bit in the table":
            (place,) = (victim.host.home / "out").iterdir()
            assert on_disk(place) == on_disk(victim.tree)
        elif answer["lost"]["volumes"]:
            assert list((victim.host.home / "out").iterdir()) == [Path(answer["report"])]
        else:
            victim.check(answer)
        shutil.rmtree(victim.host.home / "out")
        path.write_bytes(original)


def test_nothing_live_is_replaced_by_parts(victim: Victim) -> None:
    for options in (("--in-place",), ("--path", "/x")):
        assert victim.host.json("restore", "web", "--salvage", *options, code=2)["error"] == "UsageError"
