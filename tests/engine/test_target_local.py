"""The local directory as a target: the common behaviour, and what a filesystem can do to it."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.target_conformance import TargetConformance, flat_name, pack_name
from trinity_snap.errors import TargetDenied, TargetError, TargetFull, UsageError
from trinity_snap.targets import LocalTarget, Target, local, open_target

ROOT = Path(__file__).parents[2]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "target"


@pytest.fixture
def target(directory: Path) -> Target:
    return open_target(str(directory), create=True)


def temporaries(directory: Path) -> list[str]:
    return os.listdir(directory / ".tmp")


def python(code: str, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]  # options are passed on
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


class TestLocalTarget(TargetConformance):
    pass


class TestLocalTargetWithoutHardLinks(TargetConformance):
    """The same on a filesystem where link(2) does not work."""

    @pytest.fixture(autouse=True)
    def no_links(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)


def test_objects_are_read_only_and_directories_private(target: Target, directory: Path) -> None:
    old = os.umask(0)
    try:
        target.put_if_absent(pack_name(b"x"), b"x")
    finally:
        os.umask(old)
    for path in directory.rglob("*"):
        assert stat.S_IMODE(path.lstat().st_mode) == (0o700 if path.is_dir() else 0o400)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert temporaries(directory) == []


def test_whatever_else_lies_in_the_directory_is_not_listed(target: Target, directory: Path) -> None:
    name = flat_name()
    target.put_if_absent(name, b"x")
    for other in ("points/README", "points/" + "b" * 32 + "~", "lost+found", "packs", "fences"):
        (directory / other).touch()
    (directory / "points" / ("c" * 32)).mkdir()
    (directory / "points" / ("d" * 32)).symlink_to("/etc/hostname")
    (directory / ".tmp" / "left").touch()
    assert list(target.list_prefix("")) == [name]


def test_links_and_devices_in_place_of_objects_are_never_followed(target: Target, directory: Path) -> None:
    (directory / "points").mkdir()
    link, fifo, folder = (f"points/{letter * 32}" for letter in "abc")
    (directory / link).symlink_to("/etc/hostname")
    os.mkfifo(directory / fifo)
    (directory / folder).mkdir()
    for name in (link, fifo, folder):
        with pytest.raises(TargetError):
            target.get(name)
        with pytest.raises(TargetError):
            target.stat(name)
        assert target.put_if_absent(name, b"x") is False


@pytest.mark.parametrize(
    "url",
    ["", "relative/path", "ftp://host/prefix", "file://host/path", "file:relative", "ssh://h/p", "/a\0b"],
)
def test_other_targets_are_refused_with_what_is_supported(url: str) -> None:
    with pytest.raises(UsageError, match="file:///var/backups"):
        open_target(url)


def test_a_file_url_may_have_escapes(tmp_path: Path) -> None:
    target = open_target(f"file://{tmp_path}/a%20b%FF", create=True)
    target.put_if_absent("repository", b"x")
    assert os.fsencode(tmp_path) + b"/a b\xff" == os.fsencode(target.url)
    assert open_target(target.url).get("repository") == b"x"


def test_a_missing_directory_is_not_made_unless_asked_for(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="does not exist"):
        open_target(str(tmp_path / "missing"))
    assert not (tmp_path / "missing").exists()
    (tmp_path / "file").touch()
    for create in (False, True):
        with pytest.raises(TargetError):
            open_target(str(tmp_path / "file"), create=create)


def test_a_directory_that_was_exchanged_is_not_written_to(target: Target, directory: Path) -> None:
    target.put_if_absent(flat_name(), b"x")
    directory.rename(directory.with_name("away"))
    directory.mkdir()
    with pytest.raises(TargetError, match="mounted or unmounted"):
        target.put_if_absent(flat_name(), b"x")
    assert list(directory.iterdir()) == []


def test_a_directory_that_went_away_is_an_error_and_not_an_empty_repository(target: Target, directory: Path) -> None:
    target.put_if_absent(flat_name(), b"x")
    directory.rename(directory.with_name("away"))
    for prefix in ("", "points/", "packs/"):
        with pytest.raises(TargetError):
            list(target.list_prefix(prefix))
    with pytest.raises(TargetError):
        target.put_if_absent(flat_name(), b"x")


def test_a_removed_temporary_directory_is_made_anew(target: Target, directory: Path) -> None:
    target.put_if_absent(flat_name(), b"x")
    (directory / ".tmp").rmdir()
    assert target.put_if_absent(flat_name(), b"y")


def test_leftovers_of_dead_writers_are_swept_and_those_of_living_ones_are_not(directory: Path) -> None:
    writer = python(
        "import os,sys,trinity_snap.targets.local as l\n"
        "def stop(fd, data):\n    os.write(fd, b'half'); print('half', flush=True); sys.stdin.read()\n"
        "l.write_all = stop\n"
        "l.LocalTarget(sys.argv[1], create=True).put_if_absent('points/' + 'a' * 32, b'whole')\n",
        str(directory),
        stdin=subprocess.PIPE,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"half\n"
    assert len(temporaries(directory)) == 1
    LocalTarget(directory).put_if_absent(flat_name(), b"x")
    assert len(temporaries(directory)) == 1
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    LocalTarget(directory).put_if_absent(flat_name(), b"x")
    assert temporaries(directory) == []


def test_a_temporary_file_that_was_swept_too_early_is_written_again(
    target: Target, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeps = iter([True, True, False])
    real = local._link_or_rename

    def sweep_first(temporary: Path, final: Path) -> bool:
        if next(sweeps):
            temporary.unlink()
        return real(temporary, final)

    monkeypatch.setattr(local, "_link_or_rename", sweep_first)
    name = flat_name()
    assert target.put_if_absent(name, b"data") is True
    assert target.get(name) == b"data"


def test_filesystems_that_can_do_neither_are_refused_clearly(
    target: Target, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(code: int) -> object:
        def fail(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        return fail

    class NoRename:
        def renameat2(self, *_: object) -> int:
            ctypes.set_errno(errno.EINVAL)
            return -1

    monkeypatch.setattr(os, "link", refuse(errno.EOPNOTSUPP))
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: NoRename())
    with pytest.raises(TargetError, match="neither make hard links nor rename"):
        target.put_if_absent(flat_name(), b"x")
    assert temporaries(directory) == []
    assert list(target.list_prefix("")) == []


def test_a_write_past_the_page_cache_that_the_disk_refuses_is_made_through_it(
    target: Target, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some filesystems take the flag and then want another alignment; the first half may be written by then."""
    memory = mmap.mmap(-1, 2 << 20)
    memory[:] = os.urandom(len(memory))
    write = os.write
    refused = []

    def picky(descriptor: int, data: memoryview) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            if len(data) < len(memory):
                refused.append(len(data))
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return write(descriptor, data[: 1 << 20])
        return write(descriptor, data)

    name = pack_name(bytes(memory))
    monkeypatch.setattr(os, "write", picky)
    assert target.put_if_absent(name, memoryview(memory))
    assert target.get(name) == bytes(memory)
    assert refused == [1 << 20]


