#!/usr/bin/env python3
"""Write the tar of a root file system for demo_agent.py to standard output, for `docker import`.

It is made of the machine's own /usr/bin/python3, so no registry is needed.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

PYTHON = "/usr/bin/python3"
QUESTION = """
import json, os, sys, sysconfig
places = os.path.realpath(sys.executable), sysconfig.get_path("stdlib"), "%d.%d" % sys.version_info[:2]
print(json.dumps(places))
"""
HOME = "home/developer"
DIRECTORIES = ("tmp", "etc", "home", HOME, f"{HOME}/public", f"{HOME}/shared-out", f"{HOME}/shared-in")
OWNER = 1000
USERS = b"root:x:0:0::/:/bin/false\ndeveloper:x:1000:1000::/home/developer:/bin/false\n"
LEFT_OUT = {
    "__pycache__",
    "dist-packages",
    "site-packages",
    "test",
    "idlelib",
    "tkinter",
    "ensurepip",
    "lib2to3",
}


def main() -> int:
    """Write the tar."""
    answer = subprocess.run([PYTHON, "-c", QUESTION], check=True, capture_output=True).stdout
    binary, standard_library, version = json.loads(answer)
    modules = [path for path in Path(standard_library).rglob("*") if not LEFT_OUT & set(path.parts)]
    libraries = _shared_libraries([Path(binary), *(path for path in modules if path.suffix == ".so")])
    files = {path: path for path in (*libraries, *modules) if not path.is_dir()}
    files[Path(PYTHON).with_name(f"python{version}")] = Path(binary)
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.GNU_FORMAT) as tar:
        for directory in (*DIRECTORIES, *sorted({str(up)[1:] for path in files for up in path.parents[:-1]})):
            _directory(tar, directory)
        _file(tar, "etc/passwd", USERS)
        _file(tar, "agent.py", (Path(__file__).parent / "demo_agent.py").read_bytes())
        for name, path in files.items():
            tar.add(path.resolve(), arcname=str(name)[1:])
        link = tarfile.TarInfo(PYTHON[1:])
        link.type, link.linkname = tarfile.SYMTYPE, f"python{version}"
        tar.addfile(link)
    return 0


def _shared_libraries(binaries: list[Path]) -> set[Path]:
    listing = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False).stdout
    return {Path(name) for name in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", listing, re.MULTILINE)}


def _directory(tar: tarfile.TarFile, name: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
    if name.startswith(HOME):
        entry.uid = entry.gid = OWNER
    tar.addfile(entry)


def _file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o644
    tar.addfile(entry, io.BytesIO(data))


if __name__ == "__main__":
    sys.exit(main())
