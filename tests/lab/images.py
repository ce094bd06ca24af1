"""Images made from this machine, since there is no registry: busybox, and the system's Python with SQLite."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from pathlib import Path
from typing import BinaryIO

BUSYBOX = "lab-busybox"
PYTHON = "lab-python"

_APPLETS = (
    "sh", "sleep", "cat", "dd", "mkdir", "touch", "true", "sync", "echo", "ls", "rm", "mv", "seq", "date", "chmod", "httpd",
    "wget",
)  # fmt: skip
_DIRECTORIES = ("bin", "dev", "etc", "home", "home/developer", "lib", "proc", "sys", "tmp", "usr", "usr/bin")
_INTERPRETER = Path("/usr/bin/python3")
_LEFT_OUT = re.compile(r"/(test|tests|idlelib|tkinter|ensurepip|lib2to3|distutils|__pycache__|dist-packages)(/|$)")


def busybox_rootfs(file: BinaryIO) -> None:
    """Write a root filesystem with nothing but busybox, as a tar archive."""
    with tarfile.open(fileobj=file, mode="w") as archive:
        _directories(archive)
        archive.add("/usr/bin/busybox", "bin/busybox", recursive=False)
        for applet in _APPLETS:
            _link(archive, f"bin/{applet}", "busybox")


def python_rootfs(file: BinaryIO) -> None:
    """Write a root filesystem with busybox and the system's Python, its standard library and SQLite."""
    version = subprocess.run(
        [str(_INTERPRETER), "-c", "import sys; print('python%d.%d' % sys.version_info[:2])"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    library = Path("/usr/lib") / version
    needed = {_INTERPRETER.resolve(), *library.joinpath("lib-dynload").glob("_sqlite3*.so")}
    libraries = {path for binary in needed for path in _shared_libraries(binary)}
    with tarfile.open(fileobj=file, mode="w") as archive:
        _directories(archive)
        archive.add("/usr/bin/busybox", "bin/busybox", recursive=False)
        for applet in _APPLETS:
            _link(archive, f"bin/{applet}", "busybox")
        archive.add(_INTERPRETER.resolve(), "usr/bin/python3", recursive=False)
        _link(archive, "bin/python3", "../usr/bin/python3")
        parents = {str(parent).lstrip("/") for path in (*libraries, library) for parent in path.parents}
        for name in sorted(parents - set(_DIRECTORIES) - {""}):
            _directory(archive, name)  # or only root could reach what is in it
        for path in sorted(libraries):
            with path.open("rb") as content:
                info = archive.gettarinfo(arcname=str(path).lstrip("/"), fileobj=content)
                info.name = str(path).lstrip("/")
                archive.addfile(info, content)
        archive.add(library, str(library).lstrip("/"), filter=_wanted)


def _wanted(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if _LEFT_OUT.search("/" + info.name) else info


def _shared_libraries(binary: Path) -> set[Path]:
    output = subprocess.run(["ldd", str(binary)], check=True, capture_output=True, text=True).stdout
    return {Path(path) for path in re.findall(r"(/\S+) \(0x", output)}


def _directories(archive: tarfile.TarFile) -> None:
    for name in _DIRECTORIES:
        _directory(archive, name)
    passwd = tarfile.TarInfo("etc/passwd")
    content = b"root:x:0:0::/:/bin/sh\ndeveloper:x:1000:1000::/home/developer:/bin/sh\n"
    passwd.size = len(content)
    archive.addfile(passwd, io.BytesIO(content))


def _directory(archive: tarfile.TarFile, name: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    archive.addfile(info)


def _link(archive: tarfile.TarFile, name: str, target: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    archive.addfile(info)
