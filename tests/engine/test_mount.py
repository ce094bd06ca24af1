"""A recovery point as a directory: everything is there as it was, and only what is read is fetched."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engine.test_monitor_command import Machine
from tests.unit.test_cli_json import assert_same_shape, documented
from tests.unit.test_cli_repository import Host, host, make_host, repository

__all__ = ["host", "make_host", "repository"]  # fixtures


def why_not() -> str:
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "there is no /dev/fuse that may be used"
    if importlib.util.find_spec("mfusepy") is None:
        return "the extra `mount` is not installed"
    done = subprocess.run([sys.executable, "-c", "import mfusepy"], capture_output=True, check=False)
    return "the system has no libfuse" if done.returncode else ""


pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@contextmanager
def mounted(host: Host, point: str, ends: int = signal.SIGTERM) -> Iterator[Path]:
    """The point at a directory; afterwards it is unmounted, and the command has ended well."""
    place = host.home / "mounted"
    place.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "trinity_snap", "mount", point, str(place), "--json", "--policy", str(host.policy)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        text = ""
        while not text.endswith("}\n"):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            text += line
        assert_same_shape(json.loads(text), documented("mount"))
        yield place
    finally:
        if ends:
            process.send_signal(ends)
        else:
            subprocess.run(["umount", place], check=True)
        out, errors = process.communicate(timeout=30)
        assert process.returncode == 0, out + errors
        assert not os.path.ismount(place)


def described(root: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for directory, names, files in os.walk(root):
        for name in [".", *names, *files]:
            path = Path(directory, name)
            status = path.lstat()
            what: object = None
            if path.is_symlink():
                what = os.readlink(path)
            elif path.is_file():
                what = path.read_bytes()
            attributes = (
                {one: os.getxattr(path, one) for one in os.listxattr(path) if one.startswith("user.")} if what else {}
            )
            size = status.st_size if what is not None else 0
            key = os.fspath(path.relative_to(root))
            found[key] = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, size, what, attributes)
    return found


def test_everything_is_there_as_it_was(host: Host) -> None:
    chance = random.Random(7)
    host.back_up()
    tree = host.home / "tree-web"
    for name in ("a", "a.b", "a-b", "a/b", "a/b/c", "ab", "a\x01", "é"):
        (tree / name).mkdir(parents=True, exist_ok=True)
        (tree / name / "file").write_bytes(chance.randbytes(200))
        for number in range(200):
            (tree / name / f"{number:03d}{'n' * 80}").touch()
    os.chown(tree / "a/file", 1000, 1001)
    os.link(tree / "a/file", tree / "b-link")
    os.setxattr(tree / "ab/file", "user.colour", b"blue")
    (tree / "big").write_bytes(chance.randbytes(5_000_000))
    with (tree / "sparse").open("wb") as sparse:
        for offset in (0, 3_000_000, 9_000_000):
            sparse.seek(offset)
            sparse.write(chance.randbytes(1_000_000))
        sparse.truncate(12_345_678)
    os.truncate(tree / "sparse", 12_345_678)
    (tree / "hole").touch()
    os.truncate(tree / "hole", 1_000_000)
    os.mkfifo(tree / "fifo", 0o640)
    point = host.back_up()
    with mounted(host, point) as place:
        (volume,) = place.iterdir()
        assert described(volume) == described(tree)
        with (volume / "sparse").open("rb") as one, (tree / "sparse").open("rb") as other:
            for _ in range(200):
                offset = chance.randrange(12_500_000)
                one.seek(offset), other.seek(offset)
                length = chance.randrange(1, 300_000)
                assert one.read(length) == other.read(length)
        with pytest.raises(OSError, match="Read-only"):
            (volume / "new").touch()
        with pytest.raises(FileNotFoundError):
            (volume / "a" / "nothing").stat()
        with pytest.raises(FileNotFoundError):
            (place / "nothing").stat()
    with mounted(host, "web", ends=0) as place:
        assert len(list(place.iterdir())) == 1


def test_many_readers_at_once_read_what_is_there(host: Host) -> None:
    chance = random.Random(3)
    tree = host.home / "tree-web"
    tree.mkdir()
    content = chance.randbytes(8 << 20)
    (tree / "big").write_bytes(content)
    with mounted(host, host.back_up()) as place, ThreadPoolExecutor(8) as pool:
        (path,) = place.glob("*/big")

        def look(seed: int) -> bool:
            own = random.Random(seed)
            with path.open("rb", buffering=0) as file:
                for _ in range(30):
                    offset = own.randrange(len(content))
                    if os.pread(file.fileno(), 70_000, offset) != content[offset : offset + 70_000]:
                        return False
            return True

        assert all(pool.map(look, range(16)))


def test_only_what_is_read_is_fetched_and_damage_is_an_error_of_that_file(host: Host, repository: str) -> None:
    tree = host.home / "tree-web"
    tree.mkdir()
    (tree / "first").write_bytes(os.urandom(3 << 20))
    point = host.back_up()
    packs = {path for path in Path(repository, "packs").rglob("*") if path.is_file()}
    (tree / "second").write_bytes(os.urandom(3 << 20))
    point = host.back_up()
    broken = max(packs, key=lambda path: path.stat().st_size)
    with mounted(host, point) as place:
        (volume,) = place.iterdir()
        (volume / "second").stat()
        data = bytearray(broken.read_bytes())
        for at in range(5000, len(data) - 5000, 1000):
            data[at] ^= 1
        broken.chmod(0o600)
        broken.write_bytes(data)
        assert sorted(path.name for path in volume.iterdir()) == sorted(path.name for path in tree.iterdir())
        assert (volume / "second").read_bytes() == (tree / "second").read_bytes()
        with pytest.raises(OSError, match="Input/output"):
            (volume / "first").read_bytes()


def test_paths_of_the_platform_have_names_of_one_part(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.run("init")
    machine.run("backup")
    host = Host.__new__(Host)
    host.home, host.policy = machine.home, machine.policy
    with mounted(host, "platform") as place:
        (volume,) = place.iterdir()
        assert volume.name == os.fspath(machine.data).strip("/").replace("/", "_")
        assert (volume / "file").read_bytes() == (machine.data / "file").read_bytes()


def test_a_place_that_is_not_empty_is_refused(host: Host) -> None:
    point = host.back_up()
    assert "no empty directory" in host.text("mount", point, str(host.home), code=2)
    assert "no empty directory" in host.text("mount", point, str(host.home / "missing"), code=2)
    assert "There is no recovery point" in host.text("mount", "nobody", str(host.home / "missing"), code=2)


def test_a_large_tree_is_walked_quickly(host: Host) -> None:
    tree = host.home / "tree-web"
    for number in range(50):
        (tree / f"directory-{number:03d}").mkdir(parents=True)
        for other in range(200):
            (tree / f"directory-{number:03d}" / f"some-file-{other:04d}.txt").touch()
    with mounted(host, host.back_up()) as place:
        least = 60.0
        for _ in range(3):
            began = time.monotonic()
            done = subprocess.run(["find", place, "-name", "some-file-*"], capture_output=True, check=True)
            least = min(least, time.monotonic() - began)
        assert done.stdout.count(b"\n") == 10_000
        assert least < 5  # 100,000 may take ten seconds
