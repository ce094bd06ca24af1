"""Collect, on the control node, the wheels that a host needs, as one archive.

Prints {"key": ..., "archive": ...}. The key stands for the package's source and the host's platform; an
archive that exists for a key is used again. Nothing is collected with --key-only, nor when the host has this
key already; then the archive may not exist.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path


def main() -> int:
    """Print the key and the archive for the platform on the command line."""
    arguments = _arguments()
    source = Path(arguments.package)
    key = _key(arguments, source)
    archive = Path(arguments.cache) / f"wheels-{key}.tar"
    if arguments.collect and key != arguments.installed:
        archive.parent.mkdir(parents=True, exist_ok=True)
        with open(archive.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not archive.exists():
                _collect(arguments, source, archive)
    print(json.dumps({"key": key, "archive": str(archive)}))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--package", required=True, help="a checkout, a wheel, or a requirement")
    parser.add_argument("--wheelhouse", default="", help="a directory of wheels, instead of asking pip")
    parser.add_argument("--cache", required=True)
    parser.add_argument("--version", required=True, help="the host's Python, such as 3.11")
    parser.add_argument("--machine", required=True, help="the host's machine, such as x86_64")
    parser.add_argument("--libc", required=True, help="the host's C library, such as 'glibc 2.36'")
    parser.add_argument("--installed", default="", help="the key of what the host has")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--collect", action="store_true", help="make the archive if there is none")
    what.add_argument("--key-only", action="store_true", help="change nothing")
    return parser.parse_args()


def _key(arguments: argparse.Namespace, source: Path) -> str:
    digest = hashlib.sha256()
    for part in (arguments.version, arguments.machine, arguments.libc):
        digest.update(part.encode() + b"\0")
    if arguments.wheelhouse:
        files = sorted(Path(arguments.wheelhouse).glob("*.whl"))
    elif source.is_dir():
        files = [source / "pyproject.toml", *sorted((source / "trinity_snap").rglob("*.py"))]
    elif source.is_file():
        files = [source]
    else:
        files = []
        digest.update(arguments.package.encode())
    for file in files:
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _collect(arguments: argparse.Namespace, source: Path, archive: Path) -> None:
    with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
        if arguments.wheelhouse:
            wheels = Path(arguments.wheelhouse)
            requirement = "trinity-snap"
        else:
            wheels = Path(scratch)
            requirement = _download(arguments, source, wheels)
        listing = Path(scratch) / "requirement.txt"
        listing.write_text(requirement + "\n")
        names = sorted(wheels.glob("*.whl"))
        for needed in ("trinity_snap-", "pip-"):
            if not any(wheel.name.startswith(needed) for wheel in names):
                raise SystemExit(f"There is no wheel {needed}*.whl in {wheels}.")
        finished = Path(scratch) / "wheels.tar"
        with tarfile.open(finished, "w") as tar:
            for file in (listing, *names):
                tar.add(file, arcname=file.name, recursive=False)
        os.replace(finished, archive)


def _download(arguments: argparse.Namespace, source: Path, wheels: Path) -> str:
    if source.exists():
        _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(source.resolve()))
        built = next(wheels.glob("trinity_snap-*.whl"))
        package, requirement = str(built), "trinity-snap==" + built.name.split("-")[1]
    else:
        package = requirement = arguments.package
    platform = ["--only-binary=:all:", "--implementation", "cp", "--python-version", arguments.version]
    for tag in platform_tags(arguments.machine, arguments.libc):
        platform += ["--platform", tag]
    _pip("download", "--dest", str(wheels), *platform, package, "pip")
    return requirement


def platform_tags(machine: str, libc: str) -> list[str]:
    """Give the wheel platforms that run on a host, best first (PEP 600 and PEP 656)."""
    name, version = (*libc.split(" ", 1), "")[:2]
    major, minor = (*version.split(".", 1), "")[:2]
    if name == "glibc" and major == "2" and minor.isdigit():
        tags = [f"manylinux_2_{number}_{machine}" for number in range(int(minor), 16, -1)]
        return [*tags, f"manylinux2014_{machine}", f"linux_{machine}"]
    return [f"musllinux_1_{number}_{machine}" for number in (2, 1)] + [f"linux_{machine}"]


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    finished = subprocess.run(command, stdout=sys.stderr, check=False)
    if finished.returncode:
        raise SystemExit(f"`pip {arguments[0]}` failed on the control node; its output is above.")


if __name__ == "__main__":
    sys.exit(main())