def test_a_disk_that_is_full_in_the_middle_of_a_large_object_keeps_nothing_of_it(
    target: Target, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = mmap.mmap(-1, 2 << 20)
    write = os.write

    def full(descriptor: int, data: memoryview) -> int:
        if len(data) < len(memory):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[: 1 << 20])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(TargetFull):
            target.put_if_absent(pack_name(bytes(memory)), memoryview(memory))
    assert temporaries(directory) == []
    assert list(target.list_prefix("")) == []


@pytest.mark.parametrize("step", ["write", "fsync", "link", "open", "mkdir"])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, TargetFull),
        (errno.EDQUOT, TargetFull),
        (errno.EACCES, TargetDenied),
        (errno.EROFS, TargetDenied),
        (errno.EIO, TargetError),
    ],
)
def test_an_error_at_any_step_leaves_nothing_and_the_put_can_be_repeated(
    target: Target,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    code: int,
    expected: type[TargetError],
) -> None:
    target.put_if_absent("repository", b"there before")

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    name = flat_name()
    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(expected) as caught:
            target.put_if_absent(name, b"data")
    assert type(caught.value) is expected
    assert os.strerror(code) in str(caught.value)
    assert temporaries(directory) == []
    assert name not in list(target.list_prefix(""))
    target.put_if_absent(name, b"data")
    assert target.get(name) == b"data"


