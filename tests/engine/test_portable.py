"""Trinity's portable data: out of any recovery point, into any agent, with all that it had; and nothing outside."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from tests.engine.conftest import Store
from trinity_snap.backup.engine import AgentPoint, Engine, SourceSpec
from trinity_snap.errors import RestoreRefused, TrinitySnapError, UsageError
from trinity_snap.progress import NullProgress
from trinity_snap.repository.points import RecoveryPoint
from trinity_snap.restore import execute, plan_restore
from trinity_snap.restore.names import new_restore_id
from trinity_snap.restore.signals import Interruption
from trinity_snap.restore.swap import Part, swap_in
from trinity_snap.snapshot.view import DirectoryView
from trinity_snap.trinity.declared import left_out
from trinity_snap.trinity.portable import Exported, export_portable
from trinity_snap.trinity.portable_import import Contents, Home, ImportPlan, look_through, write_tar

HOME = "/home/developer"


def back_up(store: Store, home: Path, *, kind: str = "volume", selection: tuple[str, ...] = ()) -> RecoveryPoint:
    source = SourceSpec(
        "agent-web-workspace" if kind == "volume" else str(home), kind, str(home), HOME, selection=selection
    )
    repository = store.open()
    with Engine(repository, store.cache) as engine:
        exclude = (left_out(selection),) if selection else ()
        shipped = engine.ship(source, DirectoryView(home), 1_900_000_000_000_000_000, exclude)
        point = AgentPoint("web", "host", "0" * 32, 1_900_000_000_000_000_000, "none", "directory", "file-consistent")
        committed = engine.commit(point, [(source, shipped)])
    return repository.read_point(committed.id)


def export(store: Store, point: RecoveryPoint, file: Path) -> Exported:
    with file.open("wb") as out:
        return export_portable(point, store.open().reader(point), out, NullProgress())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    data = home / "data"
    (data / "empty").mkdir(parents=True)
    (home / ".trinity").mkdir()
    (home / ".trinity/data-paths.yaml").write_text("data_paths: ['data/**']\n")
    (home / ".env").write_text("SECRET=1")
    (data / "small").write_bytes(b"content")
    (data / "large.bin").write_bytes(os.urandom(5_000_000))
    with (data / "holes").open("wb") as file:
        file.write(b"begin")
        file.truncate(9_000_000)
        file.seek(8_000_000)
        file.write(b"end")
    os.link(data / "small", data / "twin")
    (data / "link").symlink_to("/home/developer/data/small")
    (data / "dangling").symlink_to("../../../outside")
    (data / os.fsdecode(b"caf\xe9\n")).write_bytes(b"x")
    os.mkfifo(data / "fifo")
    (data / "tool").write_bytes(b"#!")
    (data / "tool").chmod(0o4751)
    os.setxattr(data / "small", "user.note", b"\x00\xff=\n")
    (data / "private").mkdir(mode=0o700)
    for name in ("small", "private", "link"):
        os.utime(data / name, ns=(1_234_567_890_123_456_789,) * 2, follow_symlinks=False)
    return home


def tree(root: Path) -> dict[str, object]:
    """Everything about a tree that a portable tar keeps."""
    found: dict[str, object] = {}
    inodes: dict[int, str] = {}
    for path in sorted([root, *root.rglob("*")]):
        status = path.lstat()
        content: object = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = (path.read_bytes(), inodes.setdefault(status.st_ino, str(path.relative_to(root))))
        xattrs = {
            name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
        }
        mode = 0 if path.is_symlink() else status.st_mode
        dated = path.name in ("small", "private", "link")
        found[str(path.relative_to(root))] = (mode, content, xattrs, status.st_mtime_ns if dated else 0)
    return found


def put_in(file: Path, live: Path, state: Path, write: Callable[[Part, IO[bytes]], object] | None = None) -> ImportPlan:
    """Import into a directory that no container uses."""
    with file.open("rb") as opened:
        contents = look_through(opened)
        plan = ImportPlan(
            new_restore_id(), "web", state, Home(str(live), "path", live), file, contents, (live / "data").exists()
        )

        def default(part: Part) -> None:
            write_tar(part, opened, NullProgress())

        def other(part: Part) -> None:
            assert write is not None
            write(part, opened)

        swap_in(plan, None, Interruption(), default if write is None else other)
    return plan


def test_what_is_exported_and_imported_is_what_it_was(store: Store, home: Path, tmp_path: Path):
    point = back_up(store, home)
    done = export(store, point, tmp_path / "x.tar")
    assert done.data_paths == ["data"]
    live = tmp_path / "live"
    (live / "data/old").mkdir(parents=True)
    (live / "code").write_text("stays")
    plan = put_in(tmp_path / "x.tar", live, tmp_path / "state")
    assert tree(live / "data") == tree(home / "data")
    assert (live / "code").read_text() == "stays"
    assert (plan.contents.files, plan.contents.bytes) == (done.files, done.bytes)
    (kept,) = tmp_path.glob(".trinity-snap-previous-*")
    assert (kept / "data/data/old").is_dir(), "what was there is kept"


def test_the_tar_is_what_trinity_reads(store: Store, home: Path, tmp_path: Path):
    point = back_up(store, home)
    export(store, point, tmp_path / "x.tar")
    with tarfile.open(tmp_path / "x.tar") as tar:
        names = tar.getnames()
        manifest = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]  # it is a file
    assert all(name == "manifest.json" or name == "data" or name.startswith("data/") for name in names)
    assert set(manifest) >= {
        "format_version",
        "agent_name",
        "exported_at",
        "data_root",
        "data_paths",
        "trinity_version",
    }
    assert (manifest["format_version"], manifest["agent_name"], manifest["data_root"]) == (1, "web", "data/")


def test_an_agent_without_data_gives_a_tar_with_a_manifest_only(store: Store, tmp_path: Path):
    (tmp_path / "bare").mkdir()
    done = export(store, back_up(store, tmp_path / "bare"), tmp_path / "x.tar")
    assert (done.entries, len(done.notes)) == (0, 1)
    with (tmp_path / "x.tar").open("rb") as file:
        assert look_through(file).entries == 0


def test_a_point_without_a_home_is_not_exported(store: Store, tmp_path: Path):
    (tmp_path / "tree").mkdir()
    committed = store.backup(tmp_path / "tree")
    with pytest.raises(UsageError, match="has no home"):
        export(store, store.open().read_point(committed.id), tmp_path / "x.tar")


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", content: bytes = b""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    return info, content


def make_tar(file: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in entries:
            tar.addfile(info, io.BytesIO(content))
    return file


HOSTILE = {
    "up": [entry("../evil")],
    "up in data": [entry("data/../../evil")],
    "absolute": [entry("/etc/evil")],
    "beside": [entry("code/x")],
    "prefix": [entry("database")],
    "empty part": [entry("data//x")],
    "through a link": [entry("data/l", tarfile.SYMTYPE, "/tmp"), entry("data/l/x")],
    "link for data": [entry("data", tarfile.SYMTYPE, "/tmp"), entry("data/x")],
    "file as directory": [entry("data/f"), entry("data/f/x")],
    "twice": [entry("data/f"), entry("data/f")],
    "link over a directory": [
        entry("data/d", tarfile.DIRTYPE),
        entry("data/d", tarfile.SYMTYPE, "/tmp"),
        entry("data/d/x"),
    ],
    "hard link out": [entry("data/h", tarfile.LNKTYPE, "../../etc/passwd")],
    "hard link absolute": [entry("data/h", tarfile.LNKTYPE, "/etc/passwd")],
    "hard link to a link": [
        entry("data/l", tarfile.SYMTYPE, "/etc/passwd"),
        entry("data/h", tarfile.LNKTYPE, "data/l"),
    ],
    "hard link to nothing": [entry("data/h", tarfile.LNKTYPE, "data/none")],
    "device": [entry("data/d", tarfile.CHRTYPE)],
    "format": [entry("manifest.json", content=b'{"format_version": 2}')],
    "manifest": [entry("manifest.json", content=b"[]")],
    "two manifests": [entry("manifest.json", content=b'{"format_version": 1}')] * 2,
    "nothing": [],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_tar_is_refused_and_nothing_is_changed(case: str, tmp_path: Path):
    file = make_tar(tmp_path / "x.tar", *HOSTILE[case])
    live = tmp_path / "a/b/live"
    (live / "data").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RestoreRefused):
        put_in(file, live, tmp_path / "state")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_tar_that_changes_after_it_was_looked_through_is_refused_all_the_same(tmp_path: Path):
    good = make_tar(tmp_path / "x.tar", entry("data/f", content=b"x"))
    bad = make_tar(
        tmp_path / "y.tar", entry("data/l", tarfile.SYMTYPE, str(tmp_path)), entry("data/l/evil", content=b"x")
    )
    live = tmp_path / "live"
    (live / "data").mkdir(parents=True)

    def other(part: Part, _: IO[bytes]) -> Contents:
        with bad.open("rb") as file:
            return write_tar(part, file, NullProgress())

    with pytest.raises(RestoreRefused, match="lead through"):
        put_in(good, live, tmp_path / "state", other)
    assert not (tmp_path / "evil").exists()
    assert [path.name for path in live.parent.glob(".trinity-snap-*")] == []


def test_a_tar_that_is_cut_anywhere_is_refused(store: Store, tmp_path: Path):
    file = make_tar(tmp_path / "x.tar", entry("data/a", content=b"1" * 700), entry("data/z", content=bytes(600)))
    whole = file.read_bytes()
    end = whole.rstrip(b"\0")
    for length in (0, 100, 511, 512, 1024, 1536, 2048, len(end), 512 * 5 - 1, 512 * 5):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        with pytest.raises(TrinitySnapError), (tmp_path / "cut.tar").open("rb") as opened:
            look_through(opened)


def test_a_part_of_a_home_goes_back_without_touching_the_rest(store: Store, home: Path, tmp_path: Path):
    point = back_up(store, home, kind="path", selection=("data", ".trinity/data-paths.yaml"))
    assert point.volumes[0].selected == ("data", ".trinity/data-paths.yaml")
    assert point.volumes[0].files < sum(1 for path in home.rglob("*") if path.is_file())
    (home / "data/small").write_text("changed")
    (home / "data/new").write_text("new")
    (home / "code").write_text("not declared")
    with pytest.raises(RestoreRefused, match="the rest of the volume would go"):
        plan_restore(store.open(), point, state_dir=tmp_path / "state", in_place=True)
    plan = plan_restore(store.open(), point, state_dir=tmp_path / "state")
    assert any("the rest of it stays" in warning for warning in plan.warnings)
    execute(plan, store.open())
    assert (home / "data/small").read_bytes() == b"content"
    assert not (home / "data/new").exists(), "what is declared is as it was"
    assert (home / ".env").read_text() == "SECRET=1"
    assert (home / "code").read_text() == "not declared"
