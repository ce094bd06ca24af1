"""Restoring over what is live, without Docker: paths of the host; exchanged whole, in place, or in part."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.conftest import Store
from tests.engine.fidelity import (
    Facts,
    FakeReader,
    TreeRepository,
    assert_same,
    directory,
    facts,
    fake_point,
    fake_volume,
    make_everything,
)
from tests.engine.test_restore_tree import build, needs_root, trees
from trinity_snap.errors import IntegrityError, RestoreError, RestoreRefused, UsageError
from trinity_snap.progress import NullProgress
from trinity_snap.repository.points import RecoveryPoint
from trinity_snap.restore import execute, list_kept, plan_restore, release, resume_restores
from trinity_snap.restore.directories import remove_tree
from trinity_snap.restore.journal import STEPS
from trinity_snap.restore.system import exchange


@pytest.fixture
def repository(store: Store) -> TreeRepository:
    return TreeRepository(store)


@dataclass
class Host:
    """Two live paths, a point of how they were, and what has become of them since."""

    data: Path
    file: Path
    state: Path
    repository: TreeRepository
    point: RecoveryPoint
    then: tuple[dict[bytes, Facts], dict[bytes, Facts]]
    now: tuple[dict[bytes, Facts], dict[bytes, Facts]]

    def look(self) -> tuple[dict[bytes, Facts], dict[bytes, Facts]]:
        return look(self.data), look(self.file)

    def restore(self, **wishes):
        plan = plan_restore(self.repository, self.point, state_dir=self.state, **wishes)
        return execute(plan, self.repository)

    def ours(self) -> list[str]:
        return sorted(name for name in os.listdir(self.data.parent) if name.startswith(".trinity-snap"))


def look(path: Path) -> dict[bytes, Facts]:
    return facts(path) if os.path.lexists(path) else {}


def fill(data: Path) -> None:
    (data / "same/deep").mkdir(parents=True)
    (data / "same/deep/file").write_bytes(b"the same" * 9)
    (data / "changed").write_bytes(b"before")
    (data / "gone").write_bytes(b"gone")
    (data / "dir-gone/inner").mkdir(parents=True)
    (data / "dir-gone/inner/file").write_bytes(b"x" * 300_000)
    (data / "becomes-link").mkdir()
    (data / "becomes-link/file").write_bytes(b"y")
    (data / "link-becomes-file").symlink_to("changed")
    (data / "touched").write_bytes(b"touched")
    (data / "linked").write_bytes(b"two names")
    os.link(data / "linked", data / "same/linked")
    (data / "linked2").write_bytes(b"two other names")
    os.link(data / "linked2", data / "same/linked2")
    with (data / "sparse").open("wb") as file:
        file.seek(5_000_000)
        file.write(b"end" * 5000)
    os.mkfifo(data / "fifo")
    (data / b"\xff-name".decode(errors="surrogateescape")).write_bytes(b"odd")
    os.utime(data, ns=(1, 1_500_000_000_123_456_789))
    os.utime(data / "same", ns=(1, 1_400_000_000_123_456_789))


def spoil(data: Path) -> None:
    (data / "changed").write_bytes(b"after it")
    (data / "gone").unlink()
    shutil.rmtree(data / "dir-gone")
    shutil.rmtree(data / "becomes-link")
    (data / "becomes-link").symlink_to("/etc")
    (data / "link-becomes-file").unlink()
    (data / "link-becomes-file").write_text("a file now")
    os.utime(data / "touched", ns=(5, 5))
    (data / "linked").unlink()
    (data / "linked").write_bytes(b"two names")
    (data / "linked2").write_bytes(b"two other namez")
    (data / "new-dir/inner").mkdir(parents=True)
    (data / "new-dir/inner/file").write_bytes(b"new")
    (data / "same/deep/new").write_bytes(b"new")
    with (data / "sparse").open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"no hole any more")
    os.chmod(data, 0o711)


@pytest.fixture
def host(repository: TreeRepository, tmp_path: Path) -> Host:
    live = tmp_path / "live"
    data, file = live / "data", live / "settings.env"
    data.mkdir(parents=True)
    fill(data)
    file.write_text("KEY=1\n")
    os.chmod(file, 0o600)
    point = repository.point(data, file)
    then = look(data), look(file)
    spoil(data)
    file.write_text("KEY=2\n")
    return Host(data, file, tmp_path / "state", repository, point, then, (look(data), look(file)))


def assert_state(expected: tuple, actual: tuple) -> None:
    for one, other in zip(expected, actual, strict=True):
        assert_same(one, other)


def test_exchanged_whole_and_the_previous_kept(host: Host) -> None:
    result = host.restore()
    assert_state(host.then, host.look())
    assert len(result.previous) == 2
    assert_same(host.now[0], facts(result.previous[0] / "data"))
    assert_same(host.now[1], facts(result.previous[1] / "data"))
    (kept,) = list_kept(host.state)
    assert kept.paths == result.previous
    assert kept.agent == "platform"
    json.dumps([result.to_json(), kept.to_json()])
    assert release(host.state, "platform") == [kept]
    assert host.ours() == []
    assert list_kept(host.state) == []
    assert list((host.state / "restores").iterdir()) == []
    with pytest.raises(RestoreRefused):
        release(host.state, "platform")


def test_what_is_missing_is_made(host: Host) -> None:
    shutil.rmtree(host.data.parent)
    result = host.restore()
    assert_state(host.then, host.look())
    assert result.previous == ()
    assert host.ours() == []
    assert list_kept(host.state) == []


def test_in_place_writes_only_what_differs(host: Host) -> None:
    inodes = {name: os.lstat(host.data / name).st_ino for name in ("same/deep/file", "fifo", "same/deep")}
    plan = plan_restore(host.repository, host.point, state_dir=host.state, in_place=True)
    assert (plan.volumes[0].removed, plan.volumes[1].how) == (2, "swap")
    result = host.restore(in_place=True)
    assert_state(host.then, host.look())
    assert inodes == {name: os.lstat(host.data / name).st_ino for name in inodes}
    previous = result.previous[0] / "data"
    assert (previous / "changed").read_bytes() == b"after it"
    assert (previous / "new-dir/inner/file").read_bytes() == b"new"
    assert (previous / "same/deep/new").read_bytes() == b"new"
    assert not (previous / "same/deep/file").exists()
    again = host.restore(in_place=True)
    assert_state(host.then, host.look())
    assert again.plan.volumes[0].kept == len(host.then[0])
    assert again.plan.volumes[0].created == again.plan.volumes[0].replaced == again.plan.volumes[0].removed == 0


def test_in_place_sees_content_that_hides_behind_the_same_size_and_time(host: Host) -> None:
    host.restore()
    status = os.stat(host.data / "dir-gone/inner/file")
    (host.data / "dir-gone/inner/file").write_bytes(b"z" * 300_000)
    os.utime(host.data / "dir-gone/inner/file", ns=(status.st_atime_ns, status.st_mtime_ns))
    host.restore(in_place=True)
    assert_state(host.then, host.look())


def test_only_the_chosen_paths(host: Host) -> None:
    data = host.data
    before = os.stat(data).st_mtime_ns
    result = host.restore(paths=[f"{data}/changed", f"{data}/dir-gone/inner", f"{data}/becomes-link/"])
    assert (data / "changed").read_bytes() == b"before"
    assert (data / "dir-gone/inner/file").stat().st_size == 300_000
    assert (data / "becomes-link/file").read_bytes() == b"y"
    assert not (data / "gone").exists()
    assert (data / "touched").stat().st_mtime_ns == 5
    assert os.stat(data).st_mtime_ns == before
    (previous,) = result.previous
    assert (previous / "data/changed").read_bytes() == b"after it"
    assert os.readlink(previous / "data/becomes-link") == "/etc"
    for path in (b"dir-gone", b"dir-gone/inner", b"changed"):
        assert host.look()[0][path] == host.then[0][path]


def test_a_chosen_path_behind_a_link_is_refused(host: Host) -> None:
    with pytest.raises(RestoreRefused, match="no directory any more"):
        host.restore(paths=[f"{host.data}/becomes-link/file"])
    assert_state(host.now, host.look())


def test_chosen_paths_that_are_not_there(host: Host) -> None:
    with pytest.raises(UsageError, match="no “nothing”"):
        host.restore(paths=["nothing"])


def test_into_a_directory(host: Host, tmp_path: Path) -> None:
    result = host.restore(to=tmp_path / "to")
    assert_state(host.now, host.look())
    names = sorted(os.listdir(tmp_path / "to"))
    assert len(names) == 2
    assert_same(host.then[0], facts(tmp_path / "to" / names[0]))
    assert_same(host.then[1], facts(tmp_path / "to" / names[1]))
    assert result.previous == ()
    with pytest.raises(RestoreRefused, match="not empty"):
        host.restore(to=tmp_path / "to")


def test_parts_into_a_directory(host: Host, tmp_path: Path) -> None:
    host.restore(to=tmp_path / "to", paths=["dir-gone/inner/file", "same/deep"])
    (name,) = os.listdir(tmp_path / "to")
    assert sorted(str(path.relative_to(tmp_path / "to" / name)) for path in (tmp_path / "to").rglob("*")) == [
        ".", "dir-gone", "dir-gone/inner", "dir-gone/inner/file", "same", "same/deep", "same/deep/file",
    ]  # fmt: skip


def test_a_plan_changes_nothing(host: Host) -> None:
    for wishes in ({}, {"in_place": True}, {"paths": [f"{host.data}/changed"]}, {"to": host.state / "x"}):
        plan = plan_restore(host.repository, host.point, state_dir=host.state, **wishes)
        assert plan.lines()
        json.dumps(plan.to_json())
    assert_state(host.now, host.look())
    assert not host.state.exists()


def test_wishes_that_make_no_sense(host: Host, tmp_path: Path) -> None:
    for wishes in (
        {"to": tmp_path / "to", "in_place": True},
        {"as_name": "x", "in_place": True},
        {"paths": ["changed"], "in_place": True},
        {"to": tmp_path / "to", "containers": True},
        {"as_name": "../x"},
        {"as_name": "clone"},
    ):
        with pytest.raises(UsageError):
            host.restore(**wishes)


def test_unreadable_data_leaves_everything_as_it_was(host: Host) -> None:
    for pack in host.repository.store.directory.glob("packs/*/*"):
        data = bytearray(pack.read_bytes())
        if len(data) > 100:
            data[200:220] = bytes(20)
            pack.chmod(0o600)
            pack.write_bytes(data)
    for wishes in ({}, {"in_place": True}):
        with pytest.raises(IntegrityError):
            host.restore(**wishes)
        assert_state(host.now, host.look())
        assert host.ours() == []
        assert list((host.state / "restores").iterdir()) == []


def damaged_fake(tmp_path: Path) -> tuple[FakeReader, RecoveryPoint]:
    reader = FakeReader()
    good, bad = reader.file(b"good", b"good"), reader.file(b"unlucky", b"bad")
    reader.unreadable.add(bad.chunks)
    reader.missing.add(bad.chunks)
    name = str(tmp_path / "live")
    reader.volumes[name] = [directory(b""), good, bad]
    return reader, fake_point([fake_volume(name, kind="path", source=name)])


def test_damage_is_named_and_fatal_where_data_is_live(tmp_path: Path) -> None:
    reader, point = damaged_fake(tmp_path)
    (tmp_path / "live").mkdir()
    (tmp_path / "live/file").write_text("live")
    plan = plan_restore(reader, point, state_dir=tmp_path / "state")
    with pytest.raises(IntegrityError, match="unlucky"):
        execute(plan, reader)
    assert os.listdir(tmp_path / "live") == ["file"]
    assert sorted(os.listdir(tmp_path)) == ["live", "state"]


def test_damage_costs_only_itself_in_a_directory(tmp_path: Path) -> None:
    reader, point = damaged_fake(tmp_path)
    plan = plan_restore(reader, point, state_dir=tmp_path / "state", to=tmp_path / "to")
    with pytest.raises(IntegrityError, match="unlucky"):
        execute(plan, reader)
    assert [path.name for path in (tmp_path / "to").rglob("*") if path.is_file()] == ["good"]


def test_no_room(host: Host, tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(mount)], check=True)
    try:
        with pytest.raises(RestoreRefused, match="not enough room"):
            host.restore(to=mount)
        assert os.listdir(mount) == []
        # The sizes say that it fits, and then it does not: what was written is removed again.
        plan = plan_restore(host.repository, host.point, state_dir=host.state, to=mount)
        with pytest.raises(RestoreError, match="full"):
            execute(_without_check(plan), host.repository)
        assert os.listdir(mount) == []
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def _without_check(plan):
    from dataclasses import replace

    return replace(plan, space=())


@needs_root
def test_a_mount_point_keeps_its_place(host: Host, tmp_path: Path) -> None:
    """What is a filesystem of its own cannot be renamed: its contents are exchanged."""
    shutil.rmtree(host.data)
    host.data.mkdir()
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(100 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-I", "256", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(host.data)], check=True)
    try:
        shutil.rmtree(host.data / "lost+found")
        fill(host.data)
        spoil(host.data)
        now = look(host.data)
        result = host.restore()
        assert result.plan.volumes[0].how == "contents"
        previous = result.previous[0].relative_to(host.data)
        assert os.path.ismount(host.data)
        ignore = [os.fsencode(path.relative_to(host.data)) for path in host.data.rglob(f"{previous}/**/*")]
        ignore += [os.fsencode(previous), os.fsencode(previous / "data")]
        found = facts(host.data, layout=False, ignore=ignore)
        then = {path: _flat(each) for path, each in host.then[0].items()}
        assert_same(then, found)
        kept = facts(host.data / previous / "data", layout=False)
        assert_same({path: _flat(each) for path, each in now.items() if path}, {p: e for p, e in kept.items() if p})
        again = host.restore(in_place=True)
        assert again.plan.volumes[0].removed == 0
        release(host.state, "platform")
        assert_same(then, facts(host.data, layout=False))
    finally:
        subprocess.run(["umount", str(host.data)], check=True)


def _flat(each: Facts) -> Facts:
    from dataclasses import replace

    return replace(each, data_layout=())


# -- in place, any two trees --------------------------------------------------------------------------------------------


@needs_root
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large,
    ],
)  # fmt: skip
@given(wanted=trees, have=trees, mixed=st.booleans())
def test_in_place_makes_any_tree_any_other(
    repository: TreeRepository, tmp_path: Path, wanted: dict, have: dict, mixed: bool
) -> None:
    for name in (b"tree", b"state"):
        holder = os.open(tmp_path, os.O_RDONLY)
        remove_tree(holder, name)
        os.close(holder)
    live = tmp_path / "tree"
    build(os.fsencode(live), wanted, [])
    expected = facts(live)
    point = repository.point(live)
    shutil.rmtree(live)
    build(os.fsencode(live), {**have, **wanted} if mixed else have, [])
    now = facts(live)
    state = tmp_path / "state"
    execute(plan_restore(repository, point, state_dir=state, in_place=True), repository)
    assert_same(expected, facts(live))
    if list_kept(state):
        release(state, "platform")
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".trinity")]
    assert now is not None


@needs_root
def test_in_place_gives_back_everything(repository: TreeRepository, tmp_path: Path) -> None:
    live = tmp_path / "live"
    make_everything(live)
    shutil.copytree(
        live, tmp_path / "copy", symlinks=True, ignore=lambda _, names: [n for n in names if "special" in n]
    )
    expected = facts(live)
    point = repository.point(live)
    shutil.rmtree(live)
    os.rename(tmp_path / "copy", live)
    execute(plan_restore(repository, point, state_dir=tmp_path / "state", in_place=True), repository)
    # A file that has its bytes is left alone, holes or not.
    assert_same({path: _flat(each) for path, each in expected.items()}, facts(live, layout=False))


# -- crashes ------------------------------------------------------------------------------------------------------------


def crash(at: str, work: Callable[[], object]) -> bool:
    """Do the work in a child that kills itself at a step. Say whether it did."""
    child = os.fork()
    if not child:
        os.environ["TRINITY_SNAP_CRASH_AT"] = at
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


NO_DOCKER = {"restore.before-volume", "restore.volume-created", "restore.stop-noted", "restore.stopped"}
MODES: list[dict[str, object]] = [{}, {"in_place": True}]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("wishes", MODES, ids=["exchange", "in-place"])
@pytest.mark.parametrize("at", [step for step in STEPS if step not in NO_DOCKER])
def test_after_a_crash_all_is_old_or_all_is_new(host: Host, at: str, wishes: dict) -> None:
    assert crash(at, lambda: host.restore(**wishes))
    if at != "restore.started":
        with pytest.raises(RestoreRefused, match="recover"):
            host.restore()
    ended = resume_restores(host.state, None)
    old = STEPS.index(at) < STEPS.index("restore.swapping")
    assert [each.outcome for each in ended] == ["undone" if old else "finished"]
    assert_state(host.now if old else host.then, host.look())
    assert resume_restores(host.state, None) == []
    if old:
        assert host.ours() == []
        assert list((host.state / "restores").iterdir()) == []
    else:
        assert len(host.ours()) == 2
        release(host.state, "platform")
        assert host.ours() == []
        assert_state(host.then, host.look())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("wishes", MODES, ids=["exchange", "in-place"])
@pytest.mark.parametrize("first", ["restore.swapping", "restore.first-operation", "restore.volume-swapped"])
@pytest.mark.parametrize("second", ["restore.first-operation", "restore.volume-swapped", "restore.previous-kept"])
def test_crashes_while_a_crash_is_mended(host: Host, first: str, second: str, wishes: dict) -> None:
    assert crash(first, lambda: host.restore(**wishes))
    assert crash(second, lambda: resume_restores(host.state, None))
    resume_restores(host.state, None)
    assert_state(host.then, host.look())
    assert len(host.ours()) == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_crash_while_undoing(host: Host) -> None:
    assert crash("restore.staged", host.restore)
    assert crash("restore.undo-started", lambda: resume_restores(host.state, None))
    resume_restores(host.state, None)
    assert_state(host.now, host.look())
    assert host.ours() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_everything_as_it_was(host: Host, number: signal.Signals) -> None:
    class Killer(NullProgress):
        def stage(self, name: str, total: int | None = None) -> None:
            if name.startswith("check"):
                os.kill(os.getpid(), number)

    plan = plan_restore(host.repository, host.point, state_dir=host.state)
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else RestoreError):
        execute(plan, host.repository, None, Killer())
    assert_state(host.now, host.look())
    assert host.ours() == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_failing_exchange_is_undone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    real = exchange
    calls: list[bytes] = []

    def fail_second(*arguments) -> bool:
        calls.append(arguments[3])
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        return real(*arguments)

    monkeypatch.setattr("trinity_snap.restore.operations.exchange", fail_second)
    with pytest.raises(RestoreError, match="could not be put in place"):
        host.restore()
    assert len(calls) == 3
    assert_state(host.now, host.look())
    assert host.ours() == []


def test_without_the_exchange_of_the_kernel(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trinity_snap.restore.operations.exchange", lambda *_: False)
    result = host.restore(in_place=True)
    assert_state(host.then, host.look())
    assert (result.previous[0] / "data/changed").read_bytes() == b"after it"