def test_put_makes_contents_durable_before_the_name_and_the_name_before_it_returns(
    target: Target, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_fsync, real_link, real_mkdir = os.fsync, os.link, os.mkdir

    def place(path: str) -> str:
        relative = os.path.relpath(path, directory)
        return ".tmp/*" if relative.startswith(".tmp/") else relative

    def fsync(descriptor: int) -> None:
        events.append(f"fsync {place(os.readlink(f'/proc/self/fd/{descriptor}'))}")
        real_fsync(descriptor)

    def link(source: Path, destination: Path) -> None:
        events.append(f"link {place(str(destination))}")
        real_link(source, destination)

    def mkdir(path: Path, mode: int) -> None:
        events.append(f"mkdir {place(str(path))}")
        real_mkdir(path, mode)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(os, "mkdir", mkdir)
    name = pack_name(b"data")
    parent = os.path.dirname(name)
    target.put_if_absent(name, b"data")
    assert events == [
        "mkdir packs",
        "fsync .",
        f"mkdir {parent}",
        "fsync packs",
        "mkdir .tmp",
        "fsync .",
        "fsync .tmp/*",
        f"link {name}",
        f"fsync {parent}",
    ]
    events.clear()
    assert LocalTarget(directory).put_if_absent(name, b"data") is False
    assert events[-1] == f"fsync {parent}", "a name that somebody else has just made must be durable too"
    assert "fsync packs" in events


@pytest.mark.parametrize("round_", range(3))
def test_of_two_processes_exactly_one_puts(directory: Path, round_: int) -> None:
    LocalTarget(directory, create=True)
    code = (
        "import sys\nfrom trinity_snap.targets import open_target\n"
        "t = open_target(sys.argv[1]); print('ready', flush=True); sys.stdin.readline()\n"
        "data = sys.argv[2].encode() * 10000\n"
        "print(''.join('01'[t.put_if_absent('points/%032x' % n, data)] for n in range(50)))\n"
    )
    writers = [python(code, str(directory), letter, stdin=subprocess.PIPE) for letter in "ab"]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    outcomes = [writer.communicate(timeout=60)[0].strip() for writer in writers]
    target = LocalTarget(directory)
    for number in range(50):
        results = [chr(outcome[number]) for outcome in outcomes]
        assert sorted(results) == ["0", "1"]
        assert target.get(f"points/{number:032x}") == b"ab"[results.index("1") :][:1] * 10000


KILL_AT = """
import os, signal, sys
import trinity_snap.targets.local as local

def dies(function, after):
    def wrapped(*arguments, **options):
        result = function(*arguments, **options) if after else None
        os.kill(os.getpid(), signal.SIGKILL)
    return wrapped

target = local.LocalTarget(sys.argv[1])
target.put_if_absent("points/" + "0" * 32, b"the directories are there")
step, after = sys.argv[3], sys.argv[4] == "after"
if step == "half":
    local.write_all = dies(lambda descriptor, data: os.write(descriptor, data[: len(data) // 2]), True)
elif step == "write":
    local.write_all = dies(local.write_all, after)
else:
    setattr(os, step, dies(getattr(os, step), after))
target.put_if_absent(sys.argv[2], b"whole" * 100_000)
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["half", "write", "fsync", "link", "unlink", "close"])
def test_a_writer_killed_at_each_step_leaves_all_or_nothing(directory: Path, step: str, when: str) -> None:
    target = LocalTarget(directory, create=True)
    name = flat_name()
    writer = python(KILL_AT, str(directory), name, step, when)
    assert writer.wait(timeout=60) == -signal.SIGKILL
    writer.communicate()
    visible = name in list(target.list_prefix("points/"))
    assert visible == (
        (step, when)
        in {
            ("link", "after"),
            ("unlink", "before"),
            ("unlink", "after"),
            ("close", "before"),
            ("close", "after"),
        }
    )
    if visible:
        assert target.get(name) == b"whole" * 100_000
    assert target.put_if_absent(name, b"whole" * 100_000) is not visible
    target.put_if_absent(flat_name(), b"sweeps")
    assert temporaries(directory) == []
    assert target.get(name) == b"whole" * 100_000


def test_a_writer_killed_at_any_moment_leaves_nothing_half_written(directory: Path) -> None:
    LocalTarget(directory, create=True)
    code = (
        "import hashlib, sys\nfrom trinity_snap.targets import open_target\n"
        "t = open_target(sys.argv[1]); print('ready', flush=True)\n"
        "for n in range(int(sys.argv[2]), 10**9):\n"
        "    data = n.to_bytes(8, 'big') * 250_000\n"
        "    h = hashlib.sha256(data).hexdigest()\n"
        "    t.put_if_absent(f'packs/{h[:2]}/{h}', data)\n"
        "    print(n, flush=True)\n"
    )
    confirmed: list[int] = []
    for round_ in range(12):
        writer = python(code, str(directory), str(round_ * 1000))
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(0.003 + 0.011 * round_)  # the moment of death is what is varied
        writer.kill()
        output = writer.communicate()[0].split(b"\n")[:-1]
        confirmed += [int(line) for line in output]
        target = LocalTarget(directory)
        listed = set(target.list_prefix("packs/"))
        for name in listed:
            assert pack_name(target.get(name)) == name
            os.utime(directory / name)
        for number in (*confirmed, round_ * 1000 + len(output)):
            data = number.to_bytes(8, "big") * 250_000
            if number in confirmed:
                assert pack_name(data) in listed
            target.put_if_absent(pack_name(data), data)
            assert target.get(pack_name(data)) == data
        target.put_if_absent(flat_name(), b"sweeps")
        assert temporaries(directory) == []
        for name in target.list_prefix("packs/"):
            target.delete(name)
        confirmed.clear()


@pytest.fixture
def small_filesystem(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a filesystem")
    image, mounted = tmp_path / "image", tmp_path / "mounted"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    mounted.mkdir()
    subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


@pytest.mark.host
def test_a_full_disk_loses_nothing_and_leaves_nothing(small_filesystem: Path) -> None:
    target = open_target(str(small_filesystem / "target"), create=True)
    stored: dict[str, bytes] = {}

    def fill() -> None:
        while True:
            data = os.urandom(700_000)
            assert target.put_if_absent(pack_name(data), data)
            stored[pack_name(data)] = data

    with pytest.raises(TargetFull, match="Make room"):
        fill()
    assert len(stored) >= 3
    assert temporaries(small_filesystem / "target") == []
    assert sorted(target.list_prefix("")) == sorted(stored)
    subprocess.run(
        ["sh", "-c", "head -c 100000000 /dev/zero > filler"], cwd=small_filesystem, stderr=subprocess.DEVNULL
    )
    with pytest.raises(TargetFull):
        target.put_if_absent(flat_name(), os.urandom(50_000))
    assert {name: target.get(name) for name in stored} == stored
    assert temporaries(small_filesystem / "target") == []
    victim = next(iter(stored))
    target.delete(victim)
    assert target.put_if_absent(victim, stored[victim]) is True
    assert {name: target.get(name) for name in stored} == stored


def test_trying_a_directory_out_leaves_nothing(tmp_path: Path) -> None:
    target = LocalTarget(tmp_path / "target", create=True)
    target.try_out()
    assert [path for path in (tmp_path / "target").rglob("*") if path.is_file()] == []


@pytest.mark.host
def test_a_read_only_filesystem_denies_writing_and_allows_reading(small_filesystem: Path) -> None:
    target = LocalTarget(small_filesystem, create=True)
    name = flat_name()
    target.put_if_absent(name, b"data")
    subprocess.run(["mount", "-o", "remount,ro", str(small_filesystem)], check=True)
    with pytest.raises(TargetDenied):
        target.put_if_absent(flat_name(), b"x")
    with pytest.raises(TargetDenied):
        target.delete(name)
    with pytest.raises(TargetDenied, match="Nothing can be stored"):
        target.try_out()
    assert open_target(str(small_filesystem)).get(name) == b"data"
    assert list(target.list_prefix("")) == [name]


@pytest.mark.host
def test_without_permission_everything_is_denied_with_a_sentence() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    code = (
        "import os, sys\nfrom trinity_snap.targets import open_target\n"
        "t = open_target(sys.argv[1]); os.setresuid(65534, 65534, 65534); n = sys.argv[2]\n"
        "for do in (lambda: t.get(n), lambda: t.stat(n), lambda: t.delete(n),\n"
        "           lambda: list(t.list_prefix('')), lambda: t.put_if_absent('points/' + 'e' * 32, b'x')):\n"
        "    try:\n        do(); print('allowed')\n"
        "    except Exception as e:\n        print(type(e).__name__)\n"
    )
    with tempfile.TemporaryDirectory() as outside:
        os.chmod(outside, 0o711)
        target = open_target(f"{outside}/target", create=True)
        name = flat_name()
        target.put_if_absent(name, b"data")
        output, errors = python(code, target.url, name).communicate(timeout=60)
        assert output.split() == [b"TargetDenied"] * 5, errors
        assert target.get(name) == b"data"
